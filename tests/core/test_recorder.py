from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from uuid import UUID

import msgspec
import pytest

from adapters.memory.store import MemoryStore
from core.kernel.codec import Codec
from core.kernel.commit import Entry
from core.kernel.errors import Unavailable
from core.kernel.ids import derive
from core.kernel.merkle import Frontier, leaf_hash
from core.kernel.ports import Checkpoint, CheckpointMoved, Recording, Remembered, Stored
from core.kernel.registry import Registry
from core.services.recorder import Lag, Recorder

DEADLINE_S = 10.0
ROOT = UUID("01900000-0000-7000-8000-000000000000")


class ScriptedLog:
    """A log whose `follow` gives exactly the batches of a script, then waits for ever; it is not asked to append."""

    def __init__(self, *batches: Sequence[Entry]) -> None:
        self.batches = batches
        self.followed_after: list[int] = []
        self.closed = 0

    async def follow(self, *, after: int, trimmed_to: int = 0) -> AsyncIterator[Sequence[Entry]]:
        self.followed_after.append(after)
        try:
            for batch in self.batches:
                yield batch
            await asyncio.get_running_loop().create_future()
        finally:
            self.closed += 1

    async def head(self) -> int:
        return max((entry.position for batch in self.batches for entry in batch), default=0)

    async def append(self, subject: str, commit_id: str, body: bytes, *, expected: int) -> int:
        raise AssertionError("a recorder appends nothing")

    async def read(self, subject: str, *, after: int = 0) -> list[Entry]:
        raise AssertionError("a recorder follows")

    async def entry(self, position: int) -> Entry | None:
        raise AssertionError("a recorder follows")

    async def healthy(self) -> bool:
        return True


class SteppingClock:
    """Gives the times of a script, then repeats the last."""

    def __init__(self, *times_ms: int) -> None:
        self.times_ms = list(times_ms)

    def now_ms(self) -> int:
        return self.times_ms.pop(0) if len(self.times_ms) > 1 else self.times_ms[0]

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("a recorder does not sleep")


class RefusingStore(MemoryStore):
    """A store at whose checkpoint another recorder was faster."""

    async def record(self, recordings: Sequence[Recording], *, old: Checkpoint, new: Checkpoint) -> Collection[int]:
        raise CheckpointMoved


def entry(position: int, subject: str = "hive.log.task.a", **changed: object) -> Entry:
    """A commit of ours at a position, with some of its envelope changed."""
    commit_id = str(derive(ROOT, f"commit {position}"))
    envelope: dict[str, object] = {
        "id": commit_id,
        "command": "task.submit",
        "command_id": str(derive(ROOT, f"command {position}")),
        "fingerprint": f"fingerprint {position}",
        "actor": "ada",
        "correlation_id": str(ROOT),
        "causation_id": str(ROOT),
        "occurred_at": 1_000 + position,
        "version": position,
        "events": [{"type": "task.submitted", "schema": 1, "data": {"anything": True}}],
    }
    return Entry(position, subject, commit_id, msgspec.json.encode(envelope | changed))


def frontier_of(entries: Sequence[Entry]) -> tuple[bytes, ...]:
    frontier = Frontier()
    for item in entries:
        frontier.append(leaf_hash(item.position, item.subject, item.body))
    return frontier.encode()


