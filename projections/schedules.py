"""The schedules: what each submits and when, and what became of its last times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
from msgspec import Meta, Struct
from sqlalchemy import JSON, BigInteger, Column, Index, Integer, MetaData, String, Table, select

from core import schedule as s
from core.kernel.answers import Position, Time
from core.kernel.commit import Commit, Event
from core.kernel.errors import NotFound
from core.kernel.registry import QuerySpec, Route, doc_of
from core.kernel.times import rfc3339
from core.limit import Key
from core.projection import Row, RowView
from projections.pages import Pagination, check_word, page_of
from projections.view import Reader, true_at, versioned

RUNS_MAX = 10

metadata = MetaData()

schedules = Table(
    "schedules",
    metadata,
    Column("id", String(36), primary_key=True),
    *versioned(),
    Column("name", String(200), nullable=False),
    Column("status", String(16), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("set_ms", BigInteger, nullable=False),
    Column("set_by", String(200), nullable=False),
    Column("cursor_ms", BigInteger, nullable=False),
    Column("fired", Integer, nullable=False),
    Column("runs", JSON, nullable=False),
    Column("reason", String(500)),
)
Index("schedules_now", schedules.c.valid_to, schedules.c.name)


class Schedules(RowView):
    """A row per schedule that is not removed, with its last ten times."""

    name = "schedules"
    table = schedules
    nouns = frozenset({"schedule"})

    def touched(self, commit: Commit, event: Event) -> Iterable[str]:
        """The schedule itself."""
        return (commit.aggregate_id,)

    def fold(self, row: Row | None, commit: Commit, event: Event) -> Row | None:
        """Its newest setting, and what became of its times."""
        time_ms = commit.body.occurred_at
        if isinstance(event, s.ScheduleSet):
            paused = row is not None and row["status"] == "paused"
            return {
                "id": commit.aggregate_id,
                "name": event.name,
                "status": "paused" if paused else "active",
                "spec": msgspec.to_builtins(event),
                "set_ms": time_ms,
                "set_by": commit.body.actor,
                "cursor_ms": max(time_ms, row["cursor_ms"] if row is not None else 0),
                "fired": row["fired"] if row is not None else 0,
                "runs": row["runs"] if row is not None else [],
                "reason": row["reason"] if row is not None else None,
            }
        if row is None:
            return None
        match event:
            case s.SchedulePaused():
                return {**row, "status": "paused", "reason": event.reason}
            case s.ScheduleResumed():
                return {**row, "status": "active", "reason": None, "cursor_ms": max(row["cursor_ms"], time_ms)}
            case s.ScheduleRemoved():
                return None
            case s.ScheduleFired():
                run = {"due_at": rfc3339(event.due_ms), "outcome": "submitted", "task_id": event.task_id}
                return {**_ran(row, event.due_ms, run), "fired": row["fired"] + 1}
            case s.RunsSkipped():
                skipped = {"due_at": rfc3339(event.due_ms), "outcome": "skipped", "reason": event.reason}
                return _ran(row, event.due_ms, skipped | ({"error": event.error} if event.error else {}))
            case _:
                return row


def _ran(row: Row, due_ms: int, run: dict[str, Any]) -> Row:
    return {**row, "cursor_ms": max(row["cursor_ms"], due_ms), "runs": [run, *row["runs"]][:RUNS_MAX]}


STATUSES = ("active", "paused")


class ListSchedules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List the schedules, by name, with the time of their next run."""

    status: Annotated[str, Meta(extra_json_schema={"enum": [*STATUSES]})] | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 50
    offset: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class Run(TypedDict):
    """What became of a due time: a task was submitted, or it was skipped and why."""

    due_at: Time
    outcome: Literal["submitted", "skipped"]
    task_id: NotRequired[str]
    reason: NotRequired[s.SkipReason]
    error: NotRequired[str]


class ScheduleSummary(TypedDict):
    """A schedule in a list. It has either `cron` or `every_s`."""

    name: str
    status: Literal["active", "paused"]
    cron: str | None
    every_s: int | None
    timezone: str
    missed: s.Missed
    overlap: s.Overlap
    until: Time | None
    task_type: str
    next_run_at: Time | None
    last_run_at: Time | None
    last_task_id: str | None
    times_fired: int
    reason: Annotated[str | None, Meta(description="Why it is paused.")]
    set_at: Time | None
    set_by: str


class SchedulePage(TypedDict):
    """A page of schedules, by name."""

    schedules: list[ScheduleSummary]
    pagination: Pagination
    position: Position


class ScheduleDetails(ScheduleSummary):
    """A schedule, as of a position, with the fields of its task that say something."""

    task: dict[str, Any]
    runs: Annotated[list[Run], Meta(description="Its last ten times, the newest first.")]
    position: Position


async def list_schedules(query: ListSchedules, reader: Reader) -> SchedulePage:
    """One page of them."""
    where = [true_at(schedules, reader.at)]
    check_word("status", query.status, STATUSES, "a schedule")
    if query.status is not None:
        where.append(schedules.c.status == query.status)
    rows, pagination = await page_of(schedules, where, [schedules.c.name], query, reader)
    return {
        "schedules": [_summary(row, reader.now_ms) for row in rows],
        "pagination": pagination,
        "position": reader.position,
    }


class ShowSchedule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show a schedule with its task and what became of its last ten times."""

    name: Key


async def show_schedule(query: ShowSchedule, reader: Reader) -> ScheduleDetails:
    """The schedule; NotFound where none is set."""
    rows = await reader.rows(
        select(schedules).where(
            schedules.c.id == s.schedule_id(query.name), true_at(schedules, reader.at, selective=False)
        )
    )
    if not rows:
        raise NotFound(
            f"There is no schedule {query.name[:100]!r}.",
            code="unknown_schedule",
            remedy="List what there is: GET /api/schedules, or `hivebus schedule list`.",
        )
    row = rows[0]
    return {
        **_summary(row, reader.now_ms),
        "task": row["spec"]["task"],
        "runs": row["runs"],
        "position": reader.position,
    }


def _summary(row: Mapping[str, Any], now_ms: int) -> ScheduleSummary:
    spec = msgspec.convert(row["spec"], s.ScheduleSet)
    active = row["status"] == "active"
    next_ms = s.next_due_ms(spec, row["set_ms"], max(row["cursor_ms"], now_ms)) if active else None
    last = next((run for run in row["runs"] if run["outcome"] == "submitted"), None)
    return {
        "name": row["name"],
        "status": row["status"],
        "cron": spec.cron,
        "every_s": spec.every_s,
        "timezone": spec.timezone,
        "missed": spec.missed,
        "overlap": spec.overlap,
        "until": rfc3339(spec.until_ms),
        "task_type": spec.task["type"],
        "next_run_at": rfc3339(next_ms),
        "last_run_at": last["due_at"] if last is not None else None,
        "last_task_id": last["task_id"] if last is not None else None,
        "times_fired": row["fired"],
        "reason": row["reason"],
        "set_at": rfc3339(row["set_ms"]),
        "set_by": row["set_by"],
    }


LIST, SHOW = Route("GET", "/api/schedules"), Route("GET", "/api/schedules/{name}")
QUERIES = (
    QuerySpec("schedule.list", ListSchedules, list_schedules, LIST, doc_of(ListSchedules)),
    QuerySpec("schedule.show", ShowSchedule, show_schedule, SHOW, doc_of(ShowSchedule)),
)
