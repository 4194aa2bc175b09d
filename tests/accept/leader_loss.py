"""The leader of the stream killed with SIGKILL under load, several times, in a real cluster of three servers."""

from __future__ import annotations

import asyncio
import random
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from adapters.jetstream.connection import connect_to, ensure_stream
from adapters.jetstream.log import JetStreamLog
from core.kernel.commit import Body, Entry
from tests.accept.kill import FINAL, SETTLE_S_MAX
from tests.accept.program import Client, Program
from tests.accept.script import Figures, Options, expect, main, note
from tests.cluster import Cluster, until

SUBMITTERS = 32
PAUSE_S = 0.3
ANSWER_S_MAX = 60.0
REPEATED_MAX = 500


class Submitter(threading.Thread):
    """Submits tasks one by one, each under its own key until it is acknowledged, until it is stopped."""

    def __init__(self, client: Client, number: int) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._number = number
        self.stopped = threading.Event()
        self.acknowledged: dict[str, tuple[str, int]] = {}
        self.times: list[tuple[float, float]] = []
        """When a key was first sent, and when it was acknowledged."""
        self.unknown: set[str] = set()
        self.refused = 0
        self.broken: str | None = None

    def run(self) -> None:
        count = 0
        while not self.stopped.is_set() and self.broken is None:
            count += 1
            self._submit(f"leader-{self._number}-{count}")
            time.sleep(PAUSE_S)

    def _submit(self, key: str) -> None:
        began = time.monotonic()
        while True:
            try:
                answer = self._client.request("POST", "/api/tasks", task(key), {"Idempotency-Key": key})
            except Exception as error:  # the program itself must go on answering
                self.broken = f"{key}: {type(error).__name__}: {error}"
                return
            if answer.status == 202:
                self.acknowledged[key] = (answer.json["task_id"], answer.json["position"])
                self.times.append((began, time.monotonic()))
                return
            if answer.status not in (503, 504):
                self.broken = f"{key}: {answer.status} {answer.raw[:300]!r}"
                return
            if answer.status == 504:
                self.unknown.add(key)
            self.refused += answer.status == 503
            if time.monotonic() - began > ANSWER_S_MAX:
                self.broken = f"{key}: not acknowledged within {ANSWER_S_MAX:g} s, last {answer.raw[:300]!r}"
                return
            time.sleep(0.05)


def task(key: str) -> dict[str, Any]:
    """A function that gives its key back."""
    parameters = {"function": "echo", "arguments": {"key": key}}
    return {"type": "function", "executor": "python", "parameters": parameters, "retry": {"max_crashes": 20}}


def run(options: Options) -> Figures:
    """Commands answer again after each election; every acknowledged one is on the log once, and none is wrong."""
    kills = options.count(6, 1)
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder) / "cluster") as cluster:
        with Program(Path(folder) / "data", **cluster.settings()) as program:
            submitters = [Submitter(program.client(), number) for number in range(SUBMITTERS)]
            for submitter in submitters:
                submitter.start()
            try:
                gaps = [_kill_leader(cluster, submitters, rng) for _ in range(kills)]
            finally:
                for submitter in submitters:
                    submitter.stopped.set()
            for submitter in submitters:
                submitter.join(ANSWER_S_MAX + 10)
                expect(not submitter.is_alive(), "a submitter never got its answer")
            _unbroken(submitters)
            acknowledged = {key: ids for submitter in submitters for key, ids in submitter.acknowledged.items()}
            unknown = {key for submitter in submitters for key in submitter.unknown}
            client = program.client()
            _repeat(client, acknowledged, unknown, rng)
            attempts = _settle(client, len(acknowledged))
            figures = _on_the_log(asyncio.run(_log(cluster)), acknowledged)
            verified = program.command("verify", "--json")
            expect(verified.returncode == 0, f"verify: {verified.stdout!r} {verified.stderr!r}")
        return {
            "kills": kills,
            "gap_s": [round(gap, 1) for gap in gaps],
            "gap_s_max": round(max(gaps), 1),
            "acknowledged": len(acknowledged),
            "unknown": len(unknown),
            "refused_and_repeated": sum(submitter.refused for submitter in submitters),
            **figures,
            "attempts": attempts,
        }


def _unbroken(submitters: list[Submitter]) -> None:
    broken = [submitter.broken for submitter in submitters if submitter.broken]
    expect(not broken, f"an answer was wrong: {broken[:3]}")


