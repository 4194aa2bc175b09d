"""A small disk fills up under load, nearly and then really, and is freed again each time."""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.accept.program import Client, Program
from tests.accept.script import Failed, Figures, Options, expect, main, note

PLACE = "SMALL_DISK"
SIZE_MB = 128
# Which commands give this process a file system of its own, as root and as anybody else.
WAYS = (("unshare", "--mount"), ("unshare", "--map-root-user", "--mount"))
MOUNT = f'mount -t tmpfs -o size={SIZE_MB}m,mode=700 hivebus "$0" && exec "$@"'
HELP = (
    "no small file system can be mounted here: neither `unshare --mount` nor `unshare --map-root-user --mount` works. "
    f"Run it as root, or make one and name it: docker run --tmpfs /small:size={SIZE_MB}m -e {PLACE}=/small ..."
)
FINAL = ("completed", "failed", "cancelled", "expired")
RECOVER_S_MAX = 45.0
SETTLE_S_MAX = 300.0


class Feeder(threading.Thread):
    """Submits one task after the other, each under its own key until it is acknowledged, and reads beside it."""

    def __init__(self, program: Program, name: str) -> None:
        super().__init__(daemon=True)
        self._program = program
        self._name = name
        self.stop = threading.Event()
        self.acknowledged: dict[str, str] = {}
        self.position = 0
        self.answers: Counter[int] = Counter()
        self.reads: Counter[int] = Counter()
        self.wrong: list[str] = []

    def run(self) -> None:
        client, number = self._program.client(), 0
        while not self.stop.is_set():
            key = f"{self._name}-{number}"
            try:
                answer = client.request("POST", "/api/tasks", task(number), {"Idempotency-Key": key})
                self.answers[answer.status] += 1
                if answer.status == 202:
                    self.acknowledged[key] = answer.json["task_id"]
                    self.position = max(self.position, answer.json["position"])
                    number += 1
                elif answer.status == 507:
                    if answer.json["code"] != "disk_full" or "Free space" not in answer.json["remedy"]:
                        self.wrong.append(answer.raw.decode())
                elif answer.status not in (503, 504):
                    self.wrong.append(answer.raw.decode())
                self.reads[client.request("GET", "/api/tasks?limit=5").status] += 1
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.wrong.append(repr(error))
                client = self._program.client()
            time.sleep(0.01 if self.answers[202] else 0.05)


def task(number: int) -> dict[str, Any]:
    arguments = {"number": number, "padding": "x" * 500}
    parameters = {"function": "echo", "arguments": arguments}
    return {"type": "feed", "executor": "python", "parameters": parameters, "retry": {"max_crashes": 20}}


class Ballast:
    """A file that takes what is free."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ballast"
        self._folder = folder

    def until_free(self, share: float) -> None:
        """Leave so much of the disk free."""
        found = os.statvfs(self._folder)
        free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
        with self._path.open("ab") as file:
            file.write(b"\0" * max(0, int(free - share * total)))

    def all(self) -> None:
        """Until the last byte is gone."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for size in (65536, 4096, 512, 1):
                try:
                    while True:
                        os.write(descriptor, b"\0" * size)
                except OSError:
                    continue
        finally:
            os.close(descriptor)

    def free(self) -> None:
        self._path.unlink()


def run(options: Options) -> Figures:
    """Refused with 507 and the remedy, reads work, nothing dies, it recovers by itself, nothing is lost or twice."""
    if PLACE not in os.environ:
        raise Failed(HELP)
    rng = random.Random(options.seed)
    rounds, hold_s = options.count(3, 1), options.count(12, 6)
    place = Path(os.environ[PLACE])
    with tempfile.TemporaryDirectory() as elsewhere:
        program = Program(place / "data")
        program.log = Path(elsewhere) / "program.log"
        program.start()
        client = program.client()
        retired = client.request("POST", "/api/agents", {"type": "shell", "name": "spare", "slots": 1}).json["agent_id"]
        feeders = [Feeder(program, f"f{index}") for index in range(4)]
        for feeder in feeders:
            feeder.start()
        until(lambda: sum(f.answers[202] for f in feeders) > 50, 30, "work to be accepted")
        ballast = Ballast(place)
        nearly = _nearly_full(client, feeders, ballast, retired)
        recovered = [_really_full(program, feeders, ballast, rng, hold_s) for _ in range(rounds)]
        for feeder in feeders:
            feeder.stop.set()
            feeder.join(60)
        figures = _check(program, feeders)
        verified = program.command("verify", "--json")
        expect(verified.returncode == 0, f"verify: {verified.stdout!r} {verified.stderr!r}")
        program.terminate()
        return {"disk_mb": SIZE_MB, "rounds": rounds, **nearly, "recovered_s": recovered, **figures}


def _nearly_full(client: Client, feeders: list[Feeder], ballast: Ballast, agent_id: str) -> Figures:
    """Over 90 %: what begins is refused, what ends is accepted, what was accepted goes on."""
    sleeper = {"type": "sleeper", "executor": "command", "parameters": {"argv": ["sleep", "600"]}}
    task_id = client.request("POST", "/api/tasks", sleeper).json["task_id"]
    before = sum(f.answers[507] for f in feeders)
    ballast.until_free(0.085)
    took_s = until(lambda: sum(f.answers[507] for f in feeders) > before + 8, 10, "507")
    status = client.request("GET", "/api/status").json
    expect(status["disk"]["level"] == "full" and status["services"]["disk"] == "unhealthy", f"status: {status['disk']}")
    cancelled = client.request("DELETE", f"/api/tasks/{task_id}")
    expect(cancelled.status == 202, f"a cancel was refused: {cancelled.raw!r}")
    retired = client.request("DELETE", f"/api/agents/{agent_id}")
    expect(retired.status == 202, f"a retirement was refused: {retired.raw!r}")
    _refused_blob(client)
    until(lambda: client.get(f"/api/tasks/{task_id}")["status"] == "cancelled", 15, "the cancelled task to end")
    ballast.free()
    freed_s = _accepting(feeders)
    note(f"over 90 %: refused after {took_s:.1f} s, accepted again {freed_s:.1f} s after it was freed")
    return {"refused_after_s": round(took_s, 1), "accepted_after_s": round(freed_s, 1)}


