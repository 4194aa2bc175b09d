"""The command line: a client of the REST API, and the two commands that work on this machine (up, verify).

Results go to stdout, everything else to stderr. Exit codes: 0 all good, 1 some not, 2 usage, 3 unreachable, 4 still
waiting, 130 interrupted.
"""