def _kill_leader(cluster: Cluster, submitters: list[Submitter], rng: random.Random) -> float:
    """The seconds from the kill to the first acknowledgement of a command that was sent after it."""

    def answered_since(moment: float, times: int) -> bool:
        _unbroken(submitters)
        return sum(began >= moment for submitter in submitters for began, _ in tuple(submitter.times)) >= times

    def wait_for(times: int) -> float:
        began = time.monotonic()
        until(lambda: answered_since(began, times), ANSWER_S_MAX, lambda: "commands are not acknowledged any more")
        return began

    wait_for(50)
    time.sleep(rng.uniform(0.2, 1.5))
    leader = cluster.stream_leader()
    leader.kill()
    killed = wait_for(1)
    first = min(ended for submitter in submitters for began, ended in tuple(submitter.times) if began >= killed)
    wait_for(50)
    elected = cluster.stream_leader()
    note(f"{leader.name} killed, {elected.name} leads: a gap of {first - killed:.1f} s")
    leader.start()
    cluster.wait_whole()
    return first - killed


def _repeat(client: Client, acknowledged: dict[str, tuple[str, int]], unknown: set[str], rng: random.Random) -> None:
    """The same key gives the first answer, for those whose outcome was unknown and for a sample of the others."""
    others = sorted(acknowledged.keys() - unknown)
    for key in [*sorted(unknown), *rng.sample(others, min(REPEATED_MAX, len(others)))]:
        answer = client.request("POST", "/api/tasks", task(key), {"Idempotency-Key": key})
        expect(answer.status == 202, f"a repeat of {key}: {answer.status} {answer.raw[:300]!r}")
        again = (answer.json["task_id"], answer.json["position"])
        expect(again == acknowledged[key], f"a repeat of {key} gives {again}, and not {acknowledged[key]}")


def _settle(client: Client, tasks: int) -> int:
    """Wait until all tasks have ended, completed; how many attempts it took."""
    deadline = time.monotonic() + SETTLE_S_MAX
    totals: dict[str, int] = {}
    while sum(totals.values()) < tasks:
        totals = {s: client.get(f"/api/tasks?status={s}&limit=1")["pagination"]["total"] for s in sorted(FINAL)}
        expect(time.monotonic() < deadline, f"of {tasks} tasks only these have ended: {totals}")
        time.sleep(0.25)
    expect(totals["completed"] == tasks, f"of {tasks} tasks these ended: {totals}")
    return sum(event["type"] == "hivebus.task.assigned" for event in client.events())


async def _log(cluster: Cluster) -> list[Entry]:
    """Every entry of the log, as its leader has it now."""
    client = await connect_to(cluster.access, name="leader-loss")
    log = await JetStreamLog.open(client, replicas=await ensure_stream(client, replicas=0))
    head, entries = await log.head(), []
    async with asyncio.timeout(SETTLE_S_MAX):
        async for batch in log.follow(after=0):
            entries += batch
            if entries[-1].position >= head:
                break
    await log.close()
    await client.close()
    return entries


def _on_the_log(entries: list[Entry], acknowledged: dict[str, tuple[str, int]]) -> Figures:
    """Each acknowledged submit stands once, where its answer said, with what was sent, and no other submit does."""
    positions = [entry.position for entry in entries]
    expect(positions == list(range(1, len(entries) + 1)), "the positions of the log are not dense")
    commits = [(entry, msgspec.json.decode(entry.body, type=Body)) for entry in entries]
    submits = {entry.position: (entry, body) for entry, body in commits if body.command == "task.submit"}
    stored = Counter(entry.subject for entry, _ in submits.values())
    lost = wrong = 0
    for key, (task_id, position) in acknowledged.items():
        entry, body = submits.get(position, (None, None))
        if entry is None or body is None or entry.subject != f"hive.log.task.{task_id}":
            lost += 1
        elif f'"{key}"'.encode() not in entry.body:
            wrong += 1
    twice = sum(count - 1 for count in stored.values())
    strangers = len(stored.keys() - {f"hive.log.task.{task_id}" for task_id, _ in acknowledged.values()})
    ids = Counter(entry.commit_id for entry in entries)
    expect(len(ids) == len(entries), "a commit is on the log twice")
    found = {"lost": lost, "twice": twice, "wrong": wrong, "never_acknowledged": strangers, "commits": len(entries)}
    expect(not lost + twice + wrong + strangers, f"the log does not hold what was acknowledged: {found}")
    return found


if __name__ == "__main__":
    main("leader-loss", run)
