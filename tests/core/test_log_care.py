from __future__ import annotations

from collections.abc import Sequence

import pytest

from adapters.memory.store import MemoryStore
from core.kernel.commit import Entry
from core.kernel.errors import StartRefused
from core.kernel.merkle import leaf_hash
from core.kernel.ports import Checkpoint, Recording
from core.services.comparison import Comparison, Side, Verdict, compare, refuse_unless_equal


class HeldLog:
    """A log that holds what it was given; positions that are missing below its head were trimmed."""

    def __init__(self, entries: Sequence[Entry], head: int | None = None) -> None:
        self.entries = {entry.position: entry for entry in entries}
        self.last = max(self.entries, default=0) if head is None else head

    async def head(self) -> int:
        return self.last

    async def entry(self, position: int) -> Entry | None:
        return self.entries.get(position)

    async def restore(self, entries: Sequence[Entry]) -> None:
        raise AssertionError("a comparison appends nothing")

    async def subjects(self, *, offset: int) -> dict[str, int]:
        raise AssertionError("a comparison reads by position")

    async def purge(self, subject: str, *, through: int) -> int:
        raise AssertionError("a comparison takes nothing away")

    async def size(self) -> int:
        raise AssertionError("a comparison reads by position")


def entry(position: int, text: str = "ours") -> Entry:
    body = b'{"occurred_at": %d, "text": "%s"}' % (position * 10, text.encode())
    return Entry(position, "hive.log.task.a", f"{text} {position}", body)


def side(held: Entry, occurred_ms: int | None) -> Side:
    return Side(leaf_hash(held.position, held.subject, held.body), held.subject, held.commit_id, occurred_ms)


def ours(last: int) -> list[Entry]:
    return [entry(position) for position in range(1, last + 1)]


async def store_of(*entries: Entry) -> MemoryStore:
    store = MemoryStore()
    recordings = [Recording(entry=e, leaf=leaf_hash(e.position, e.subject, e.body)) for e in entries]
    new = Checkpoint(position=len(entries), recorded_ms=777)
    await store.record(recordings, old=Checkpoint(), new=new)
    return store


async def test_two_empty_sides_are_equal() -> None:
    assert await compare(HeldLog([]), MemoryStore()) == Comparison(
        verdict=Verdict.EQUAL, position=0, log_head=0, store_position=0
    )


@pytest.mark.parametrize("head", [3, 5], ids=["of the same length", "ahead of the store"])
async def test_a_log_that_holds_the_stores_newest_commit_is_equal(head: int) -> None:
    same = side(entry(3), 30)
    found = await compare(HeldLog(ours(head)), await store_of(*ours(3)))
    assert found == Comparison(
        verdict=Verdict.EQUAL,
        position=3,
        log_head=head,
        store_position=3,
        log_side=same,
        store_side=same,
        recorded_ms=777,
    )
    refuse_unless_equal(found)


async def test_a_log_that_lost_its_tail_is_told_with_the_number_of_lost_commits() -> None:
    same = side(entry(2), 20)
    found = await compare(HeldLog(ours(2)), await store_of(*ours(5)))
    assert found == Comparison(
        verdict=Verdict.LOST_TAIL,
        position=2,
        log_head=2,
        store_position=5,
        lost=3,
        log_side=same,
        store_side=same,
        recorded_ms=777,
    )
    with pytest.raises(StartRefused, match="ends at 2 and the store at 5: the log lost 3 commits") as refused:
        refuse_unless_equal(found)
    assert refused.value.code == "log_lost_tail"


async def test_a_log_that_lost_everything_lost_the_whole_store() -> None:
    assert await compare(HeldLog([]), await store_of(*ours(4))) == Comparison(
        verdict=Verdict.LOST_TAIL, position=0, log_head=0, store_position=4, lost=4
    )


@pytest.mark.parametrize("head", [2, 3, 6], ids=["shorter", "of the same length", "longer"])
async def test_another_history_is_shown_from_both_sides(head: int) -> None:
    theirs = [entry(position, "theirs") for position in range(1, head + 1)]
    newest = min(head, 3)
    found = await compare(HeldLog(theirs), await store_of(*ours(3)))
    assert found == Comparison(
        verdict=Verdict.DIVERGED,
        position=newest,
        log_head=head,
        store_position=3,
        lost=3 - newest,
        log_side=side(entry(newest, "theirs"), newest * 10),
        store_side=side(entry(newest), newest * 10),
        recorded_ms=777,
        parted_after=0,
    )
    with pytest.raises(StartRefused, match=f"different commits at position {newest}") as refused:
        refuse_unless_equal(found)
    assert refused.value.code == "log_diverged"


async def test_trimmed_positions_are_passed_over_down_to_the_newest_that_both_hold() -> None:
    found = await compare(HeldLog([entry(1)], head=4), await store_of(*ours(4)))
    assert (found.verdict, found.position, found.log_side) == (Verdict.EQUAL, 1, side(entry(1), 10))


async def test_a_log_that_holds_none_of_the_searched_positions_proves_nothing() -> None:
    found = await compare(HeldLog([entry(1)], head=4), await store_of(*ours(4)), search_max=3)
    assert found == Comparison(verdict=Verdict.UNPROVEN, position=0, log_head=4, store_position=4)
    with pytest.raises(StartRefused, match="nothing shows that they belong together") as refused:
        refuse_unless_equal(found)
    assert refused.value.code == "log_unproven"


async def test_a_parked_body_is_compared_by_its_bytes_and_has_no_time_to_show() -> None:
    raw = Entry(1, "hive.log.task.a", "", b"\xff")
    found = await compare(HeldLog([raw]), await store_of(raw))
    assert (found.verdict, found.log_side, found.store_side) == (Verdict.EQUAL, side(raw, None), side(raw, None))
