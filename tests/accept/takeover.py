"""Show 5.6: a scheduler takes over at 100,000 live tasks, and its state equals the old one's.

Three takeovers on a real broker: by one that stood by when the leader was killed, by one that begins with the image
that the last leader left, and by one that begins with nothing but the log. Each leader's state is read from the image
that it wrote itself; what it must be is the state of the leader before it, and the commits since.
"""

from __future__ import annotations

import asyncio
import datetime
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

from adapters.jetstream.connection import connect_to, ensure_stream
from adapters.jetstream.log import JetStreamLog
from core.actions import registry
from core.kernel.codec import Codec
from core.kernel.commit import Entry
from core.scheduling.fleet import Fleet
from core.scheduling.images import fleet_of
from core.scheduling.overlay import Overlay
from core.scheduling.policy import decide
from tests.accept.program import Client, Program
from tests.accept.script import Figures, Options, expect, main, note
from tests.cluster import Cluster
from tests.given import portrait

RUNNING, OTHER = 32, 8
BATCH = 500
KEYS = 100
WITHIN_S = 120.0
# Two beats of a host: one that nobody answers for 45 s ends its attempts.
LEADS_S = 2.5
DECISIONS = 500
MORE_SLOTS = 300
# Of 1,000 live tasks.
WAITING_FOR_LIMIT, RATED, BLOCKED, LATER, TIMED, PARTS = 150, 50, 150, 100, 50, 20
FUTURE = "2099-01-01T00:00:00Z"
DAY_S = 86_400


