"""Tasks submitted while the whole program is killed with SIGKILL at random moments and started again."""

from __future__ import annotations

import http.client
import random
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.accept.program import Client, Program, gone
from tests.accept.script import Figures, Options, expect, main, note

FINAL = {"completed", "failed", "cancelled", "expired"}
SETTLE_S_MAX = 600.0


class Submitter(threading.Thread):
    """Submits its share, each under its own key, until each was acknowledged."""

    def __init__(self, program: Program, numbers: list[int]) -> None:
        super().__init__(daemon=True)
        self._program = program
        self._numbers = numbers
        self.acknowledged: dict[int, tuple[str, int]] = {}
        self.retries = 0

    def run(self) -> None:
        client: Client | None = None
        for number in self._numbers:
            while number not in self.acknowledged:
                try:
                    client = client or self._program.client()
                    answer = client.request("POST", "/api/tasks", task(number), {"Idempotency-Key": f"kill-{number}"})
                except (OSError, ValueError, http.client.HTTPException):
                    client = None
                else:
                    if answer.status == 202:
                        self.acknowledged[number] = (answer.json["task_id"], answer.json["position"])
                        continue
                    assert answer.status in (503, 504), answer.raw
                self.retries += 1
                time.sleep(0.05)


def task(number: int) -> dict[str, Any]:
    """Most are functions, some are programs that run long enough to be killed in the middle."""
    retry = {"max_attempts": 3, "initial_interval_ms": 50, "max_crashes": 20}
    if number % 10 == 0:
        argv = ["sh", "-c", f"sleep 0.2; echo {number}"]
        return {"type": "program", "executor": "command", "parameters": {"argv": argv}, "retry": retry}
    if number % 97 == 0:
        return {"type": "failing", "executor": "command", "parameters": {"argv": ["false"]}, "retry": retry}
    arguments = {"number": number}
    return {
        "type": "function",
        "executor": "python",
        "parameters": {"function": "echo", "arguments": arguments},
        "retry": retry,
    }


def run(options: Options) -> Figures:
    """Every acknowledged command is on the log once, every task ends once, nothing survives, the views are equal."""
    tasks, kills = options.count(2000, 300), options.count(20, 4)
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        program = Program(Path(folder) / "data")
        program.start()
        submitters = [Submitter(program, list(range(start, tasks, 8))) for start in range(8)]
        for submitter in submitters:
            submitter.start()
        survivors = _kill_again_and_again(program, kills, rng)
        for submitter in submitters:
            submitter.join(SETTLE_S_MAX)
            expect(not submitter.is_alive(), "a submitter never got its answers")
        acknowledged = {n: ids for submitter in submitters for n, ids in submitter.acknowledged.items()}
        client = program.client()
        settle(client, tasks)
        figures = check(client, acknowledged, tasks)
        verified = program.command("verify", "--json")
        expect(verified.returncode == 0, f"verify: {verified.stdout!r} {verified.stderr!r}")
        program.terminate()
        _tamper(program)
        retries = sum(submitter.retries for submitter in submitters)
        return {"tasks": tasks, "kills": kills, "survivors": survivors, "client_retries": retries, **figures}


def _kill_again_and_again(program: Program, kills: int, rng: random.Random) -> int:
    survivors = 0
    for number in range(kills):
        time.sleep(rng.uniform(0.3, 2.5))
        family = program.family()
        program.kill()
        alive = gone(family, within_s=5.0)
        survivors += len(alive)
        expect(not alive, f"survived the SIGKILL of the program: {[process.cmdline() for process in alive]}")
        took_s = program.start()
        note(f"kill {number + 1}/{kills}: {len(family)} processes gone, ready again after {took_s:.2f} s")
    return survivors


def settle(client: Client, tasks: int) -> None:
    """Wait until so many tasks have ended."""
    deadline = time.monotonic() + SETTLE_S_MAX
    while True:
        ended = sum(client.get(f"/api/tasks?status={status}&limit=1")["pagination"]["total"] for status in FINAL)
        if ended >= tasks:
            return
        expect(time.monotonic() < deadline, f"only {ended} of {tasks} tasks have ended")
        time.sleep(0.25)


def check(client: Client, acknowledged: dict[int, tuple[str, int]], tasks: int) -> Figures:
    """Every acknowledged command is on the log once and where it was said to be, and every task ended once."""
    events = client.events()
    submitted = {e["subject"]: int(e["sequence"]) for e in events if e["type"] == "hivebus.task.submitted"}
    expect(sum(e["type"] == "hivebus.task.submitted" for e in events) == tasks, "a submit is on the log twice, or not")
    for number, (task_id, position) in acknowledged.items():
        expect(submitted.get(f"task/{task_id}") == position, f"task {number} is not at its acknowledged position")
    expect(len({task_id for task_id, _ in acknowledged.values()}) == tasks, "two keys gave one task")
    ends: Counter[str] = Counter()
    fences: dict[str, int] = {}
    stale = 0
    for event in events:
        kind, subject = event["type"].removeprefix("hivebus."), event["subject"]
        if kind == "task.assigned":
            fences[subject] = int(event["sequence"])
        elif kind == "task.attempt_ended":
            stale += event["data"]["fence"] != fences.pop(subject, None)
        elif kind in ("task.completed", "task.failed", "task.cancelled"):
            ends[subject] += 1
            if kind == "task.completed":
                stale += event["data"]["fence"] != fences.pop(subject, None)
    expect(stale == 0, f"{stale} stale completions were accepted")
    expect(set(ends.values()) == {1} and len(ends) == tasks, "a task has no end, or two")
    kinds = Counter(event["type"].removeprefix("hivebus.") for event in events)
    lost = sum(e["data"].get("outcome") in ("crashed", "lease_expired") for e in events if "attempt_ended" in e["type"])
    positions = sorted({int(event["sequence"]) for event in events})
    return {
        "acknowledged": len(acknowledged),
        "completed": kinds["task.completed"],
        "failed": kinds["task.failed"],
        "attempts": kinds["task.assigned"],
        "attempts_lost": lost,
        "late_refused": kinds["command.refused"],
        "last_position": positions[-1],
    }


def _tamper(program: Program) -> None:
    """One changed cell is found, and named."""
    views = sqlite3.connect(program.root / "views.db")
    views.execute("UPDATE tasks SET priority = priority + 1 WHERE rowid = (SELECT max(rowid) FROM tasks)")
    views.commit()
    views.close()
    found = program.command("verify")
    said = (found.stdout + found.stderr).decode()
    expect(found.returncode == 1, f"verify did not find the changed cell: {said}")
    expect("tasks" in said and "priority" in said, f"verify does not name view and column: {said}")


if __name__ == "__main__":
    main("kill", run)