def _really_full(program: Program, feeders: list[Feeder], ballast: Ballast, rng: random.Random, hold_s: int) -> float:
    """Not a byte left while work is accepted: writes fail in the middle, then all is refused, until it is freed."""
    time.sleep(rng.uniform(0.2, 1.5))
    ballast.all()
    refused = sum(f.answers[507] for f in feeders)
    until(lambda: sum(f.answers[507] for f in feeders) > refused + 8, 20, "507")
    client = program.client()
    deadline = time.monotonic() + hold_s
    while time.monotonic() < deadline:
        for path in ("/api/tasks?limit=100", "/api/agents", "/api/queue", "/api/events?after=0&limit=100"):
            expect(client.request("GET", path).status == 200, f"{path} does not answer on a full disk")
        _refused_blob(client)
        expect(client.request("GET", "/api/status").json["disk"]["level"] == "exhausted", "status does not say it")
        time.sleep(0.2)
    ballast.free()
    took_s = _accepting(feeders)
    note(f"not a byte left for {hold_s} s: accepted again {took_s:.1f} s after it was freed")
    return round(took_s, 1)


def _refused_blob(client: Client) -> None:
    data = os.urandom(100_000)
    headers = {"Content-Type": "application/octet-stream"}
    answer = client.request("PUT", f"/api/blobs/{hashlib.sha256(data).hexdigest()}", data, headers)
    expect(answer.status == 507 and answer.json["code"] == "disk_full", f"a blob: {answer.status} {answer.raw[:300]!r}")


def _accepting(feeders: list[Feeder]) -> float:
    """Every feeder gets an acknowledgement again; the seconds it took."""
    before = [len(feeder.acknowledged) for feeder in feeders]
    return until(
        lambda: all(len(f.acknowledged) > old for f, old in zip(feeders, before, strict=True)),
        RECOVER_S_MAX,
        "work to be accepted again",
    )


def _check(program: Program, feeders: list[Feeder]) -> Figures:
    """Each acknowledged task once on the log, one end each; whatever else was sent is there once or not at all."""
    wrong = [sentence for feeder in feeders for sentence in feeder.wrong]
    expect(not wrong, f"{len(wrong)} answers are neither accepted, refused nor unknown: {wrong[:3]}")
    reads = sum((feeder.reads for feeder in feeders), Counter[int]())
    expect(set(reads) == {200}, f"reads: {dict(reads)}")
    acknowledged = {task_id for feeder in feeders for task_id in feeder.acknowledged.values()}
    expect(len(acknowledged) == sum(len(feeder.acknowledged) for feeder in feeders), "two keys gave one task")
    client = program.client()

    newest = max(feeder.position for feeder in feeders)

    def settled() -> bool:
        status = client.get("/api/status")
        return bool(status["metrics"]["live_tasks"] == 0 and status["positions"]["applied"] >= newest)

    until(settled, SETTLE_S_MAX, "all tasks to end")
    events = client.events()
    submitted = Counter(e["subject"] for e in events if e["type"] == "hivebus.task.submitted")
    ends = Counter(e["subject"] for e in events if e["type"].removeprefix("hivebus.task.") in FINAL)
    lost = [task_id for task_id in acknowledged if f"task/{task_id}" not in submitted]
    expect(not lost, f"{len(lost)} acknowledged tasks are not on the log: {lost[:3]}")
    expect(set(submitted.values()) == {1} and ends == submitted, "a task was submitted twice, or has no end or two")
    answers = sum((feeder.answers for feeder in feeders), Counter[int]())
    crashed = sum(e["data"].get("outcome") == "crashed" for e in events if e["type"] == "hivebus.task.attempt_ended")
    return {
        "acknowledged": len(acknowledged),
        "refused_507": answers[507],
        "unknown_504": answers[504],
        "unavailable_503": answers[503],
        "reads": reads[200],
        "attempts_without_disk": crashed,
    }


def until(condition: Callable[[], bool], within_s: float, what: str) -> float:
    """The seconds until something holds. Raises Failed."""
    started = time.monotonic()
    while not condition():
        expect(time.monotonic() - started < within_s, f"waited {within_s:.0f} s for {what}")
        time.sleep(0.02)
    return time.monotonic() - started


def on_a_small_disk() -> None:
    """Become the same script in a mount namespace of its own, with a small file system that dies with it."""
    folder = tempfile.mkdtemp(prefix="hivebus-small-disk-")
    for way in WAYS:
        try:
            tried = subprocess.run([*way, "sh", "-c", MOUNT, folder, "true"], capture_output=True, check=False)
        except FileNotFoundError:
            continue
        if tried.returncode == 0:
            again = [sys.executable, "-m", "tests.accept.disk_full", *sys.argv[1:]]
            done = subprocess.run(
                [*way, "sh", "-c", MOUNT, folder, *again], env=os.environ | {PLACE: folder}, check=False
            )
            os.rmdir(folder)
            sys.exit(done.returncode)
    os.rmdir(folder)


if __name__ == "__main__":
    if PLACE not in os.environ:
        on_a_small_disk()
    main("disk-full", run)
