"""The log against the store, before anything is appended: are they the same history?"""

from __future__ import annotations

from enum import StrEnum
from typing import NotRequired, TypedDict

import msgspec
from msgspec import Struct

from core.kernel.answers import Position, Time
from core.kernel.commit import Entry
from core.kernel.errors import StartRefused
from core.kernel.merkle import leaf_hash
from core.kernel.ports import LogUpkeep, Store
from core.kernel.times import rfc3339

SEARCH_MAX = 1000
REMEDY = (
    "`hivebus log diverge` shows both sides. Start with the log and the store of one history, for example the broker's "
    "own directory put back, or both from one backup."
)


class Verdict(StrEnum):
    """What the comparison found."""

    EQUAL = "equal"
    LOST_TAIL = "lost_tail"
    DIVERGED = "diverged"
    UNPROVEN = "unproven"


class Side(Struct, frozen=True):
    """The commit at the compared position as one side holds it; `occurred_ms` is None where its body tells none."""

    leaf: bytes
    subject: str
    commit_id: str
    occurred_ms: int | None


class Comparison(Struct, frozen=True, kw_only=True):
    """The newest position that both hold, and what each holds there; 0 where there is none.

    EQUAL: the log may be ahead, the recorder will catch up. LOST_TAIL: equal, and the log lacks the store's last
    `lost` commits. DIVERGED: two histories, equal up to `parted_after` as far as both can be seen. UNPROVEN: the log
    holds none of the newest shared positions any more.
    """

    verdict: Verdict
    position: int
    log_head: int
    store_position: int
    lost: int = 0
    log_side: Side | None = None
    store_side: Side | None = None
    recorded_ms: int | None = None
    parted_after: int | None = None


class _Occurred(Struct):
    occurred_at: int


async def compare(log: LogUpkeep, store: Store, *, search_max: int = SEARCH_MAX) -> Comparison:
    """Compare by hash at the newest position that both sides hold. It reads; it changes nothing.

    Trimmed positions are absent from the log: the search goes back over at most `search_max` of them.
    """
    head = await log.head()
    end = (await store.checkpoint()).position
    lost = max(0, end - head)
    newest = min(head, end)
    entry = await _newest_held(log, newest, max(0, newest - search_max))
    if entry is not None:
        found = await _judge(entry, store, log_head=head, store_position=end, lost=lost)
        if found.verdict is Verdict.DIVERGED:
            found = msgspec.structs.replace(found, parted_after=await _parted_after(log, store, entry.position))
        return found
    verdict = Verdict.UNPROVEN if newest else Verdict.LOST_TAIL if lost else Verdict.EQUAL
    return Comparison(verdict=verdict, position=0, log_head=head, store_position=end, lost=lost)


async def _newest_held(log: LogUpkeep, newest: int, above: int) -> Entry | None:
    """The newest entry at or before a position that the log still holds, looking back no further than `above`."""
    for position in range(newest, above, -1):
        entry = await log.entry(position)
        if entry is not None:
            return entry
    return None


async def _parted_after(log: LogUpkeep, store: Store, different: int) -> int:
    """The last position up to which two histories are the same: once they differ, they never agree again."""
    same = 0
    while different - same > 1:
        middle = (same + different) // 2
        entry = await _newest_held(log, middle, max(same, middle - SEARCH_MAX))
        if entry is None or await store.leaf(entry.position) == leaf_hash(entry.position, entry.subject, entry.body):
            same = middle
        else:
            different = entry.position
    return same


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
    return Side(leaf=leaf, subject=entry.subject, commit_id=entry.commit_id, occurred_ms=occurred_ms)


def refuse_unless_equal(comparison: Comparison) -> None:
    """Raise StartRefused unless the log continues what the store holds."""
    if comparison.verdict is Verdict.EQUAL:
        return
    raise StartRefused(
        sentence_of(comparison),
        remedy=REMEDY,
        code=f"log_{comparison.verdict}",
    )


def sentence_of(comparison: Comparison) -> str:
    """What was found, with both sides where they differ."""
    match comparison.verdict:
        case Verdict.EQUAL:
            return f"The log continues what the store holds, to position {comparison.store_position}."
        case Verdict.LOST_TAIL:
            return (
                f"The log ends at {comparison.log_head} and the store at {comparison.store_position}: "
                f"the log lost {comparison.lost} commits."
            )
        case Verdict.DIVERGED:
            return (
                f"The log and the store hold different commits at position {comparison.position}; they are the same "
                f"up to {comparison.parted_after}. "
                f"Log (to {comparison.log_head}): {_words(comparison.log_side)}. "
                f"Store (to {comparison.store_position}): {_words(comparison.store_side)}."
            )
        case Verdict.UNPROVEN:
            return "The log holds none of the store's newest commits, so nothing shows that they belong together."


def _words(side: Side | None) -> str:
    assert side is not None, "a judgement has both sides"
    when = rfc3339(side.occurred_ms) or "unknown time"
    return f"commit {side.commit_id} of {when} on {side.subject}, leaf {side.leaf.hex()[:16]}"


class SideDocument(TypedDict):
    """How far one side goes, and the commit at the compared position as it holds it."""

    head: Position
    leaf: NotRequired[str]
    subject: NotRequired[str]
    commit_id: NotRequired[str]
    occurred_at: NotRequired[Time | None]


class StoreDocument(SideDocument):
    """The store's side."""

    recorded_at: Time | None


class ComparisonDocument(TypedDict):
    """The log against the store at the newest position that both hold."""

    verdict: Verdict
    sentence: str
    position: Position
    parted_after: Position | None
    lost: int
    log: SideDocument
    store: StoreDocument


def as_document(comparison: Comparison) -> ComparisonDocument:
    """The comparison as JSON shows it: hashes in hex, times as RFC 3339."""
    return {
        "verdict": comparison.verdict,
        "sentence": sentence_of(comparison),
        "position": comparison.position,
        "parted_after": comparison.parted_after,
        "lost": comparison.lost,
        "log": _document(comparison.log_head, comparison.log_side),
        "store": {
            **_document(comparison.store_position, comparison.store_side),
            "recorded_at": rfc3339(comparison.recorded_ms),
        },
    }


def _document(head: int, side: Side | None) -> SideDocument:
    if side is None:
        return {"head": head}
    return {
        "head": head,
        "commit_id": side.commit_id,
        "subject": side.subject,
        "occurred_at": rfc3339(side.occurred_ms),
        "leaf": side.leaf.hex(),
    }
