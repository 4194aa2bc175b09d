"""The timeline: one row per event, for people who ask who did what, and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, select

from core.kernel.answers import Position, Time
from core.kernel.commit import Commit
from core.kernel.times import rfc3339
from core.projection import JournalView, Row
from projections.view import Reader

HISTORY_MAX = 1000

metadata = MetaData()

timeline = Table(
    "timeline",
    metadata,
    Column("position", BigInteger, primary_key=True),
    Column("index", Integer, primary_key=True),
    Column("time_ms", BigInteger, nullable=False),
    Column("type", String(100), nullable=False),
    Column("noun", String(32), nullable=False),
    Column("aggregate_id", String(64), nullable=False),
    Column("actor", String(100), nullable=False),
    Column("command", String(100), nullable=False),
    Column("correlation_id", String(64), nullable=False),
    Column("causation_id", String(64), nullable=False),
)
Index("timeline_aggregate", timeline.c.aggregate_id, timeline.c.position)
Index("timeline_correlation", timeline.c.correlation_id, timeline.c.position)
Index("timeline_actor", timeline.c.actor, timeline.c.position)


class Timeline(JournalView):
    """Every event of every aggregate."""

    name = "timeline"
    table = timeline
    nouns = frozenset()  # all of them

    def rows(self, commit: Commit) -> Sequence[Row]:
        """One row per event."""
        body = commit.body
        return [
            {
                "position": commit.position,
                "index": index,
                "time_ms": body.occurred_at,
                "type": record.type,
                "noun": commit.noun,
                "aggregate_id": commit.aggregate_id,
                "actor": body.actor,
                "command": body.command,
                "correlation_id": body.correlation_id,
                "causation_id": body.causation_id,
            }
            for index, record in enumerate(body.events)
        ]


class Happening(TypedDict):
    """One event of one aggregate."""

    position: Position
    time: Time
    type: str
    actor: str


async def history_of(reader: Reader, noun: str, aggregate_id: str) -> list[Happening]:
    """What happened to one aggregate, oldest first, as of the reader's position; at most 1,000 events."""
    statement = select(timeline).where(timeline.c.aggregate_id == aggregate_id, timeline.c.noun == noun)
    if reader.at is not None:
        statement = statement.where(timeline.c.position <= reader.at)
    statement = statement.order_by(timeline.c.position, timeline.c.index).limit(HISTORY_MAX)
    return [
        {"position": row["position"], "time": rfc3339(row["time_ms"]), "type": row["type"], "actor": row["actor"]}
        for row in await reader.rows(statement)
    ]
