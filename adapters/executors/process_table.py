"""The machine's process table: when a process began, what runs beneath it, whose environment carries a mark."""

from __future__ import annotations

import os
import signal
import sys

import psutil

from adapters.executors.warden_child import marked


def create_time(pid: int) -> float | None:
    """When a process began, in Unix seconds; None if it is gone. With the pid it names one process for ever."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def terminate_inside(pid: int) -> None:
    """SIGTERM to what runs inside a sandbox: everything below the wrapper and its namespace's first process."""
    try:
        inside = [child for first in psutil.Process(pid).children() for child in first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in inside:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue


def kill_marked(variable: str, value: str, *, exact: bool) -> int:
    """SIGKILL every process whose environment holds the variable with (or: beginning with) the value; how many."""
    killed = 0
    if sys.platform == "linux":
        pids = list(marked(os.fsencode(f"{variable}={value}" + ("\0" if exact else ""))))
    else:
        pids = _marked_by_psutil(variable, value, exact)
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        killed += 1
    return killed


def _marked_by_psutil(variable: str, value: str, exact: bool) -> list[int]:
    pids = []
    for process in psutil.process_iter(["environ"]):
        found = (process.info["environ"] or {}).get(variable)
        matches = found is not None and (found == value if exact else found.startswith(value))
        if matches and process.pid != os.getpid():
            pids.append(process.pid)
    return pids
