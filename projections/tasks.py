"""Tasks: what each is, where it stands, and what its attempts came to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    func,
    select,
)

from core import task as t
from core.kernel.commit import Commit, Event
from core.kernel.errors import NotFound, Unprocessable
from core.kernel.registry import QuerySpec, Route, doc_of
from core.kernel.times import rfc3339
from core.projection import Row, RowView
from core.scheduling.eligibility import Requirement, why_nobody
from projections.agents import candidates
from projections.timeline import history_of
from projections.view import Reader, true_at, versioned

metadata = MetaData()

tasks = Table(
    "tasks",
    metadata,
    Column("id", String(36), primary_key=True),
    *versioned(),
    Column("created", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("type", String(100), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("correlation_id", String(64), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("agent_id", String(36)),
    Column("attempt", Integer, nullable=False),
    Column("progress", Float),
    Column("current_step", String(256)),
    Column("assigned_ms", BigInteger),
    Column("started_ms", BigInteger),
    Column("completed_ms", BigInteger),
    Column("not_before_ms", BigInteger),
    Column("cancelling", Boolean, nullable=False),
    Column("error", String),
    Column("outcome", String(32)),
    Column("result", JSON),
    Column("attempts", JSON, nullable=False),
)
Index("tasks_now", tasks.c.valid_to, tasks.c.created)
Index("tasks_page", tasks.c.created, tasks.c.valid_from)
Index("tasks_status", tasks.c.valid_to, tasks.c.status, tasks.c.created)
Index("tasks_correlation", tasks.c.correlation_id, tasks.c.created)
Index("tasks_agent", tasks.c.agent_id, tasks.c.valid_from)
Index("tasks_completed", tasks.c.completed_ms)

specs = Table(
    "task_specs",
    metadata,
    Column("id", String(36), primary_key=True),
    *versioned(),
    Column("executor", String(100), nullable=False),
    Column("parameters", JSON, nullable=False),
    Column("requires", JSON, nullable=False),
    Column("agent_type", String(100)),
    Column("pinned_agent", String(36)),
    Column("timeout_s", Float, nullable=False),
    Column("retry", JSON, nullable=False),
    Column("project", String(100), nullable=False),
    Column("name", String(200)),
    Column("labels", JSON),
    Column("actor", String(100), nullable=False),
)


class TaskSpecs(RowView):
    """What was asked for; written once, so that the versions of the life beside it stay small."""

    name = "task_specs"
    table = specs
    rows_kept = 0  # written once
    nouns = frozenset({"task"})

    def touched(self, commit: Commit, event: Event) -> Iterable[str]:
        """The task that was submitted."""
        return (commit.aggregate_id,) if isinstance(event, t.TaskSubmitted) else ()

    def fold(self, row: Row | None, commit: Commit, event: Event) -> Row | None:
        """The submission as columns."""
        if not isinstance(event, t.TaskSubmitted):
            return row
        retry = event.retry
        return {
            "id": commit.aggregate_id,
            "executor": event.executor,
            "parameters": event.parameters,
            "requires": event.requires,
            "agent_type": event.agent_type,
            "pinned_agent": event.agent_id,
            "timeout_s": event.timeout_s,
            "retry": {field: getattr(retry, field) for field in retry.__struct_fields__},
            "project": event.project,
            "name": event.name,
            "labels": event.labels,
            "actor": commit.body.actor,
        }


class Tasks(RowView):
    """The life of each task."""

    name = "tasks"
    table = tasks
    nouns = frozenset({"task"})

    def touched(self, commit: Commit, event: Event) -> Iterable[str]:
        """The task itself."""
        return (commit.aggregate_id,)

    def fold(self, row: Row | None, commit: Commit, event: Event) -> Row | None:
        """One arm per event."""
        time_ms = commit.body.occurred_at
        if isinstance(event, t.TaskSubmitted):
            return _submitted(commit, event)
        assert row is not None, "the first event of a task is task.submitted"
        match event:
            case t.TaskQueued():
                return {**row, "status": "queued", "not_before_ms": None}
            case t.TaskScheduled():
                return {**row, "status": "scheduled", "not_before_ms": event.not_before_ms}
            case t.TaskAssigned():
                return {
                    **row,
                    "status": "assigned",
                    "agent_id": event.agent_id,
                    "attempt": event.attempt,
                    "assigned_ms": time_ms,
                    "started_ms": None,
                    "result": None,
                    "outcome": None,
                }
            case t.TaskStarted():
                return {**row, "status": "running", "started_ms": event.started_ms}
            case t.TaskProgressed():
                return {**row, "progress": event.progress, "current_step": event.current_step}
            case t.AttemptEnded():
                ended = _attempt(row, time_ms, event.agent_id, event.started_ms, event.outcome, event.error)
                return {
                    **row,
                    "attempts": ended,
                    "agent_id": None,
                    "progress": None,
                    "current_step": None,
                    "error": event.error,
                    "outcome": event.outcome,
                    "result": event.result,
                    "started_ms": event.started_ms or row["started_ms"],
                }
            case t.TaskCompleted():
                return {
                    **row,
                    "status": "completed",
                    "attempts": _attempt(row, time_ms, event.agent_id, event.started_ms, "completed", None),
                    "progress": 1.0,
                    "error": None,
                    "outcome": "completed",
                    "result": event.result,
                    "started_ms": event.started_ms,
                    "completed_ms": time_ms,
                }
            case t.TaskFailed():
                return {
                    **row,
                    "status": "failed",
                    "error": event.error,
                    "outcome": event.outcome,
                    "completed_ms": time_ms,
                    "agent_id": _last_agent(row),
                }
            case t.CancelRequested():
                return {**row, "cancelling": True}
            case t.TaskCancelled():
                return {
                    **row,
                    "status": "cancelled",
                    "outcome": "cancelled",
                    "completed_ms": time_ms,
                    "agent_id": _last_agent(row),
                }
            case _:
                return row


def _submitted(commit: Commit, event: t.TaskSubmitted) -> Row:
    return {
        "id": commit.aggregate_id,
        "created": commit.position,
        "status": "submitted",
        "type": event.type,
        "priority": event.priority,
        "correlation_id": commit.body.correlation_id,
        "created_ms": commit.body.occurred_at,
        "agent_id": None,
        "attempt": 0,
        "progress": None,
        "current_step": None,
        "assigned_ms": None,
        "started_ms": None,
        "completed_ms": None,
        "not_before_ms": None,
        "cancelling": False,
        "error": None,
        "outcome": None,
        "result": None,
        "attempts": [],
    }


def _last_agent(row: Row) -> str | None:
    return row["attempts"][-1]["agent_id"] if row["attempts"] else None


def _attempt(
    row: Row, ended_ms: int, agent_id: str, started_ms: int | None, outcome: str, error: str | None
) -> list[dict[str, Any]]:
    return [
        *row["attempts"],
        {
            "attempt": row["attempt"],
            "agent_id": agent_id,
            "started_at": rfc3339(started_ms or row["started_ms"]),
            "ended_at": rfc3339(ended_ms),
            "outcome": outcome,
            "error": error,
        },
    ]


# --- queries ----------------------------------------------------------------------------------------------------------

UNKNOWN_ESTIMATE = "no statistics of task types are kept in this version"
# The contract's older words for a status are still understood as filters.
STATUS_WORDS = {"created": "submitted", "retrying": "scheduled", "pending": "queued"}
STATUSES = (
    "submitted",
    "blocked",
    "scheduled",
    "queued",
    "assigned",
    "running",
    "input_required",
    "completed",
    "failed",
    "cancelled",
    "expired",
)


class ListTasks(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List tasks, newest first."""

    status: str | None = None
    agent_id: str | None = None
    type: str | None = None
    correlation_id: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 50
    offset: Annotated[int, Meta(ge=0, le=10_000_000)] = 0


