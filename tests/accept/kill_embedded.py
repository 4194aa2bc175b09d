"""10,000 tasks with SIGKILL of program, broker and agent hosts, on one machine as `hivebus up` makes it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import psutil

from tests.accept.hosts import Host
from tests.accept.killing import survive
from tests.accept.program import Program
from tests.accept.script import Figures, Options, main


def run(options: Options) -> Figures:
    """The program restarts its broker by itself; program and hosts are started again by the script."""
    with tempfile.TemporaryDirectory() as folder, Program(Path(folder) / "data") as program:
        hosts = [Host(program.root, name) for name in ("far-1", "far-2")]
        try:
            for host in hosts:
                host.start()
            for host in hosts:
                host.begun(program.client())
            return survive(options, program, hosts, {"broker": lambda: _kill_broker(program)})
        finally:
            for host in hosts:
                host.kill()


def _kill_broker(program: Program) -> None:
    for process in psutil.Process(program.pid).children():
        if process.name() == "nats-server":
            process.kill()


if __name__ == "__main__":
    main("kill-embedded", run)
