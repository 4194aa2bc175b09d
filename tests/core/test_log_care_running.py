"""The care of the log while a program lives: the gate, a lost tail, another history, commits that nobody has."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from adapters.memory.care import MemoryCare
from adapters.memory.log import MemoryLog
from adapters.memory.store import MemoryStore
from core.kernel.commit import Entry
from core.kernel.errors import StartRefused, Unavailable
from core.kernel.merkle import leaf_hash
from core.kernel.ports import Checkpoint, Recording, Trim
from core.services.log_care import CareState, LogCare, Picture
from tests.given import ManualClock, running, until


class HandGate:
    """A gate whose connections a test makes."""

    def __init__(self) -> None:
        self.connection = 1
        self.opened: list[int] = []
        self._changed = asyncio.Event()

    async def next_connection(self, after: int) -> int:
        while self.connection <= after:
            self._changed.clear()
            await self._changed.wait()
        return self.connection

    def open(self, connection: int) -> None:
        self.opened.append(connection)

    def reconnect(self) -> None:
        self.connection += 1
        self._changed.set()


def entry(position: int, text: str = "ours") -> Entry:
    return Entry(position, f"hive.log.task.{position % 7}", f"{text} {position}", b'{"occurred_at": %d}' % position)


def ours(first: int, last: int, text: str = "ours") -> list[Entry]:
    return [entry(position, text) for position in range(first, last + 1)]


def theirs(first: int, last: int) -> list[Entry]:
    return [Entry(p, "hive.log.task.x", f"theirs {p}", b'{"occurred_at": 1}') for p in range(first, last + 1)]


async def log_of(entries: Sequence[Entry]) -> MemoryLog:
    log = MemoryLog()
    await log.restore(entries)
    return log


async def all_of(log: MemoryLog) -> list[Entry | None]:
    return [await log.entry(position) for position in range(1, await log.head() + 1)]


class World:
    """A store with 600 commits, and a log that a test replaces."""

    def __init__(self) -> None:
        self.gate = HandGate()
        self.store = MemoryStore()
        self.kept = MemoryCare(self.store)
        self.log = MemoryLog()
        self.clock = ManualClock()
        self.picture = Picture(0)
        self.care = LogCare(self.log, self.gate, self.store, self.kept, self.clock)

    async def given(self, log: Sequence[Entry], store: Sequence[Entry]) -> None:
        recordings = [Recording(entry=e, leaf=leaf_hash(e.position, e.subject, e.body)) for e in store]
        await self.store.record(recordings, old=Checkpoint(), new=Checkpoint(position=len(store), recorded_ms=1))
        await self.replaced_by(log)

    async def replaced_by(self, entries: Sequence[Entry]) -> None:
        self.log = await log_of(entries)
        self.care._log = self.log

    async def drained(self) -> None:
        """All that the log gave is recorded."""


@pytest.fixture
async def world() -> World:
    return World()


async def test_the_gate_opens_when_log_and_store_hold_one_history(world: World) -> None:
    await world.given(ours(1, 5), ours(1, 3))
    await world.care.start()
    assert (world.gate.opened, world.care.state) == ([1], CareState(state="equal"))


@pytest.mark.parametrize("left", [0, 1, 300, 599])
async def test_a_lost_tail_is_put_back_byte_for_byte_before_the_gate_opens(world: World, left: int) -> None:
    await world.given(ours(1, left), ours(1, 600))
    await world.care.start()
    assert await all_of(world.log) == ours(1, 600)
    assert world.care.state == CareState(state="equal", restored=600 - left, lost=600 - left)
    assert world.gate.opened == [1]


async def test_a_start_on_another_history_is_refused_and_the_gate_stays_shut(world: World) -> None:
    await world.given([*ours(1, 2), *theirs(3, 9)], ours(1, 5))
    with pytest.raises(StartRefused, match="the same up to 2") as refused:
        await world.care.start()
    assert "theirs 5" in refused.value.sentence
    assert "ours 5" in refused.value.sentence
    assert world.gate.opened == []


async def test_every_new_connection_is_compared_before_the_gate_opens_again(world: World) -> None:
    await world.given(ours(1, 20), ours(1, 20))
    await world.care.start()
    async with running(world.care.run(world.drained, lambda: world.picture)):
        await world.replaced_by(ours(1, 4))
        world.gate.reconnect()
        await until(lambda: world.gate.opened == [1, 2], "the gate to open")
    assert await all_of(world.log) == ours(1, 20)


async def test_what_the_log_handed_over_is_recorded_before_it_is_compared(world: World) -> None:
    await world.given(ours(1, 20), [])
    await world.care.start()
    drained = asyncio.Event()

    async def drain() -> None:
        drained.set()
        await world.given(ours(1, 4), ours(1, 20))

    world.picture = Picture(20, entry(20))
    async with running(world.care.run(drain, lambda: world.picture)):
        world.gate.reconnect()
        await until(lambda: world.gate.opened == [1, 2], "the gate to open")
    assert drained.is_set()
    assert await all_of(world.log) == ours(1, 20)


async def test_another_history_keeps_the_gate_shut_until_the_right_one_is_back(world: World) -> None:
    await world.given(ours(1, 20), ours(1, 20))
    await world.care.start()
    async with running(world.care.run(world.drained, lambda: world.picture)):
        await world.replaced_by([*ours(1, 10), *theirs(11, 30)])
        world.gate.reconnect()
        await until(lambda: world.care.state.state == "diverged", "the verdict")
        assert world.gate.opened == [1]
        assert "the same up to 10" in (world.care.state.problem or "")
        await world.replaced_by(ours(1, 20))
        world.gate.reconnect()
        await until(lambda: world.gate.opened == [1, 3], "the gate to open")
    assert world.care.state.problem is None


@pytest.mark.parametrize(
    "picture",
    [Picture(21), Picture(20, Entry(20, "hive.log.task.x", "lost", b"{}")), Picture(20, entry(21))],
    ids=["a position beyond the log", "another commit at a position", "an entry beyond the log"],
)
async def test_a_process_that_knows_of_commits_that_nobody_has_must_end(world: World, picture: Picture) -> None:
    await world.given(ours(1, 20), ours(1, 20))
    await world.care.start()
    world.gate.reconnect()
    with pytest.raises(Unavailable) as lost:
        await world.care.run(world.drained, lambda: picture)
    assert lost.value.code == "log_commits_lost"
    assert world.gate.opened == [1]


async def test_a_folded_entry_that_was_trimmed_is_no_lost_one(world: World) -> None:
    await world.given(ours(1, 20), ours(1, 20))
    await world.log.purge(entry(5).subject, through=5)
    await world.kept.add_trim(Trim(trimmed_to=5, at_ms=1, actor="ada"))
    await world.care.start()
    async with running(world.care.run(world.drained, lambda: Picture(5, entry(5)))):
        world.gate.reconnect()
        await until(lambda: world.gate.opened == [1, 2], "the gate to open")


async def test_a_broker_that_goes_away_meanwhile_is_compared_when_it_answers(world: World) -> None:
    await world.given(ours(1, 20), ours(1, 20))
    await world.care.start()
    silent = True
    head = world.log.head

    async def sometimes() -> int:
        if silent:
            raise Unavailable("silence")
        return await head()

    world.log.head = sometimes  # type: ignore[method-assign]
    async with running(world.care.run(world.drained, lambda: world.picture)):
        world.gate.reconnect()
        await until(lambda: world.clock.sleeping > 0, "the care to wait")
        assert world.gate.opened == [1]
        silent = False
        world.clock.advance(1.0)
        await until(lambda: world.gate.opened == [1, 2], "the gate to open")
