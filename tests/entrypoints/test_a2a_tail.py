"""The tail: one reader of the store for all who follow a task."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from adapters.memory.store import MemoryStore
from core.kernel.errors import TooMany, Unavailable
from core.kernel.ports import Stored
from core.services.positions import PositionGate
from core.task import TaskCancelled, TaskQueued
from entrypoints.a2a import tail as module
from entrypoints.a2a.tail import Seat, Tail
from tests.given import CODEC, History, ManualClock, recorded, submitted

DEADLINE_S = 10.0


class CountingStore(MemoryStore):
    """Counts how often it is read, and fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.error: Exception | None = None

    async def read(self, *, after: int, limit: int) -> list[Stored]:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return await super().read(after=after, limit=limit)


class Room:
    """A history that can grow, the store behind it, and a tail on the store."""

    def __init__(self, **bounds: int) -> None:
        self.store = CountingStore()
        self.history = History(folding=False)
        self.gate = PositionGate()
        self.ending = False
        self.tail = Tail(self.store, CODEC, self.gate, lambda: self.ending, **bounds)

    async def happens(self, task_id: str, *events: Any) -> None:
        self.history.commit("task", task_id, *events)
        await recorded(self.store, self.history, ManualClock())
        self.gate.advance(self.history.head)


async def next_types(seat: Seat, count: int) -> list[tuple[int, str]]:
    got: list[tuple[int, str]] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(got) < count:
            event = await seat.next_event(DEADLINE_S)
            if event is not None:
                got.append((event["position"], event["type"]))
    return got


async def test_a_follower_gets_what_happens_to_its_task_and_nothing_else() -> None:
    room = Room()
    await room.happens("t", submitted(), TaskQueued())
    with room.tail.seat() as one, room.tail.seat() as two, room.tail.seat() as other:
        assert [one.watch("t"), two.watch("t"), other.watch("u")] == [1, 1, 1]
        await room.happens("u", submitted())
        await room.happens("t", TaskCancelled())
        assert await next_types(one, 1) == await next_types(two, 1) == [(3, "task.cancelled")]
        assert await next_types(other, 1) == [(2, "task.submitted")]
        assert await one.next_event(0.0) is None
    assert room.tail.taken == 0


async def test_nobody_follows_and_nothing_is_read() -> None:
    room = Room()
    with room.tail.seat() as seat:
        seat.watch("t")
        await room.happens("t", submitted())
        await next_types(seat, 1)
    async with asyncio.timeout(DEADLINE_S):
        while room.tail.reading:  # noqa: ASYNC110 - nothing tells the end of the reading
            await asyncio.sleep(0.01)
    reads = room.store.reads
    await room.happens("t", TaskQueued())
    assert (room.tail.reading, room.store.reads) == (False, reads)
    with room.tail.seat() as seat:
        assert seat.watch("t") == 2
        await room.happens("t", TaskCancelled())
        assert await next_types(seat, 1) == [(3, "task.cancelled")]


async def test_over_the_bound_a_follower_is_told_to_come_back() -> None:
    room = Room(seats_max=1)
    with room.tail.seat():
        with pytest.raises(TooMany) as caught, room.tail.seat():
            pass
        assert (caught.value.code, caught.value.retry_after_s) == ("too_many_streams", 1)
    with room.tail.seat():
        assert room.tail.taken == 1


async def test_a_follower_that_falls_behind_gets_what_it_has_and_then_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVENTS_MAX", 2)
    room = Room()
    with room.tail.seat() as seat, room.tail.seat() as witness:
        seat.watch("t")
        witness.watch("t")
        await room.happens("t", submitted(), TaskQueued())
        assert len(await next_types(witness, 2)) == 2
        await room.happens("t", TaskCancelled())
        assert await next_types(witness, 1) == [(2, "task.cancelled")]
        assert len(await next_types(seat, 2)) == 2
        with pytest.raises(TooMany) as caught:
            await seat.next_event(DEADLINE_S)
        assert caught.value.code == "slow_client"


@pytest.mark.parametrize("error", [Unavailable("The database is away."), ValueError("a bug")], ids=str)
async def test_what_keeps_the_store_from_being_read_reaches_who_follows_and_the_next_one_begins_anew(
    error: Exception,
) -> None:
    room = Room()
    with room.tail.seat() as seat:
        room.store.error = error
        seat.watch("t")
        with pytest.raises(Exception, match=r"away|inside Hivebus"):
            await seat.next_event(DEADLINE_S)
    room.store.error = None
    with room.tail.seat() as seat:
        seat.watch("t")
        await room.happens("t", submitted())
        assert await next_types(seat, 1) == [(1, "task.submitted")]


async def test_the_end_of_the_program_ends_the_reading() -> None:
    room = Room()
    with room.tail.seat() as seat:
        seat.watch("t")
        room.ending = True
        assert await seat.next_event(DEADLINE_S) is None