def run(options: Options) -> Figures:
    """Fill the fleet, kill and stop its leaders one after the other, compare what each knew."""
    live = options.count(100_000, 10_000)
    with (
        tempfile.TemporaryDirectory() as folder,
        Cluster(Path(folder) / "cluster", size=1) as cluster,
        _server(Path(folder) / "data", cluster) as (server, schedulers),
    ):
        client = server.client()
        first, second, third, fourth = schedulers
        first.start(client)
        second.start()
        filled_s = _fill(client, live, random.Random(options.seed))
        note(f"{live} live tasks after {filled_s:.0f} s")
        old = _image(server)
        figures: Figures = {"live_tasks": live, "submit_s": round(filled_s, 1)}
        figures["standing_by"] = second.take_over(client, first.kill)
        second.stop()
        states = [old, _image(server)]
        _submit(client, _tasks(live // 20, random.Random(options.seed + 1), []))
        figures["with_image"] = third.take_over(client, third.start)
        third.stop()
        states.append(_image(server))
        (server.root / "scheduler.image").unlink()
        figures["without_image"] = fourth.take_over(client, fourth.start)
        fourth.stop()
        states.append(_image(server))
        entries = asyncio.run(_log(cluster))
        figures |= _compare(states, entries)
        lost = [event for event in server.client().events() if event["type"] in _DISTURBED]
        expect(not lost, f"a takeover disturbed what ran: {lost[:3]}")
        verified = server.command("verify", "--json")
        expect(verified.returncode == 0, f"verify: {verified.stdout!r} {verified.stderr!r}")
        return figures


_DISTURBED = ("hivebus.host.lost", "hivebus.task.attempt_ended")


# --- processes ---


class Scheduler:
    """A scheduler in a process of its own."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._began = 0.0

    def start(self, client: Client | None = None) -> None:
        """Start it, and wait until it leads if there is somebody to ask."""
        self._began = time.time()
        self._program.launch()
        if client is not None:
            _until(lambda: bool(client.events(noun="scheduler")), "the first leader")

    def kill(self) -> None:
        """SIGKILL."""
        self._began = time.time()
        self._program.kill()

    def stop(self) -> None:
        """SIGTERM: it leaves an image of what it knows."""
        self._program.terminate(timeout_s=60.0)

    def end(self) -> None:
        """Whatever it does."""
        if self._program.running:
            self._program.kill()

    def take_over(self, client: Client, how: Any) -> Figures:
        """After `how` (a kill of another, or its own start): the seconds until it leads and until it has decided."""
        after = int(client.get("/api/status")["positions"]["recorded"])
        how()
        began_ms = time.time() * 1000
        _submit(client, [_item("probe", "noop") | {"agent_type": "probe"}])
        found: dict[str, float] = {}

        def decided() -> bool:
            for event in client.events(after=after):
                kind = event["type"].removeprefix("hivebus.")
                if kind == "scheduler.elected" or (kind == "task.assigned" and "scheduler.elected" in found):
                    found.setdefault(kind, _ms(event["time"]))
            return len(found) == 2

        _until(decided, "a decision of the new leader")
        leads = re.findall(r"leads in term \d+", self._program.log.read_text())
        expect(len(leads) == 1, f"it does not say once that it leads: {leads}")
        status = Path(f"/proc/{self._program.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert peak is not None
        figures = {
            "elected_s": round((found["scheduler.elected"] - began_ms) / 1000, 2),
            "decides_s": round((found["task.assigned"] - began_ms) / 1000, 2),
            "cpu_s": round(sum(psutil.Process(self._program.pid).cpu_times()[:2]), 2),
            "peak_rss_mb": int(peak[1]) // 1024,
        }
        note(f"{self._program.log.stem}: {figures}")
        time.sleep(LEADS_S)
        return figures


@contextmanager
def _server(root: Path, cluster: Cluster) -> Iterator[tuple[Program, list[Scheduler]]]:
    """API, recorder and agents in one process; schedulers beside it, none of them started."""
    settings = cluster.settings() | {
        "HIVEBUS_PYTHON_SLOTS": str(RUNNING),
        "HIVEBUS_SLOTS": str(2 * RUNNING),
        "HIVEBUS_BEAT_S": "1",
    }
    server = Program(root, **settings, HIVEBUS_ROLES="api,recorder,agents")
    schedulers = []
    for number in range(4):
        program = Program(root, **settings, HIVEBUS_ROLES="scheduler")
        program.log = root.parent / f"scheduler-{number + 1}.log"
        schedulers.append(Scheduler(program))
    try:
        server.start()
        yield server, schedulers
    finally:
        for scheduler in schedulers:
            scheduler.end()
        server.terminate()


# --- tasks ---


def _fill(client: Client, live: int, rng: random.Random) -> float:
    """Limits, a schedule, agents, some history, what runs, and then everything that waits; the seconds of the last."""
    calls: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("PUT", "/api/limits/closed", {"concurrency": 0}),
        ("PUT", "/api/limits/trickle", {"rate_per_s": 0.001, "burst": 2}),
        ("PUT", "/api/limits/key-1", {"weight": 4}),
        ("PUT", "/api/schedules/yearly", {"task": _item("yearly", "noop"), "cron": "0 0 1 1 *"}),
        ("POST", "/api/agents", {"type": "probe", "executor": "python", "slots": 2}),
        ("POST", "/api/agents", {"type": "other", "executor": "python", "slots": OTHER}),
    )
    for method, path, body in calls:
        answer = client.request(method, path, body)
        expect(answer.status == 202, f"{method} {path}: {answer.status} {answer.raw[:300]!r}")
    _submit(client, [_item(f"kind-{number % 7}", "noop") for number in range(300)])
    _until(lambda: _total(client, "completed") == 300, "the history")
    kinds = ["python"] * RUNNING + ["other"] * OTHER
    holders = _submit(client, [_item("long", "sleep", seconds=DAY_S) | {"agent_type": kind} for kind in kinds])
    _until(lambda: _total(client, "running") == len(holders), "what runs")
    began = time.monotonic()
    _submit(client, _tasks(live - len(holders), rng, holders))
    took_s = time.monotonic() - began
    _until(lambda: client.get("/api/status")["metrics"]["live_tasks"] == live, "all to be alive")
    return took_s


def _tasks(count: int, rng: random.Random, holders: Sequence[str]) -> list[dict[str, Any]]:
    """What waits: for a slot, a limit, another task, a time; with priorities, shares, timers and parents."""
    items: list[dict[str, Any]] = []
    for number in range(count):
        item = _item(f"kind-{rng.randrange(20)}", "noop") | {"priority": rng.randrange(10)}
        item |= {"project": rng.choice(("north", "south", "west")), "fairness_key": f"key-{rng.randrange(KEYS)}"}
        item["agent_type"] = rng.choice(("python", "other", "other"))
        drawn = rng.randrange(1000)
        for share, extra in (
            (WAITING_FOR_LIMIT, {"concurrency_key": rng.choice(("closed", f"only-{rng.randrange(KEYS)}"))}),
            (RATED, {"rate_key": "trickle"}),
            (BLOCKED, {"ref": f"r{number}", "depends_on": _waited_for(items, number, rng, holders)}),
            (LATER, {"not_before": FUTURE}),
            (TIMED, {"deadline": FUTURE, "queue_timeout_s": 30 * DAY_S, "total_timeout_s": 60 * DAY_S}),
            (PARTS, {"parent": rng.choice(holders)} if holders else {}),
        ):
            if 0 <= drawn < share:
                item |= extra
            drawn -= share
        items.append(item)
    return items


def _waited_for(
    items: list[dict[str, Any]], number: int, rng: random.Random, holders: Sequence[str]
) -> list[dict[str, Any]]:
    """Tasks that run, one of the same batch that waits too, or somebody's word."""
    before = items[-1] if number % BATCH else {}
    if "ref" in before:
        return [{"task": f"@{before['ref']}"}, *({"task": task} for task in rng.sample(holders, min(2, len(holders))))]
    return [{"task": rng.choice(holders)}] if holders and rng.random() < 0.8 else [{"type": "approval"}]


def _item(type_: str, function: str, **arguments: Any) -> dict[str, Any]:
    parameters = {"function": function, "arguments": arguments}
    return {"type": type_, "executor": "python", "parameters": parameters, "timeout_s": DAY_S}


def _submit(client: Client, items: list[dict[str, Any]]) -> list[str]:
    found: list[str] = []
    for start in range(0, len(items), BATCH):
        answer = client.request("POST", "/api/tasks", items[start : start + BATCH])
        good = answer.status == 202 and not answer.json["refused"]
        expect(good, f"POST: {answer.status} {answer.raw[:500]!r}")
        found += [item["task_id"] for item in answer.json["items"]]
    return found


def _total(client: Client, status: str) -> int:
    return int(client.get(f"/api/tasks?status={status}&limit=1")["pagination"]["total"])


def _until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        expect(time.monotonic() < deadline, f"waited {WITHIN_S:g} s in vain for {what}")
        time.sleep(0.02)


def _ms(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp() * 1000


# --- states ---


def _image(server: Program) -> Fleet | None:
    """What the last leader that wrote an image knew then."""
    path = server.root / "scheduler.image"
    if not path.exists():
        return None
    image: dict[str, Any] = msgspec.msgpack.decode(path.read_bytes())
    return fleet_of(image["fleet"])


async def _log(cluster: Cluster) -> list[Entry]:
    client = await connect_to(cluster.access, name="takeover")
    log = await JetStreamLog.open(client, replicas=await ensure_stream(client, replicas=0))
    head = await log.head()
    entries: list[Entry] = []
    async with asyncio.timeout(WITHIN_S):
        async for batch in log.follow(after=0):
            entries += batch
            if entries[-1].position >= head:
                break
    await log.close()
    await client.close()
    return entries


def _compare(states: list[Fleet | None], entries: list[Entry]) -> Figures:
    """Each leader's own state is that of the leader before it with the commits since, and that of the whole log."""
    codec = Codec(registry())
    written = [state for state in states if state is not None]
    statuses = _statuses(written[-1])
    expected = Fleet()
    compared, took_s = [], 0.0
    for number, state in enumerate(written):
        began = time.process_time()
        _fold(expected, entries, state.position, codec)
        took_s += time.process_time() - began
        _expect_equal(expected, state, f"the state at position {state.position} and the log's")
        compared.append(state.position)
        if number:
            before = written[number - 1]
            _fold(before, entries, state.position, codec)
            _expect_equal(before, state, f"the state at position {state.position} and the old leader's")
            _expect_same_decisions(before, state)
    return {
        "states_compared_at": compared,
        "statuses": statuses,
        "fold_cpu_s": round(took_s, 2),
        "folds_per_cpu_s": round(compared[-1] / took_s),
    }


def _fold(fleet: Fleet, entries: list[Entry], to: int, codec: Codec) -> None:
    for entry in entries[fleet.position : to]:
        fleet.fold(codec.decode(entry))
    expect(fleet.position == to, f"the log leads to {fleet.position}, not to {to}")


def _expect_equal(ours: Fleet, theirs: Fleet, what: str) -> None:
    one, other = portrait(ours), portrait(theirs)
    different = [name for name in one if one[name] != other[name]]
    expect(not different, f"{what} differ in {', '.join(different)}")


def _expect_same_decisions(ours: Fleet, theirs: Fleet) -> None:
    """With more slots than there were, both would give the same tasks to the same agents in the same order."""
    found = []
    for fleet in (ours, theirs):
        _widen(fleet, MORE_SLOTS)
        found.append(decide(fleet, Overlay(), 4_000_000_000_000, limit=DECISIONS))
        _widen(fleet, -MORE_SLOTS)
        for decision in found[-1]:
            fleet.put_back(decision.key)
    expect(len(found[0]) == DECISIONS and found[0] == found[1], "they would not decide the same")


def _widen(fleet: Fleet, slots: int) -> None:
    for agent in fleet.agents.values():
        agent.slots += slots
    for host in fleet.hosts.values():
        host.slots += slots


def _statuses(fleet: Fleet) -> dict[str, int]:
    return dict(sorted(Counter(task.status for task in fleet.tasks.values()).items()))


if __name__ == "__main__":
    main("takeover", run)
