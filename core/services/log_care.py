"""The log against the store, before anything is appended: are they the same history?"""

from __future__ import annotations

from enum import StrEnum

import msgspec
from msgspec import Struct

from core.kernel.commit import Entry
from core.kernel.errors import StartRefused
from core.kernel.merkle import leaf_hash
from core.kernel.ports import EventLog, Store
from core.kernel.times import rfc3339

SEARCH_MAX = 1000


class Verdict(StrEnum):
    """What the comparison found."""

    EQUAL = "equal"
    LOST_TAIL = "lost_tail"
    DIVERGED = "diverged"
    UNPROVEN = "unproven"


class Side(Struct, frozen=True):
    """The commit at the compared position as one side holds it; `occurred_ms` is None where its body tells none."""

    leaf: bytes
    commit_id: str
    occurred_ms: int | None


class Comparison(Struct, frozen=True, kw_only=True):
    """The newest position that both hold, and what each holds there; 0 where there is none.

    EQUAL: the log may be ahead, the recorder will catch up. LOST_TAIL: equal, and the log lacks the store's last
    `lost` commits. DIVERGED: two histories. UNPROVEN: the log holds none of the newest shared positions any more.
    """

    verdict: Verdict
    position: int
    log_head: int
    store_position: int
    lost: int = 0
    log_side: Side | None = None
    store_side: Side | None = None
    recorded_ms: int | None = None


class _Occurred(Struct):
    occurred_at: int


async def compare(log: EventLog, store: Store, *, search_max: int = SEARCH_MAX) -> Comparison:
    """Compare by hash at the newest position that both sides hold. It reads; it changes nothing.

    Trimmed positions are absent from the log: the search goes back over at most `search_max` of them.
    """
    head = await log.head()
    end = (await store.checkpoint()).position
    lost = max(0, end - head)
    newest = min(head, end)
    for position in range(newest, max(0, newest - search_max), -1):
        entry = await log.entry(position)
        if entry is not None:
            return await _judge(entry, store, log_head=head, store_position=end, lost=lost)
    verdict = Verdict.UNPROVEN if newest else Verdict.LOST_TAIL if lost else Verdict.EQUAL
    return Comparison(verdict=verdict, position=0, log_head=head, store_position=end, lost=lost)


async def _judge(entry: Entry, store: Store, *, log_head: int, store_position: int, lost: int) -> Comparison:
    position = entry.position
    leaf = await store.leaf(position)
    held = await store.read(after=position - 1, limit=1)
    assert leaf is not None, f"the store has no commit {position} below its checkpoint"
    log_side = _side(entry, leaf_hash(position, entry.subject, entry.body))
    store_side = _side(held[0].entry, leaf)
    same = log_side.leaf == store_side.leaf
    return Comparison(
        verdict=Verdict.DIVERGED if not same else Verdict.LOST_TAIL if lost else Verdict.EQUAL,
        position=position,
        log_head=log_head,
        store_position=store_position,
        lost=lost,
        log_side=log_side,
        store_side=store_side,
        recorded_ms=held[0].recorded_ms,
    )


def _side(entry: Entry, leaf: bytes) -> Side:
    try:
        occurred_ms = msgspec.json.decode(entry.body, type=_Occurred).occurred_at
    except msgspec.MsgspecError:
        # A parked commit is raw bytes: it has a hash to compare, and no time to show.
        occurred_ms = None
    return Side(leaf=leaf, commit_id=entry.commit_id, occurred_ms=occurred_ms)


def refuse_unless_equal(comparison: Comparison) -> None:
    """Raise StartRefused unless the log continues what the store holds."""
    match comparison.verdict:
        case Verdict.EQUAL:
            return
        case Verdict.LOST_TAIL:
            sentence = (
                f"The log ends at {comparison.log_head} and the store at {comparison.store_position}: "
                f"the log lost {comparison.lost} commits."
            )
        case Verdict.DIVERGED:
            sentence = (
                f"The log and the store hold different commits at position {comparison.position}. "
                f"Log: {_words(comparison.log_side)}. Store: {_words(comparison.store_side)}."
            )
        case Verdict.UNPROVEN:
            sentence = "The log holds none of the store's newest commits, so nothing shows that they belong together."
    raise StartRefused(
        sentence,
        remedy="Start with the log and the store of the same moment, for example both from one backup.",
        code=f"log_{comparison.verdict}",
    )


def _words(side: Side | None) -> str:
    assert side is not None, "a judgement has both sides"
    return f"commit {side.commit_id} of {rfc3339(side.occurred_ms) or 'unknown time'}, leaf {side.leaf.hex()[:16]}"
