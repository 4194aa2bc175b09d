"""The alerts: what is not as it should be, who takes care of it, and what was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypedDict, get_args

from msgspec import Meta, Struct
from sqlalchemy import BigInteger, Column, ColumnElement, Float, Index, Integer, MetaData, String, Table, func, select

from core.alert import AlertAcknowledged, AlertCleared, AlertRaised, Category, Kind, Level, Status
from core.kernel.answers import Position, Time, Unknown
from core.kernel.commit import Commit, Event
from core.kernel.registry import QuerySpec, Route, doc_of
from core.kernel.times import rfc3339
from core.projection import Row, RowView
from core.services.alerts import QueueState
from projections.pages import Pagination, check_word, page_of
from projections.queue import queue
from projections.replays import replayed
from projections.view import Reader, true_at, versioned

# More dead letters than that are so many.
DEAD_LETTERS_MAX = 10_000

metadata = MetaData()

alerts = Table(
    "alerts",
    metadata,
    Column("id", String(36), primary_key=True),
    *versioned(),
    Column("kind", String(32), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("status", String(16), nullable=False),
    Column("level", String(16), nullable=False),
    Column("category", String(16), nullable=False),
    Column("sentence", String(500), nullable=False),
    Column("value", Float),
    Column("threshold", Float),
    Column("unit", String(16)),
    Column("times_raised", Integer, nullable=False),
    Column("raised", BigInteger, nullable=False),
    Column("raised_ms", BigInteger, nullable=False),
    Column("acknowledged_ms", BigInteger),
    Column("acknowledged_by", String(200)),
    Column("reason", String(500)),
    Column("cleared_ms", BigInteger),
)
Index("alerts_now", alerts.c.valid_to, alerts.c.status, alerts.c.raised)


class Alerts(RowView):
    """A row per alert, as it was raised last."""

    name = "alerts"
    table = alerts
    nouns = frozenset({"alert"})

    def touched(self, commit: Commit, event: Event) -> Iterable[str]:
        """The alert itself."""
        return (commit.aggregate_id,)

    def fold(self, row: Row | None, commit: Commit, event: Event) -> Row | None:
        """One arm per event."""
        time_ms = commit.body.occurred_at
        if isinstance(event, AlertRaised):
            return _raised(row, commit, event)
        assert row is not None, "the first event of an alert is alert.raised"
        match event:
            case AlertAcknowledged():
                who = {"acknowledged_by": event.by, "reason": event.reason}
                return {**row, "status": "acknowledged", "acknowledged_ms": time_ms} | who
            case AlertCleared():
                return {**row, "status": "cleared", "cleared_ms": time_ms}
            case _:
                return row


def _raised(row: Row | None, commit: Commit, event: AlertRaised) -> Row:
    return {
        "id": commit.aggregate_id,
        "kind": event.kind,
        "subject": event.subject,
        "status": "raised",
        "level": event.level,
        "category": event.category,
        "sentence": event.sentence,
        "value": event.value,
        "threshold": event.threshold,
        "unit": event.unit,
        "times_raised": 1 if row is None else row["times_raised"] + 1,
        "raised": commit.position,
        "raised_ms": commit.body.occurred_at,
        "acknowledged_ms": None,
        "acknowledged_by": None,
        "reason": None,
        "cleared_ms": None,
    }


KINDS: tuple[str, ...] = get_args(Kind)


class ListAlerts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List the alerts, the newest first: those that are live, unless `status` says which."""

    status: Literal["live", "raised", "acknowledged", "cleared", "all"] = "live"
    kind: Annotated[str, Meta(extra_json_schema={"enum": [*KINDS]})] | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 50
    offset: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class AlertSummary(TypedDict):
    """An alert, as it was raised last; `value` is what was measured then."""

    id: str
    kind: str
    subject: Annotated[str, Meta(description="What it is about: an agent, a host, a machine; the queue, store, views.")]
    status: Status
    level: Level
    type: Category
    message: str
    value: float | None
    threshold: float | None
    unit: str | None
    times_raised: Annotated[int, Meta(ge=1, description="How often it was raised since it was first.")]
    raised_at: Time
    acknowledged_at: Time | None
    acknowledged_by: str | None
    reason: Annotated[str | None, Meta(description="What who acknowledged it said.")]
    cleared_at: Time | None
    unknown: Unknown


class AlertPage(TypedDict):
    """A page of alerts, the newest first."""

    alerts: list[AlertSummary]
    pagination: Pagination
    position: Position


async def list_alerts(query: ListAlerts, reader: Reader) -> AlertPage:
    """One page of them."""
    rows, pagination = await page_of(alerts, list(_filters(query, reader)), [alerts.c.raised.desc()], query, reader)
    return {
        "alerts": [_document(row) for row in rows],
        "pagination": pagination,
        "position": reader.position,
    }


def _filters(query: ListAlerts, reader: Reader) -> Iterable[ColumnElement[bool]]:
    yield true_at(alerts, reader.at)
    if query.status == "live":
        yield alerts.c.status != "cleared"
    elif query.status != "all":
        yield alerts.c.status == query.status
    check_word("kind", query.kind, KINDS, "an alert")
    if query.kind is not None:
        yield alerts.c.kind == query.kind


def _document(row: Mapping[str, Any]) -> AlertSummary:
    measured = row["value"] is not None
    return {
        "id": row["id"],
        "kind": row["kind"],
        "subject": row["subject"],
        "status": row["status"],
        "level": row["level"],
        "type": row["category"],
        "message": row["sentence"],
        "value": row["value"],
        "threshold": row["threshold"],
        "unit": row["unit"],
        "times_raised": row["times_raised"],
        "raised_at": rfc3339(row["raised_ms"]),
        "acknowledged_at": rfc3339(row["acknowledged_ms"]),
        "acknowledged_by": row["acknowledged_by"],
        "reason": row["reason"],
        "cleared_at": rfc3339(row["cleared_ms"]),
        "unknown": {} if measured else {"value": "it is so or not: nothing is measured"},
    }


async def queue_state(reader: Reader, *, since_ms: int) -> QueueState:
    """What the watch asks of the queue; dead letters are those since a time that were not replayed, at most 10,000."""
    now = true_at(queue, reader.at)
    figures: list[Any] = [func.count().label("n"), func.min(queue.c.since_ms).label("oldest")]
    waiting = select(*figures).where(now, queue.c.state == "queued")
    dead = (
        select(queue.c.id)
        .where(now, queue.c.state == "dead_lettered", queue.c.since_ms > since_ms, ~replayed(reader, queue.c.id))
        .limit(DEAD_LETTERS_MAX)
        .subquery()
    )
    [row] = await reader.rows(waiting)
    [letters] = await reader.rows(select(func.count().label("n")).select_from(dead))
    oldest_ms = row["oldest"]
    return QueueState(
        oldest_age_s=0.0 if oldest_ms is None else max(0, reader.now_ms - oldest_ms) / 1000,
        queued=row["n"],
        dead_letters=letters["n"],
    )


QUERIES = (QuerySpec("alert.list", ListAlerts, list_alerts, Route("GET", "/api/alerts"), doc_of(ListAlerts)),)
