"""CPU of the whole program for each frame that reaches a client, beside a loop that writes a shared frame.

The same clients in one process of their own, the same number and size of frames, rounds that take turns in one run. The
program makes what it tells: in each round tasks are submitted, recorded, projected and scheduled as always.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from tests.accept.program import Program
from tests.bench.bench_post import BODY

FAST = "--fast" in sys.argv
CLIENTS, SECONDS, ROUNDS = (1000, 5, 2) if FAST else (1000, 15, 4)
COMMITS_PER_S = 20.0
REACH = 1.3


class Watched:
    """The process of the clients, which count and look at nothing."""

    def __init__(self, api: str, place: str, key: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.accept.socket_clients", api, place, key, "1", "count"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.say(f"connect {CLIENTS}")

    def say(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate()


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def submitting(program: Program, stop: threading.Event) -> None:
    """Twenty commits a second, each told in a frame of its own."""
    client = program.client()
    while not stop.wait(1 / COMMITS_PER_S):
        assert client.request("POST", "/api/tasks", BODY).status == 202


def ours(program: Program, watched: Watched) -> tuple[float, float, float]:
    """CPU seconds, frames, and bytes of a frame of a round."""
    stop = threading.Event()
    thread = threading.Thread(target=submitting, args=(program, stop))
    process = psutil.Process(program.pid)
    thread.start()
    time.sleep(1)
    watched.say("count")
    before = cpu_s(process)
    time.sleep(SECONDS)
    counted, used = watched.say("count"), cpu_s(process) - before
    stop.set()
    thread.join()
    return used, counted["frames"], counted["bytes"] / counted["frames"]


def bare(server: subprocess.Popen[str], watched: Watched, size: float, per_s: float) -> tuple[float, float]:
    """The same for the loop."""
    assert server.stdin is not None
    assert server.stdout is not None
    process = psutil.Process(server.pid)
    watched.say("count")
    before = cpu_s(process)
    server.stdin.write(f"{round(size)} {per_s} {SECONDS}\n")
    server.stdin.flush()
    assert server.stdout.readline() == "done\n"
    used = cpu_s(process) - before
    time.sleep(0.5)
    return used, watched.say("count")["frames"]


def measure() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, Program(Path(folder) / "data", HIVEBUS_PROFILE="fast") as program:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.bare_frames"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        address = f"127.0.0.1:{server.stdout.readline().strip()}"
        url = program.connection["url"]
        of_ours = Watched(url, program.connection["ui_url"].removeprefix("http://"), program.key)
        of_bare = Watched(url, address, "none")
        try:
            return _rounds(program, server, of_ours, of_bare)
        finally:
            of_ours.close()
            of_bare.close()
            server.communicate()


def _rounds(program: Program, server: subprocess.Popen[str], of_ours: Watched, of_bare: Watched) -> dict[str, Any]:
    costs: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        used, frames, size = ours(program, of_ours)
        bare_used, bare_frames = bare(server, of_bare, size, frames / CLIENTS / SECONDS)
        costs.append((used / frames * 1e6, bare_used / bare_frames * 1e6))
        print(
            f"  bare {costs[-1][1]:5.2f} us a frame ({bare_frames:.0f})   ours {costs[-1][0]:5.2f} us ({frames:.0f} of"
            f" {size:.0f} bytes)   ratio {costs[-1][0] / costs[-1][1]:.2f}",
            file=sys.stderr,
        )
    return {
        "clients": CLIENTS,
        "bare_us": round(statistics.median(cost for _, cost in costs), 2),
        "ours_us": round(statistics.median(cost for cost, _ in costs), 2),
        "ratio": round(statistics.median(ours_us / bare_us for ours_us, bare_us in costs), 2),
        "reach": REACH,
    }


if __name__ == "__main__":
    print(json.dumps({"frames": measure()}))