async def list_tasks(query: ListTasks, reader: Reader) -> dict[str, Any]:
    """One page and the number of all."""
    where = [true_at(tasks, reader.at), *_filters(query)]
    page = (
        select(tasks, *_spec_columns())
        .join(specs, specs.c.id == tasks.c.id)
        .where(*where)
        .order_by(tasks.c.created.desc())
        .limit(query.limit)
        .offset(query.offset)
    )
    rows = await reader.rows(page)
    counted = await reader.rows(select(func.count().label("n")).select_from(tasks).where(*where))
    total = counted[0]["n"]
    reasons = await _reasons(reader, rows)
    return {
        "tasks": [_summary(row, reasons) for row in rows],
        "pagination": {
            "total": total,
            "limit": query.limit,
            "offset": query.offset,
            "has_more": query.offset + len(rows) < total,
        },
        "position": reader.position,
    }


def _filters(query: ListTasks) -> Iterable[ColumnElement[bool]]:
    if query.status == "timeout":
        yield tasks.c.outcome == "timed_out"
    elif query.status is not None:
        status = STATUS_WORDS.get(query.status, query.status)
        if status not in STATUSES:
            raise Unprocessable(
                f"{query.status!r} is no status of a task.", pointer="/status", remedy=f"One of {', '.join(STATUSES)}."
            )
        yield tasks.c.status == status
    for field in ("agent_id", "type", "correlation_id"):
        value = getattr(query, field)
        if value is not None:
            yield tasks.c[field] == value


