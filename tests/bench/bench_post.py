"""POST /api/tasks to its commit, 64 connections, fast profile, beside a bare Sanic handler that awaits js.publish.

Rounds of the two take turns in one run. The tasks need a capability that nobody has, so that what is measured is the
way of a command to its commit; recorder, projector and scheduler run beside it as always, and their lag is printed.

Beside the requests a second stands the processor time that a request took while the load was on: of the program's loop,
of its other threads, and of its broker. On a machine that others use too it says more than the ratio.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import psutil
import uvloop

from tests.bench.http_load import load, post

FAST = "--fast" in sys.argv
ROUNDS, REQUESTS, CONNECTIONS = (3, 3000, 64) if FAST else (5, 8000, 64)
BODY = json.dumps(
    {"type": "bench", "executor": "command", "parameters": {"argv": ["true"]}, "requires": ["nobody"]}
).encode()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def start_program(root: Path, profile: str) -> subprocess.Popen[str]:
    environment = os.environ | {
        "HIVEBUS_DATA_DIR": str(root),
        "HIVEBUS_API_PORT": "0",
        "HIVEBUS_UI_PORT": "0",
        "HIVEBUS_TOOLS_PORT": "0",
        "HIVEBUS_METRICS_PORT": "0",
        "HIVEBUS_PROFILE": profile,
        "HIVEBUS_LOG_LEVEL": "error",
    }
    program = subprocess.Popen(
        [sys.executable, "-m", "entrypoints", "up"], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    assert program.stdout.readline(), "the program did not start"
    return program


async def measure() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        bare_port = free_port()
        bare = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.bare_sanic", str(bare_port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert bare.stdout is not None
        assert bare.stdout.readline().strip() == "ready"
        program = start_program(root, "fast")
        try:
            return await _rounds(root, bare_port, Clocks(bare.pid), Clocks(program.pid))
        finally:
            program.terminate()
            bare.communicate()
            program.wait(20)


class Clocks:
    """The processor time of a program, and of the broker that it started."""

    def __init__(self, pid: int) -> None:
        self._program = psutil.Process(pid)
        self._broker = next(child for child in self._program.children() if "nats" in child.name())
        self._began = self._read()
        self._spent: list[dict[str, float]] = []

    def _read(self) -> dict[str, float]:
        threads = {thread.id: thread.user_time + thread.system_time for thread in self._program.threads()}
        loop, broker = threads.pop(self._program.pid), self._broker.cpu_times()
        return {"loop": loop, "threads": sum(threads.values()), "broker": broker.user + broker.system}

    def begin(self) -> None:
        """A load begins."""
        self._began = self._read()

    def end(self) -> None:
        """It has ended."""
        self._spent.append({name: 1e6 * (now - self._began[name]) / REQUESTS for name, now in self._read().items()})

    @property
    def us_per_request(self) -> dict[str, int]:
        """Microseconds, the median of the rounds."""
        return {name: round(statistics.median(spent[name] for spent in self._spent)) for name in self._spent[0]}


async def _rounds(root: Path, bare_port: int, bare_clocks: Clocks, clocks: Clocks) -> dict[str, object]:
    url = json.loads((root / "connection.json").read_text())["url"]
    port = int(url.rpartition(":")[2])
    key = (root / "admin.key").read_text().strip()
    ours, yardstick = [], []
    for _ in range(ROUNDS):
        bare_request = post("/api/tasks", bare_port, BODY, {})
        bare_clocks.begin()
        seconds, statuses, _times = await load(
            "127.0.0.1", bare_port, bare_request, requests=REQUESTS, connections=CONNECTIONS
        )
        assert statuses == {202: REQUESTS}, statuses
        bare_clocks.end()
        yardstick.append(REQUESTS / seconds)
        request = post("/api/tasks", port, BODY, {"Authorization": f"Bearer {key}"})
        clocks.begin()
        seconds, statuses, times = await load("127.0.0.1", port, request, requests=REQUESTS, connections=CONNECTIONS)
        assert statuses == {202: REQUESTS}, statuses
        clocks.end()
        ours.append(REQUESTS / seconds)
        lag = _lag(url)
        print(
            f"  bare {yardstick[-1]:8.0f}/s   ours {ours[-1]:8.0f}/s   ratio {ours[-1] / yardstick[-1]:.2f}"
            f"   p50 {times[len(times) // 2] * 1000:.1f} ms   p99 {times[-len(times) // 100] * 1000:.1f} ms"
            f"   views behind by {lag}",
            file=sys.stderr,
        )
        await _caught_up(url)
    ratios = [a / b for a, b in zip(ours, yardstick, strict=True)]
    return {
        "bare_per_s": round(statistics.median(yardstick)),
        "ours_per_s": round(statistics.median(ours)),
        "ratio": round(statistics.median(ratios), 2),
        "reach": 0.6,
        "bare_cpu_us": bare_clocks.us_per_request,
        "ours_cpu_us": clocks.us_per_request,
    }


def _status(url: str) -> dict[str, dict[str, int]]:
    with urllib.request.urlopen(f"{url}/api/status") as answer:
        return json.load(answer)


def _lag(url: str) -> int:
    status = _status(url)
    return status["metrics"]["live_tasks"] - status["metrics"]["queued_tasks"]


async def _caught_up(url: str) -> None:
    async with asyncio.timeout(120):
        while _lag(url) > 0:
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    print(json.dumps({"post": uvloop.run(measure())}))
