"""The queue: what waits, for how long, and what has given up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, TypedDict

from msgspec import Meta, Struct
from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, func, select

from core import task as t
from core.kernel.answers import Position, Unknown
from core.kernel.commit import Commit, Event
from core.kernel.registry import QuerySpec, Route, doc_of
from core.projection import Row, RowView
from projections.pauses import Pause, pauses_of
from projections.replays import replayed_ids
from projections.task_queries import count_completed
from projections.view import Reader, true_at, versioned

metadata = MetaData()

queue = Table(
    "queue",
    metadata,
    Column("id", String(36), primary_key=True),
    *versioned(),
    Column("state", String(16), nullable=False),
    Column("type", String(100), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("since_ms", BigInteger, nullable=False),
)
Index("queue_state", queue.c.valid_to, queue.c.state, queue.c.since_ms)


class Queue(RowView):
    """A row per task that has not ended well: queued, scheduled, held by an attempt, or dead-lettered."""

    name = "queue"
    table = queue
    nouns = frozenset({"task"})

    def touched(self, commit: Commit, event: Event) -> Iterable[str]:
        """The task itself."""
        return (commit.aggregate_id,)

    def fold(self, row: Row | None, commit: Commit, event: Event) -> Row | None:
        """A task enters when it is submitted and leaves when it is completed, cancelled or expired."""
        since_ms = commit.body.occurred_at
        if isinstance(event, t.TaskSubmitted):
            return {
                "id": commit.aggregate_id,
                "state": "submitted",
                "type": event.type,
                "priority": event.priority,
                "since_ms": since_ms,
            }
        if row is None:
            return None
        match event:
            case t.TaskBlocked():
                return {**row, "state": "blocked", "since_ms": since_ms}
            case t.TaskAsked():
                return {**row, "state": "input_required", "since_ms": since_ms}
            case t.TaskQueued():
                return {**row, "state": "queued", "since_ms": since_ms}
            case t.TaskScheduled():
                return {**row, "state": "scheduled", "since_ms": since_ms}
            case t.TaskAssigned():
                return {**row, "state": "held", "since_ms": since_ms}
            case t.TaskFailed():
                return {**row, "state": "dead_lettered", "since_ms": since_ms}
            case t.TaskCompleted() | t.TaskCancelled() | t.TaskExpired():
                return None
            case _:
                return row


class ShowQueue(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show how much waits, by priority and type, how old the oldest is, and how fast work gets done."""


class QueueFigures(TypedDict):
    """What waits: `depth` tasks can be assigned now, the oldest of them for `oldest_age_s` seconds."""

    depth: int
    by_priority: Annotated[dict[str, int], Meta(description="How many of them, by priority from 0 to 9.")]
    by_type: Annotated[dict[str, int], Meta(description="How many of them, by type.")]
    oldest_age_s: float | None
    throughput_per_minute: Annotated[int, Meta(description="Tasks that were completed in the last 60 s.")]
    blocked: Annotated[int, Meta(description="Tasks that wait for what they depend on.")]
    scheduled: Annotated[int, Meta(description="Tasks that wait for a time: their own, or a back-off.")]
    input_required: Annotated[int, Meta(description="Tasks that wait for an answer.")]
    dead_lettered: Annotated[int, Meta(description="Tasks that failed for good and were not replayed.")]
    pauses: list[Pause]
    unknown: Unknown
    position: Position


async def show_queue(query: ShowQueue, reader: Reader) -> QueueFigures:
    """Counted from the rows as of the reader's position."""
    now = true_at(queue, reader.at)
    groups = (
        select(
            queue.c.state,
            queue.c.priority,
            queue.c.type,
            func.count().label("n"),
            func.min(queue.c.since_ms).label("oldest"),
        )
        .where(now, queue.c.state != "held")
        .group_by(queue.c.state, queue.c.priority, queue.c.type)
    )
    by_priority: dict[str, int] = {}
    by_type: dict[str, int] = {}
    counts: Counter[str] = Counter()
    oldest_ms: int | None = None
    for row in await reader.rows(groups):
        counts[row["state"]] += row["n"]
        if row["state"] == "queued":
            by_priority[str(row["priority"])] = by_priority.get(str(row["priority"]), 0) + row["n"]
            by_type[row["type"]] = by_type.get(row["type"], 0) + row["n"]
            oldest_ms = row["oldest"] if oldest_ms is None else min(oldest_ms, row["oldest"])
    # From the replays to what they are of: dead letters are many, and stay; replays are few.
    again = select(func.count().label("n")).where(
        true_at(queue, reader.at, selective=False),
        queue.c.state == "dead_lettered",
        queue.c.id.in_(replayed_ids(reader)),
    )
    [replays] = await reader.rows(again)
    return {
        "depth": counts["queued"],
        "by_priority": by_priority,
        "by_type": by_type,
        "oldest_age_s": None if oldest_ms is None else max(0, reader.now_ms - oldest_ms) / 1000,
        "throughput_per_minute": await count_completed(reader, since_ms=reader.now_ms - 60_000),
        "blocked": counts["blocked"],
        "scheduled": counts["scheduled"],
        "input_required": counts["input_required"],
        "dead_lettered": counts["dead_lettered"] - replays["n"],
        "pauses": await pauses_of(reader),
        "unknown": {"oldest_age_s": "nothing is queued"} if oldest_ms is None else {},
        "position": reader.position,
    }


QUERIES = (QuerySpec("queue.show", ShowQueue, show_queue, Route("GET", "/api/queue"), doc_of(ShowQueue)),)
