"""What people ask about tasks: a page of them, one with all that is known, and who works on what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct
from sqlalchemy import Column, ColumnElement, func, select

from core.kernel.errors import NotFound, Unprocessable
from core.kernel.registry import QuerySpec, Route, doc_of
from core.kernel.times import rfc3339
from core.scheduling.eligibility import Requirement, why_nobody
from projections.agents import candidates
from projections.task_relations import relations_of
from projections.tasks import specs, tasks
from projections.timeline import history_of
from projections.view import Reader, true_at

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
    parent: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 50
    offset: Annotated[int, Meta(ge=0, le=10_000_000)] = 0


async def list_tasks(query: ListTasks, reader: Reader) -> dict[str, Any]:
    """One page and the number of all."""
    few = query.correlation_id is not None or query.agent_id is not None or query.parent is not None
    where = [true_at(tasks, reader.at, selective=not few), *_filters(query)]
    page = (
        select(tasks, *_spec_columns())
        .join(specs, specs.c.id == tasks.c.id)
        .where(*where)
        .order_by(tasks.c.created.desc())
        .limit(query.limit)
        .offset(query.offset)
    )
    rows = await reader.rows(page)
    counting = select(func.count().label("n")).select_from(tasks)
    if query.parent is not None:
        counting = counting.join(specs, specs.c.id == tasks.c.id)
    counted = await reader.rows(counting.where(*where))
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
    if query.parent is not None:
        yield specs.c.parent == query.parent


def _spec_columns() -> list[Column[Any]]:
    return [column for column in specs.c if column.name not in ("id", "valid_from", "valid_to", "parameters", "retry")]


class ShowTask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show a task with its parameters, result, attempts and history, what it waits for, and what it asks."""

    task_id: str


async def show_task(query: ShowTask, reader: Reader) -> dict[str, Any]:
    """Everything the views hold about it."""
    statement = (
        select(tasks, *_spec_columns(), specs.c.parameters, specs.c.retry)
        .join(specs, specs.c.id == tasks.c.id)
        .where(true_at(tasks, reader.at, selective=False), tasks.c.id == query.task_id)
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
        **await relations_of(reader, row),
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
        "parent": row["parent"],
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
