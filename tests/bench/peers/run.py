"""One system from start to end: warm-up, no-ops end to end, latencies one by one, a worker killed with -9."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.bench.peers.processes import DIES_WITH_RUNNER, ROOT, cpu_s, rss_mb
from tests.bench.peers.systems import System

WARM = 300
DRIVER_S_MAX = 30.0


class Driver:
    """The client of a system as a process of its own: a command, an answer."""

    def __init__(self, system: System) -> None:
        self._log = (system.folder / "driver.log").open("ab")
        self._process = subprocess.Popen(
            [*DIES_WITH_RUNNER, system.interpreter(), "-m", "tests.bench.peers.driving", system.module],
            cwd=ROOT,
            env=os.environ | system.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def __call__(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Raises RuntimeError where the driver ended over it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do} | arguments) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            said = Path(self._log.name).read_text()[-1500:]
            raise RuntimeError(f"the driver ended:\n{said}")
        found: dict[str, Any] = json.loads(line)
        return found


@dataclass
class Row:
    """What one system came to. `redelivered_s` is None where nothing came back within `redelivery_s_max`."""

    name: str
    durability: str
    results: str
    tasks: int
    ended: int
    per_s: float
    enqueue_per_s: float
    cpu_ms: float
    p50_ms: float
    p99_ms: float
    rss_mb: float
    lag_ms: float | None
    redelivered_s: float | None = None
    redelivery_s_max: float = 0.0


def measured(system: System, driver: Driver, tasks: int, ones: int) -> Row:
    """The figures but redelivery. Processor time is that of servers and workers, from the first submit to the end."""
    driver("flood", count=WARM)
    before_s = cpu_s(system.pids)
    flood = driver("flood", count=tasks)
    spent_s = cpu_s(system.pids) - before_s
    resident = rss_mb(system.pids)
    ones_ms = driver("latency", count=ones)
    return Row(
        name=system.name,
        durability=system.durability,
        results=system.results,
        tasks=tasks,
        ended=flood["ended"],
        per_s=flood["ended"] / flood["seconds"],
        enqueue_per_s=tasks / flood["enqueued_s"],
        cpu_ms=1000 * spent_s / max(1, flood["ended"]),
        p50_ms=ones_ms["p50_ms"],
        p99_ms=ones_ms["p99_ms"],
        rss_mb=resident,
        lag_ms=flood["lag_ms"],
    )


def redelivered(system: System, driver: Driver, within_s: float) -> float | None:
    """Seconds from the SIGKILL until the task that ran runs again, with a new worker started at once."""
    driver("hold")
    killed_ns = time.monotonic_ns()
    system.kill()
    system.work()
    at_ns = driver("again", within_s=within_s)["at_ns"]
    return None if at_ns is None else (at_ns - killed_ns) / 1e9
