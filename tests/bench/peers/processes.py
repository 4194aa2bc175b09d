"""Processes of a system under test: started, measured, killed and ended, each with everything it started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[3]
END_S_MAX = 10.0
# Of util-linux. A thread that starts programs lives until they have ended, for it is the thread's death that counts.
DIES_WITH_RUNNER = ("setpriv", "--pdeathsig", "KILL", "--")


class Process:
    """One program with a log file. It dies with the runner, also when that is killed."""

    def __init__(self, argv: Sequence[str | Path], log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*DIES_WITH_RUNNER, *argv],
                cwd=ROOT,
                env=os.environ | dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, to it and all that it started."""
        family = family_of([self.pid])
        for member in family:
            _send(member, signal.SIGKILL)
        self._process.wait()
        psutil.wait_procs(family, timeout=END_S_MAX)

    def end(self) -> None:
        """SIGTERM, then SIGKILL for what is left."""
        family = family_of([self.pid])
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(END_S_MAX)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for member in family:
            _send(member, signal.SIGKILL)


def family_of(pids: Sequence[int]) -> list[psutil.Process]:
    """These processes and everything that they started, each once."""
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        try:
            own = psutil.Process(pid)
            found |= {process.pid: process for process in (own, *own.children(recursive=True))}
        except psutil.NoSuchProcess:
            continue
    return list(found.values())


def cpu_s(pids: Sequence[int]) -> float:
    """User and system time of these processes and of everything that they started, in seconds."""
    total = 0.0
    for process in family_of(pids):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def rss_mb(pids: Sequence[int]) -> float:
    """Resident memory of all of them added up, in MB. What processes share counts in each."""
    total = 0
    for process in family_of(pids):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
