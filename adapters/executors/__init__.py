"""Executors: what really runs a task, one file each, and the processes around them."""
