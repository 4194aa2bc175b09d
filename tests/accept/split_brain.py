"""Show 3.8: the leading scheduler is stopped, another is elected, the old one woken: nothing of it counts.

Checked on the log: at each position no agent and no host holds more attempts than it has slots, no assignment of an
older term than the newest election holds its task, and every task ends once.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.accept.program import Client, Program
from tests.accept.script import Figures, Options, expect, main, note
from tests.cluster import Cluster

SETTLE_S_MAX = 180.0
ELECTED_S_MAX = 60.0
FINAL = ("completed", "failed", "cancelled")


def run(options: Options) -> Figures:
    """Schedulers in processes of their own on a three-server cluster, stopped and woken under load."""
    rounds, tasks = options.count(5, 1), options.count(2000, 300)
    rng = random.Random(options.seed)
    with (
        tempfile.TemporaryDirectory() as folder,
        Cluster(Path(folder) / "cluster") as cluster,
        _processes(Path(folder) / "data", cluster) as (server, schedulers),
    ):
        client = server.client()
        submitted: list[str] = []
        gaps_s: list[float] = []
        for number in range(rounds):
            submitted += _submit(client, tasks // rounds)
            time.sleep(rng.uniform(0.1, 0.6))
            gaps_s.append(_depose(client, schedulers))
            note(f"round {number + 1}/{rounds}: another leads {gaps_s[-1]:.1f} s after the stop; the old one woke")
        _settle(client, len(submitted))
        events = client.events()
        figures = _check(events, submitted)
        verified = server.command("verify", "--json")
        expect(verified.returncode == 0, f"verify: {verified.stdout!r} {verified.stderr!r}")
        return {"rounds": rounds, "takeover_s_max": round(max(gaps_s), 2), **figures}


@contextmanager
def _processes(root: Path, cluster: Cluster) -> Iterator[tuple[Program, list[Program]]]:
    """API, recorder and agents in one process; two schedulers beside it, of which one leads."""
    settings = cluster.settings() | {"HIVEBUS_SHELL_SLOTS": "4", "HIVEBUS_LOG_LEVEL": "info"}
    server = Program(root, **settings, HIVEBUS_ROLES="api,recorder,agents")
    schedulers = [Program(root, **settings, HIVEBUS_ROLES="scheduler") for _ in range(2)]
    for number, scheduler in enumerate(schedulers):
        scheduler.log = root.parent / f"scheduler-{number}.log"
    try:
        server.start()
        for scheduler in schedulers:
            scheduler.launch()
        yield server, schedulers
    finally:
        for program in (*schedulers, server):
            if program.running:
                os.kill(program.pid, signal.SIGCONT)
                program.terminate()


def _leader(client: Client, schedulers: list[Program]) -> tuple[Program, int]:
    """Who leads, by the pid that its log names with the newest election, and its term."""
    deadline = time.monotonic() + ELECTED_S_MAX
    while True:
        terms = [int(event["sequence"]) for event in client.events(noun="scheduler")]
        if terms:
            said = f"leads in term {terms[-1]}."
            for scheduler in schedulers:
                if said in scheduler.log.read_text():
                    return scheduler, terms[-1]
        expect(time.monotonic() < deadline, f"nobody leads: {terms}")
        time.sleep(0.05)


def _depose(client: Client, schedulers: list[Program]) -> float:
    """SIGSTOP of the leader until another one was elected and has decided, then SIGCONT; the seconds between."""
    leader, term = _leader(client, schedulers)
    os.kill(leader.pid, signal.SIGSTOP)
    began = time.monotonic()
    while True:
        newer = [int(e["sequence"]) for e in client.events(after=term, noun="scheduler")]
        if newer:
            break
        expect(time.monotonic() - began < ELECTED_S_MAX, "no other scheduler was elected")
        time.sleep(0.05)
    took_s = time.monotonic() - began
    deadline = time.monotonic() + ELECTED_S_MAX
    while not any(event["type"] == "hivebus.task.assigned" for event in client.events(after=newer[0], noun="task")):
        expect(time.monotonic() < deadline, "the new leader assigns nothing")
        time.sleep(0.05)
    os.kill(leader.pid, signal.SIGCONT)
    return took_s


def _submit(client: Client, count: int) -> list[str]:
    found: list[str] = []
    for start in range(0, count, 500):
        items = [_task(number) for number in range(start, min(start + 500, count))]
        answer = client.request("POST", "/api/tasks", items)
        expect(answer.status < 300, f"POST: {answer.status} {answer.raw[:300]!r}")
        found += [item["task_id"] for item in answer.json["items"]]
    return found


def _task(number: int) -> dict[str, Any]:
    if number % 10 == 0:
        return {"type": "program", "executor": "command", "parameters": {"argv": ["sleep", "0.3"]}}
    return {
        "type": "function",
        "executor": "python",
        "parameters": {"function": "sleep", "arguments": {"seconds": 0.05}},
    }


def _settle(client: Client, tasks: int) -> None:
    deadline = time.monotonic() + SETTLE_S_MAX
    while True:
        ended = sum(client.get(f"/api/tasks?status={status}&limit=1")["pagination"]["total"] for status in FINAL)
        if ended >= tasks:
            return
        expect(time.monotonic() < deadline, f"only {ended} of {tasks} tasks have ended")
        time.sleep(0.25)


class Log:
    """The state of slots at each position, folded by this script's own rules and not by the product's."""

    def __init__(self) -> None:
        self.term = 0
        self.slots: dict[str, int] = {}
        self.held: dict[str, tuple[str, str, int, int]] = {}  # task -> agent, host, fence, term
        self.voided = 0
        self.terms = 0
        self.full: Counter[str] = Counter()

    def fold(self, event: dict[str, Any]) -> None:
        """One event; raises Failed at the first position where a rule is broken."""
        kind, position, data = event["type"].removeprefix("hivebus."), int(event["sequence"]), event["data"]
        subject = event["subject"]
        match kind:
            case "scheduler.elected":
                self.term, self.terms = position, self.terms + 1
            case "host.registered":
                self.slots[data_id(subject)] = data["slots"]
            case "agent.spawned":
                self.slots[data_id(subject)] = data["slots"]
            case "task.assigned":
                if data["term"] < self.term:
                    self.voided += 1  # it came after a newer election: nothing may come of it
                    self.held[subject] = ("", "", position, data["term"])
                    return
                self.held[subject] = (data["agent_id"], data["host_id"], position, data["term"])
                self._bounded(position)
            case "task.attempt_ended" | "task.completed":
                agent, _, fence, term = self.held.pop(subject, ("", "", 0, 0))
                expect(fence == data["fence"], f"position {position}: fence {data['fence']} ended, {fence} was held")
                void = not agent and term > 0
                expect(not void or data.get("outcome") == "voided", f"position {position}: a void assignment counted")

    def _bounded(self, position: int) -> None:
        for index in (0, 1):
            for holder, count in Counter(held[index] for held in self.held.values()).items():
                if holder:
                    slots = self.slots[holder]
                    expect(count <= slots, f"position {position}: {holder} holds {count} attempts in {slots} slots")
                    self.full[holder] = max(self.full[holder], count)


def data_id(subject: str) -> str:
    return subject.partition("/")[2]


def _check(events: list[dict[str, Any]], submitted: list[str]) -> Figures:
    log = Log()
    ends: Counter[str] = Counter()
    for event in events:
        log.fold(event)
        if event["type"].removeprefix("hivebus.") in ("task.completed", "task.failed", "task.cancelled"):
            ends[data_id(event["subject"])] += 1
    expect(set(ends) == set(submitted) and set(ends.values()) == {1}, "a task has no end, or two")
    by_type = Counter(event["type"].removeprefix("hivebus.") for event in events)
    return {
        "tasks": len(submitted),
        "elections": log.terms,
        "assignments": by_type["task.assigned"],
        "assignments_void": log.voided,
        "slots_used_max": max(log.full.values()),
        "events": len(events),
    }


if __name__ == "__main__":
    main("split-brain", run)
