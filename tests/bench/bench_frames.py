"""CPU of the whole program for each frame that reaches a client, beside a loop that writes a shared frame.

The same clients in one process of their own, the same number and size of frames, rounds that take turns in one run. The
program makes what it tells: tasks are submitted, recorded, projected and scheduled as always. What that costs without a
client is measured in the same round and taken off, commit by commit: the loop makes nothing. The whole is printed too.
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
from msgspec import Struct

from tests.accept.program import Client, Program
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


class Round(Struct):
    """CPU seconds of the program, commits that it made meanwhile, frames that reached clients, and their bytes."""

    cpu_s: float
    commits: int
    frames: int = 0
    bytes: int = 0


def submitting(program: Program, stop: threading.Event) -> None:
    """Twenty commits a second, each told in a frame of its own."""
    client = program.client()
    while not stop.wait(1 / COMMITS_PER_S):
        assert client.request("POST", "/api/tasks", BODY).status == 202


def ours(program: Program, watched: Watched | None) -> Round:
    """A round of the program; without clients it does all that it does with them, but tell."""
    stop = threading.Event()
    thread = threading.Thread(target=submitting, args=(program, stop))
    process, client = psutil.Process(program.pid), program.client()
    thread.start()
    time.sleep(1)
    if watched is not None:
        watched.say("count")
    before, began = cpu_s(process), recorded(client)
    time.sleep(SECONDS)
    counted = watched.say("count") if watched is not None else {"frames": 0, "bytes": 0}
    used, commits = cpu_s(process) - before, recorded(client) - began
    stop.set()
    thread.join()
    return Round(used, commits, counted["frames"], counted["bytes"])


def recorded(client: Client) -> int:
    position: int = client.get("/api/status")["positions"]["recorded"]
    return position


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
        try:
            return _figures([_round(program, server, address) for _ in range(ROUNDS)])
        finally:
            server.communicate()


def _round(program: Program, server: subprocess.Popen[str], address: str) -> tuple[float, float, float]:
    """CPU in us of a frame: of the loop, of telling it, of the whole program."""
    connection = program.connection
    alone = ours(program, None)
    watched = Watched(connection["url"], connection["ui_url"].removeprefix("http://"), program.key)
    told = ours(program, watched)
    watched.close()
    watched = Watched(connection["url"], address, "none")
    used, frames = bare(server, watched, told.bytes / told.frames, told.frames / CLIENTS / SECONDS)
    watched.close()
    telling = told.cpu_s - alone.cpu_s / alone.commits * told.commits
    costs = used / frames * 1e6, telling / told.frames * 1e6, told.cpu_s / told.frames * 1e6
    print(
        f"  bare {costs[0]:5.2f} us a frame ({frames})   telling {costs[1]:5.2f} us ({told.frames} of"
        f" {told.bytes / told.frames:.0f} bytes)   ratio {costs[1] / costs[0]:.2f}   the whole program {costs[2]:5.2f}"
        f" us,   a commit without clients {alone.cpu_s / alone.commits * 1e3:.1f} ms",
        file=sys.stderr,
    )
    return costs


def _figures(costs: list[tuple[float, float, float]]) -> dict[str, Any]:
    bare_us, telling_us, whole_us = (statistics.median(column) for column in zip(*costs, strict=True))
    return {
        "clients": CLIENTS,
        "bare_us": round(bare_us, 2),
        "ours_us": round(telling_us, 2),
        "ratio": round(statistics.median(telling / bare for bare, telling, _ in costs), 2),
        "reach": REACH,
        "whole_program_us": round(whole_us, 2),
    }


if __name__ == "__main__":
    print(json.dumps({"frames": measure()}))