def _spec_columns() -> list[Column[Any]]:
    return [column for column in specs.c if column.name not in ("id", "valid_from", "valid_to", "parameters", "retry")]


class ShowTask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show a task with its parameters, result, attempts and history."""

    task_id: str


async def show_task(query: ShowTask, reader: Reader) -> dict[str, Any]:
    """Everything the views hold about it."""
    statement = (
        select(tasks, *_spec_columns(), specs.c.parameters, specs.c.retry)
        .join(specs, specs.c.id == tasks.c.id)
        .where(true_at(tasks, reader.at), tasks.c.id == query.task_id)
    )
    rows = await reader.rows(statement)
    if not rows:
        raise NotFound(
            f"There is no task {query.task_id}.",
            code="unknown_task",
            remedy="List what there is: GET /api/tasks, or `hivebus task list`.",
        )
    row = rows[0]
    return _summary(row, await _reasons(reader, rows)) | {
        "parameters": row["parameters"],
        "result": row["result"],
        "attempts": row["attempts"],
        "history": await history_of(reader, "task", query.task_id),
        "retry": row["retry"],
        "timeout_s": row["timeout_s"],
        "position": reader.position,
    }


def _summary(row: Mapping[str, Any], reasons: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "agent_id": row["agent_id"],
        "type": row["type"],
        "status": row["status"],
        "progress": row["progress"],
        "current_step": row["current_step"],
        "executor": row["executor"],
        "name": row["name"],
        "priority": row["priority"],
        "project": row["project"],
        "labels": row["labels"] or {},
        "requires": row["requires"],
        "agent_type": row["agent_type"],
        "attempt": row["attempt"],
        "cancelling": row["cancelling"],
        "outcome": row["outcome"],
        "error": row["error"],
        "exit_code": (row["result"] or {}).get("exit_code"),
        "unassignable": reasons.get(row["id"]),
        "actor": row["actor"],
        "correlation_id": row["correlation_id"],
        "created_at": rfc3339(row["created_ms"]),
        "started_at": rfc3339(row["started_ms"]),
        "completed_at": rfc3339(row["completed_ms"]),
        "not_before": rfc3339(row["not_before_ms"]),
        "estimated_completion": None,
        "unknown": _unknown(row),
    }


def _unknown(row: Mapping[str, Any]) -> dict[str, str]:
    unknown = {"estimated_completion": UNKNOWN_ESTIMATE}
    if row["progress"] is None:
        unknown["progress"] = "the task has not told any"
    return unknown


async def _reasons(reader: Reader, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """For each waiting task that no known agent can ever take: why."""
    waiting = [row for row in rows if row["status"] in ("submitted", "queued", "scheduled")]
    if not waiting:
        return {}
    known = await candidates(reader)
    reasons = {}
    for row in waiting:
        need = Requirement(row["executor"], tuple(row["requires"]), row["agent_type"], row["pinned_agent"])
        reason = why_nobody(need, known)
        if reason is not None:
            reasons[row["id"]] = reason
    return reasons


class ListAssignments(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List who works on what right now."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000


async def list_assignments(query: ListAssignments, reader: Reader) -> dict[str, Any]:
    """The attempts that hold a slot."""
    statement = (
        select(tasks.c.id, tasks.c.agent_id, tasks.c.assigned_ms)
        .where(true_at(tasks, reader.at), tasks.c.status.in_(("assigned", "running")))
        .order_by(tasks.c.created)
        .limit(query.limit)
    )
    return {
        "assignments": [
            {
                "agent_id": row["agent_id"],
                "task_id": row["id"],
                "since": rfc3339(row["assigned_ms"]),
                "lease_expires_at": None,
                "unknown": {"lease_expires_at": "a host's lease is renewed by its beats, which are not events"},
            }
            for row in await reader.rows(statement)
        ],
        "position": reader.position,
    }


QUERIES = (
    QuerySpec("task.list", ListTasks, list_tasks, Route("GET", "/api/tasks"), doc_of(ListTasks)),
    QuerySpec("task.show", ShowTask, show_task, Route("GET", "/api/tasks/{task_id}"), doc_of(ShowTask)),
    QuerySpec(
        "agent.assignments",
        ListAssignments,
        list_assignments,
        Route("GET", "/api/agents/tasks"),
        doc_of(ListAssignments),
    ),
)
