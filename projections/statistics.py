"""Statistics: how attempts went, by task type and agent type."""

from __future__ import annotations

import statistics as figures
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypedDict

from msgspec import Meta, Struct
from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, select

from core import task as t
from core.kernel.answers import Position, Unknown
from core.kernel.commit import Commit
from core.kernel.registry import QuerySpec, Route, doc_of
from core.projection import JournalView, Row
from core.scheduling.statistics import BADLY, WELL
from projections.view import Reader

# Below that a rate or a duration would be a guess.
SAMPLES_MIN = 5

metadata = MetaData()

attempts = Table(
    "attempts",
    metadata,
    Column("position", BigInteger, primary_key=True),
    Column("index", Integer, primary_key=True),
    Column("type", String(100)),
    Column("agent_type", String(100)),
    Column("outcome", String(32), nullable=False),
    Column("took_ms", BigInteger),
    Column("ended_ms", BigInteger, nullable=False),
)
Index("attempts_type", attempts.c.type, attempts.c.position)
Index("attempts_ended", attempts.c.ended_ms)


class Attempts(JournalView):
    """A row per attempt that ended. `took_ms` is null where nobody knows when it began."""

    name = "attempts"
    table = attempts
    nouns = frozenset({"task"})

    def rows(self, commit: Commit) -> Sequence[Row]:
        """The ends among a commit's events."""
        return [
            {
                "position": commit.position,
                "index": index,
                "type": event.type,
                "agent_type": event.agent_type,
                "outcome": "completed" if isinstance(event, t.TaskCompleted) else event.outcome,
                "took_ms": None if not event.started_ms else max(0, commit.body.occurred_at - event.started_ms),
                "ended_ms": commit.body.occurred_at,
            }
            for index, event in enumerate(commit.events)
            if isinstance(event, t.TaskCompleted | t.AttemptEnded)
        ]


class ListStatistics(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List how attempts went by task type and agent type, over the newest `attempts` of them."""

    type: str | None = None
    attempts: Annotated[int, Meta(ge=1, le=10_000)] = 5_000


class TypeStatistics(TypedDict):
    """How the attempts of an agent type on a task type went; both are empty text where the log does not say."""

    type: str
    agent_type: str
    completed: int
    failed: int
    not_counted: Annotated[int, Meta(description="Lost, cancelled or interrupted: they say nothing of the work.")]
    success_rate: float | None
    p50_s: float | None
    p95_s: float | None
    unknown: Unknown


class StatisticsList(TypedDict):
    """All pairs of types among the newest attempts; `attempts` is how many of these there were."""

    statistics: list[TypeStatistics]
    attempts: int
    position: Position


async def list_statistics(query: ListStatistics, reader: Reader) -> StatisticsList:
    """Counted from the attempts' ends; what was lost, cancelled or interrupted is counted apart."""
    statement = select(attempts)
    if reader.at is not None:
        statement = statement.where(attempts.c.position <= reader.at)
    if query.type is not None:
        statement = statement.where(attempts.c.type == query.type)
    statement = statement.order_by(attempts.c.position.desc(), attempts.c.index.desc()).limit(query.attempts)
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    rows = await reader.rows(statement)
    for row in rows:
        groups[row["type"] or "", row["agent_type"] or ""].append(row)
    return {
        "statistics": [_document(*pair, group) for pair, group in sorted(groups.items())],
        "attempts": len(rows),
        "position": reader.position,
    }


def _document(task_type: str, agent_type: str, rows: Sequence[Mapping[str, Any]]) -> TypeStatistics:
    well = sum(row["outcome"] in WELL for row in rows)
    badly = sum(row["outcome"] in BADLY for row in rows)
    took = [row["took_ms"] / 1000 for row in rows if row["outcome"] in WELL and row["took_ms"] is not None]
    unknown: dict[str, str] = {}
    if well + badly < SAMPLES_MIN:
        unknown["success_rate"] = f"{well + badly} attempts are fewer than {SAMPLES_MIN}"
    if len(took) < SAMPLES_MIN:
        unknown |= dict.fromkeys(("p50_s", "p95_s"), f"{len(took)} durations are fewer than {SAMPLES_MIN}")
    return {
        "type": task_type,
        "agent_type": agent_type,
        "completed": well,
        "failed": badly,
        "not_counted": len(rows) - well - badly,
        "success_rate": None if "success_rate" in unknown else well / (well + badly),
        "p50_s": None if "p50_s" in unknown else figures.median(took),
        "p95_s": None if "p95_s" in unknown else figures.quantiles(took, n=20, method="inclusive")[-1],
        "unknown": unknown,
    }


QUERIES = (
    QuerySpec(
        "statistics.list", ListStatistics, list_statistics, Route("GET", "/api/statistics"), doc_of(ListStatistics)
    ),
)
