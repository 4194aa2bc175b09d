"""What the recorder hands to the projector of its process: the same as the store, never more, never twice."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

import msgspec

from adapters.clock import SystemClock
from adapters.memory.store import MemoryStore
from core.kernel.commit import Body, Commit, Entry
from core.kernel.ports import Checkpoint, Recording, Stored
from core.services import recent as module
from core.services.positions import PositionGate
from core.services.projector import Projector
from core.services.recent import Recent
from core.services.recorder import Recorder
from tests.core.test_recorder import ScriptedLog, entry
from tests.given import CODEC, running

DEADLINE_S = 10.0


def spans(*ends: int, size: int = 10) -> list[tuple[int, int, list[tuple[Entry, Body]]]]:
    """(after, position, commits) of spans that follow each other."""
    made, after = [], 0
    for end in ends:
        entries = [Entry(position, "hive.log.task.a", "", b"x" * size) for position in range(after + 1, end + 1)]
        body = CODEC.body(entry(1).body)
        made.append((after, end, [(one, body) for one in entries]))
        after = end
    return made


def kept(*ends: int) -> Recent:
    recent = Recent()
    for span in spans(*ends):
        recent.put(*span)
    return recent


class CountingStore(MemoryStore):
    """Counts what is read back; a transaction takes some turns of the loop, as a real one does."""

    def __init__(self) -> None:
        super().__init__()
        self.read_back: list[int] = []

    async def record(self, recordings: Sequence[Recording], *, old: Checkpoint, new: Checkpoint) -> Collection[int]:
        for _ in range(5):
            await asyncio.sleep(0)
        return await super().record(recordings, old=old, new=new)

    async def read(self, *, after: int, limit: int) -> list[Stored]:
        page = await super().read(after=after, limit=limit)
        self.read_back += [stored.entry.position for stored in page]
        return page


class WatchfulViews:
    """Views that note what they fold, and that it was in the store before."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.position = 0
        self.folded: list[int] = []

    async def apply(self, commits: Sequence[Commit], position: int) -> None:
        assert position <= (await self.store.checkpoint()).position, "views are never ahead of the store"
        self.folded += [commit.position for commit in commits]
        self.position = position

    async def refresh(self) -> None:
        raise AssertionError("nothing fails here")


async def projected(store: CountingStore, *batches: list[Entry], recent: Recent) -> list[int]:
    """What the views fold while a recorder records these batches."""
    views, recorded, applied = WatchfulViews(store), PositionGate(), PositionGate()
    recorder = Recorder(ScriptedLog(*batches), store, CODEC, SystemClock(), on_recorded=recorded.advance, recent=recent)
    projector = Projector(store, views, CODEC, recorded, applied.advance, recent)
    async with running(recorder.run()), running(projector.run()):
        assert await applied.wait_for(batches[-1][-1].position, DEADLINE_S)
    return views.folded


def plain(position: int, **changed: object) -> Entry:
    """A commit whose events every program knows."""
    return entry(position, events=[{"type": "task.queued", "schema": 1, "data": {}}], **changed)


def test_a_span_is_given_once_and_the_next_one_after_it() -> None:
    recent = kept(2, 5)
    first, second = recent.take(0), recent.take(2)
    assert first is not None
    assert second is not None
    assert [one.position for one, _ in first.commits] == [1, 2]
    assert (second.position, recent.take(2), recent.take(5)) == (5, None, None)


def test_of_a_span_that_began_earlier_only_the_newer_commits_are_given() -> None:
    found = kept(2, 5).take(3)
    assert found is not None
    assert ([one.position for one, _ in found.commits], found.position) == ([4, 5], 5)


def test_what_lies_behind_a_gap_is_kept_and_the_gap_is_told() -> None:
    recent = Recent()
    recent.put(*spans(4, 6)[1])
    assert (recent.take(1), recent.gap(1)) == (None, 3)
    assert recent.take(4) is not None


def test_beyond_the_bounds_nothing_more_is_kept_until_there_is_room() -> None:
    first, second, third = spans(module.KEPT_MAX, module.KEPT_MAX + 1, module.KEPT_MAX + 2)
    recent = Recent()
    recent.put(*first)
    recent.put(*second)
    assert recent.take(0) is not None
    recent.put(*third)
    assert recent.take(module.KEPT_MAX) is None
    assert recent.gap(module.KEPT_MAX) == 1
    large = Recent()
    large.put(*spans(2, size=module.KEPT_BYTES_MAX // 2 + 1)[0])
    assert large.gap(0) is None


async def test_views_fold_what_was_just_recorded_without_reading_it_back() -> None:
    store, batches = CountingStore(), ([plain(1), plain(2)], [plain(3)])
    assert await projected(store, *batches, recent=Recent()) == [1, 2, 3]
    assert store.read_back == []


async def test_what_was_recorded_before_is_read_from_the_store_and_nothing_is_folded_twice() -> None:
    store = CountingStore()
    older = [plain(position) for position in (1, 2)]
    await projected(store, older, recent=Recent())
    store.read_back.clear()
    assert await projected(store, [plain(3)], [plain(4)], recent=Recent()) == [1, 2, 3, 4]
    assert store.read_back == [1, 2]


async def test_what_the_store_parked_as_a_repeat_is_never_folded() -> None:
    store, first = CountingStore(), plain(1)
    repeat = msgspec.structs.replace(first, position=2, subject="hive.log.task.b")
    assert await projected(store, [first, repeat, plain(3)], recent=Recent()) == [1, 3]
    assert store.read_back == []


async def test_an_event_that_does_not_decode_is_left_out_and_the_position_goes_on() -> None:
    broken = entry(2, events=[{"type": "task.scheduled", "schema": 1, "data": {"not_before_ms": "soon"}}])
    assert await projected(CountingStore(), [plain(1), broken, plain(3)], recent=Recent()) == [1, 3]