async def record(
    log: ScriptedLog, store: MemoryStore, *, times_ms: Sequence[int] = (5_000,), batch_max: int = 1_000
) -> tuple[Recorder, list[int]]:
    """Run a recorder until it has recorded all that the log holds; what it told on the way."""
    heard: list[int] = []
    done = asyncio.Event()
    head = await log.head()

    def on_recorded(position: int) -> None:
        heard.append(position)
        if position == head:
            done.set()

    recorder = Recorder(
        log, store, Codec(Registry([])), SteppingClock(*times_ms), batch_max=batch_max, on_recorded=on_recorded
    )
    running = asyncio.create_task(recorder.run())
    reached = asyncio.create_task(done.wait())
    await asyncio.wait([running, reached], timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
    for task in (running, reached):
        task.cancel()
    outcome, _ = await asyncio.gather(running, reached, return_exceptions=True)
    if not isinstance(outcome, asyncio.CancelledError):
        assert isinstance(outcome, BaseException)
        raise outcome
    assert done.is_set(), f"recorded up to {recorder.position} of {head} within {DEADLINE_S} s"
    return recorder, heard


async def test_every_commit_of_the_log_is_in_the_store_with_checkpoint_and_frontier() -> None:
    entries = [entry(1), entry(2, "hive.log.agent.b"), entry(3)]
    store = MemoryStore()
    recorder, heard = await record(ScriptedLog(entries[:2], entries[2:]), store)
    assert await store.read(after=0, limit=9) == [Stored(item, 5_000) for item in entries]
    assert await store.checkpoint() == Checkpoint(position=3, recorded_ms=5_000, frontier=frontier_of(entries))
    assert await store.leaf(2) == leaf_hash(2, "hive.log.agent.b", entries[1].body)
    assert (recorder.position, heard) == (3, [0, 2, 3])


async def test_an_accepted_command_is_remembered() -> None:
    store = MemoryStore()
    await record(ScriptedLog([entry(1)]), store)
    assert await store.remembered(derive(ROOT, "command 1")) == Remembered(1, "fingerprint 1")


@pytest.mark.parametrize("subject", ["hive.log.refusal.0190", "hive.log.refusals.ada"])
async def test_a_refusal_is_recorded_and_not_remembered(subject: str) -> None:
    store = MemoryStore()
    refusal = entry(1, subject)
    await record(ScriptedLog([refusal]), store)
    assert await store.read(after=0, limit=9) == [Stored(refusal, 5_000)]
    assert await store.remembered(derive(ROOT, "command 1")) is None


async def test_a_restart_goes_on_at_the_checkpoint_and_ends_with_the_same_frontier() -> None:
    entries = [entry(position) for position in range(1, 8)]
    store = MemoryStore()
    await record(ScriptedLog(entries[:3]), store)
    second = ScriptedLog(entries[3:])
    _, heard = await record(second, store)
    assert (second.followed_after, heard) == ([3], [3, 7])
    assert await store.checkpoint() == Checkpoint(position=7, recorded_ms=5_000, frontier=frontier_of(entries))


async def test_a_batch_over_the_bound_is_recorded_in_several_transactions() -> None:
    entries = [entry(position) for position in range(1, 8)]
    store = MemoryStore()
    _, heard = await record(ScriptedLog(entries), store, batch_max=3)
    assert heard == [0, 3, 6, 7]
    assert [stored.entry for stored in await store.read(after=0, limit=9)] == entries


async def test_recorded_time_never_decreases_when_the_clock_goes_back() -> None:
    store = MemoryStore()
    await record(ScriptedLog([entry(1)], [entry(2)], [entry(3)]), store, times_ms=[5_000, 4_000, 6_000])
    assert [await store.recorded_ms(position) for position in (1, 2, 3)] == [5_000, 5_000, 6_000]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Entry(2, "hive.log.task.a", str(ROOT), b"\xff not json"), "undecodable"),
        (Entry(2, "hive.log.task.a", str(ROOT), b'{"id": 1}'), "undecodable"),
        (entry(2, id=str(ROOT)), "commit_id_mismatch"),
        (msgspec.structs.replace(entry(2, id="no uuid"), commit_id="no uuid"), "invalid_commit_id"),
        (entry(2, command_id="no uuid"), "invalid_command_id"),
        (entry(2, version=-1), "invalid_version"),
        (entry(2, version=2**63), "invalid_version"),
        (entry(2, actor="a" * 513), "invalid_name"),
        (entry(2, command="nul\0"), "invalid_name"),
    ],
)
async def test_what_is_no_commit_of_ours_is_stored_raw_parked_and_alarmed(
    bad: Entry, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    with caplog.at_level(logging.ERROR, "hivebus.recorder"):
        await record(ScriptedLog([entry(1), bad, entry(3)]), store)
    assert await store.read(after=0, limit=9) == [
        Stored(entry(1), 5_000),
        Stored(bad, 5_000, reason),
        Stored(entry(3), 5_000),
    ]
    assert (await store.checkpoint()).frontier == frontier_of([entry(1), bad, entry(3)])
    assert await store.remembered(derive(ROOT, "command 2")) is None
    assert [line.message for line in caplog.records] == [f"parked 1 commits; the first at 2: {reason}"]


@pytest.mark.parametrize(
    ("batches", "recorded", "given", "due"),
    [
        ([[entry(2)]], 0, 2, 1),
        ([[entry(1)], [entry(3)]], 1, 3, 2),
        ([[entry(1)], [entry(2), entry(4)]], 1, 4, 3),
        ([[entry(1)], [entry(1)]], 1, 1, 2),
    ],
    ids=["at the start", "between batches", "inside a batch", "a repeat"],
)
async def test_a_hole_in_the_log_stops_the_recorder_with_an_alarm_and_nothing_after_it_is_recorded(
    batches: list[list[Entry]], recorded: int, given: int, due: int, caplog: pytest.LogCaptureFixture
) -> None:
    store, log = MemoryStore(), ScriptedLog(*batches)
    recorder = Recorder(log, store, Codec(Registry([])), SteppingClock(5_000))
    with caplog.at_level(logging.ERROR, "hivebus.recorder"), pytest.raises(Unavailable) as stopped:
        await asyncio.wait_for(recorder.run(), DEADLINE_S)
    assert stopped.value.code == "log_hole"
    assert ((await store.checkpoint()).position, recorder.position, log.closed) == (recorded, recorded, 1)
    assert [line.message for line in caplog.records] == [
        f"the log gave position {given} where {due} was due: recording stops"
    ]


async def test_when_another_recorder_was_faster_this_one_stops() -> None:
    log = ScriptedLog([entry(1)])
    recorder = Recorder(log, RefusingStore(), Codec(Registry([])), SteppingClock(5_000))
    with pytest.raises(CheckpointMoved):
        await asyncio.wait_for(recorder.run(), DEADLINE_S)
    assert (recorder.position, log.closed) == (0, 1)


async def test_cancelling_the_recorder_closes_what_it_follows() -> None:
    log = ScriptedLog([entry(1)])
    await record(log, MemoryStore())
    assert log.closed == 1


async def test_lag_is_counted_against_the_log_and_timed_on_the_newest_commit() -> None:
    log = ScriptedLog([entry(1)], [entry(2)])
    idle = Recorder(log, MemoryStore(), Codec(Registry([])), SteppingClock(5_000))
    assert await idle.lag() == Lag(commits=2, delay_ms=None)
    recorder, _ = await record(log, MemoryStore())
    assert await recorder.lag() == Lag(commits=0, delay_ms=5_000 - 1_002)
