"""Backups: one file with everything that a system needs to be itself again, taken beside a running program."""
