"""`make bench-peers`: no-op tasks through us and through other queues, side by side in one run.

Each peer lives in a virtual environment of its own, so `driving`, `probe` and the modules of the peers import nothing
but the standard library and that peer.
"""
