"""What people ask about tasks: a page of them, one with all that is known, and who works on what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta, Struct
from sqlalchemy import Column, ColumnElement, Select, func, select

from core.kernel.answers import Position, Time, Unknown
from core.kernel.errors import NotFound, Unprocessable
from core.kernel.registry import QuerySpec, Route, doc_of
from core.kernel.times import RFC3339_PATTERN, parse_rfc3339, rfc3339
from core.scheduling.eligibility import Requirement, why_nobody
from core.task import Retry, Routing
from projections.agents import candidates
from projections.pages import Pagination
from projections.pauses import Pause, pause_of, pauses_of
from projections.replays import replays_of
from projections.task_relations import Relations, relations_of
from projections.tasks import STATUSES, Status, TaskUsage, specs, tasks, usage_of
from projections.timeline import Happening, history_of, timeline
from projections.view import Reader, true_at

UNKNOWN_ESTIMATE = "no statistics of task types are kept in this version"
# The contract's older words for a status are still understood as filters.
STATUS_WORDS = {"created": "submitted", "retrying": "scheduled", "pending": "queued"}
_WORD = "|".join((*STATUSES, *STATUS_WORDS))
# What documents say of these fields; what does not fit is refused in our own words.
SEVERAL = {
    "description": "One, several with commas between them, or `timeout` alone.",
    "pattern": rf"^(?:timeout|(?:{_WORD})(?:,(?:{_WORD}))*)$(?!\n)",
}
A_TIME = {"pattern": rf"^{RFC3339_PATTERN}$(?!\n)"}


class TaskSummary(TypedDict):
    """A task in a list. `outcome`, `error` and `exit_code` are those of its last attempt that ended."""

    id: str
    agent_id: str | None
    type: str
    status: Status
    progress: Annotated[float, Meta(ge=0, le=1)] | None
    current_step: str | None
    executor: str
    name: str | None
    priority: Annotated[int, Meta(ge=0, le=9)]
    project: str
    labels: dict[str, str]
    requires: list[str]
    agent_type: str | None
    parent: Annotated[str | None, Meta(description="The task that it is a part of.")]
    attempt: Annotated[int, Meta(ge=0, description="The number of the last attempt; 0 before the first one.")]
    cancelling: bool
    outcome: str | None
    error: str | None
    exit_code: int | None
    unassignable: Annotated[str | None, Meta(description="Why no agent that there is can ever take it.")]
    actor: str
    correlation_id: str
    created_at: Time
    updated: Annotated[int, Meta(ge=0, description="The position of its last change: `before` for the page after it.")]
    updated_at: Time
    started_at: Time | None
    completed_at: Time | None
    not_before: Time | None
    estimated_completion: Time | None
    unknown: Unknown


class TaskPage(TypedDict):
    """One page of the tasks that match."""

    tasks: list[TaskSummary]
    pagination: Pagination
    position: Position


class TaskAttempt(TypedDict):
    """An attempt that ended."""

    attempt: int
    agent_id: str
    started_at: Time | None
    ended_at: Time
    outcome: str
    error: str | None
    routing: NotRequired[Routing]


class TaskDetails(TaskSummary, Relations):
    """All that the views hold about a task."""

    parameters: dict[str, Any]
    result: Annotated[dict[str, Any] | None, Meta(description="What the executor really got, in its own words.")]
    attempts: list[TaskAttempt]
    history: Annotated[list[Happening], Meta(description="Its events, oldest first, at most 1,000.")]
    retry: Retry
    timeout_s: float
    deadline: Time | None
    queue_timeout_s: float | None
    total_timeout_s: float | None
    silence_timeout_s: float | None
    max_tokens: int | None
    max_cost: float | None
    usage: TaskUsage
    paused: Annotated[Pause | None, Meta(description="The pause that holds it back.")]
    replay_of: str | None
    replayed_by: Annotated[list[str], Meta(description="Its replays, the newest first, at most ten.")]
    schedule_id: str | None
    position: Position


class Assignment(TypedDict):
    """Who works on what."""

    agent_id: str
    task_id: str
    since: Time
    lease_expires_at: Time | None
    unknown: Unknown


class AssignmentList(TypedDict):
    """The attempts that hold a slot."""

    assignments: list[Assignment]
    position: Position


class ListTasks(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List tasks: the newest first, or in the order `updated` the one that changed last."""

    status: Annotated[str, Meta(extra_json_schema=SEVERAL)] | None = None
    agent_id: str | None = None
    type: str | None = None
    correlation_id: str | None = None
    updated_since: Annotated[str, Meta(max_length=40, extra_json_schema=A_TIME)] | None = None
    order: Literal["created", "updated"] = "created"
    # The `updated` of a page's last task; with the page's position as `at` the next page goes on exactly there.
    before: Annotated[int, Meta(ge=0, le=1 << 62)] | None = None
    parent: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 50
    offset: Annotated[int, Meta(ge=0, le=10_000_000)] = 0


async def list_tasks(query: ListTasks, reader: Reader) -> TaskPage:
    """One page and the number of all."""
    few = query.correlation_id is not None or query.agent_id is not None or query.parent is not None
    where = [true_at(tasks, reader.at, selective=not few), *_filters(query)]
    page = _page(query, where, reader).limit(query.limit + 1).offset(query.offset)
    found = await reader.rows(page)
    rows = found[: query.limit]
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
            "has_more": len(found) > len(rows),
        },
        "position": reader.position,
    }


def _page(query: ListTasks, where: Sequence[ColumnElement[bool]], reader: Reader) -> Select[Any]:
    """The rows in their order, from the cursor on."""
    page = select(tasks, *_spec_columns()).join(specs, specs.c.id == tasks.c.id)
    key = tasks.c.created if query.order == "created" else tasks.c.valid_from
    if query.order == "updated" and len(where) == 1:
        # No index of tasks is in this order: each event would move in it. The timeline is, and walked back from its
        # end a page is full after a few events for each task. What a filter picks is sorted instead.
        key = timeline.c.position
        last = (timeline.c.position == tasks.c.valid_from) & (timeline.c.aggregate_id == tasks.c.id)
        page = page.join(timeline, last).where(timeline.c.index == 0)
        if reader.at is not None:
            page = page.where(timeline.c.position <= reader.at)
        where = [true_at(tasks, reader.at, selective=False)]
    if query.before is not None:
        if query.order != "updated":
            raise Unprocessable("`before` is a place in the order updated.", pointer="/before", remedy="Use `offset`.")
        page = page.where(key < query.before)
    return page.where(*where).order_by(key.desc())


def _filters(query: ListTasks) -> Iterable[ColumnElement[bool]]:
    if query.status == "timeout":
        yield tasks.c.outcome == "timed_out"
    elif query.status is not None:
        yield _is_one_of(query.status)
    for field in ("agent_id", "type", "correlation_id"):
        value = getattr(query, field)
        if value is not None:
            yield tasks.c[field] == value
    if query.parent is not None:
        yield specs.c.parent == query.parent
    if query.updated_since is not None:
        yield tasks.c.updated_ms >= _time(query.updated_since)


def _is_one_of(text: str) -> ColumnElement[bool]:
    words = [STATUS_WORDS.get(word, word) for word in text.split(",")]
    for word in words:
        if word not in STATUSES:
            raise Unprocessable(
                f"{word[:100]!r} is no status of a task.", pointer="/status", remedy=f"One of {', '.join(STATUSES)}."
            )
    return tasks.c.status == words[0] if len(words) == 1 else tasks.c.status.in_(set(words))


def _time(text: str) -> int:
    try:
        return parse_rfc3339(text)
    except Unprocessable as error:
        raise Unprocessable(
            f"{text!r} is not an RFC 3339 time.",
            pointer="/updated_since",
            remedy="Give a time such as 2026-01-31T12:00:00.000Z.",
        ) from error


def _spec_columns() -> list[Column[Any]]:
    return [column for column in specs.c if column.name not in ("id", "valid_from", "valid_to", "parameters", "retry")]


class ShowTask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show a task with its parameters, result, attempts and history, what it waits for, and what it asks."""

    task_id: str


async def show_task(query: ShowTask, reader: Reader) -> TaskDetails:
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
    return {
        **_summary(row, await _reasons(reader, rows)),
        "parameters": row["parameters"],
        "result": row["result"],
        "attempts": row["attempts"],
        "history": await history_of(reader, "task", query.task_id),
        "retry": row["retry"],
        "timeout_s": row["timeout_s"],
        "deadline": rfc3339(row["deadline_ms"]),
        "queue_timeout_s": row["queue_timeout_s"],
        "total_timeout_s": row["total_timeout_s"],
        "silence_timeout_s": row["silence_timeout_s"],
        "max_tokens": row["max_tokens"],
        "max_cost": row["max_cost"],
        "usage": usage_of(row),
        "paused": pause_of(row, await pauses_of(reader)),
        "replay_of": row["replay_of"],
        "replayed_by": await replays_of(reader, query.task_id),
        "schedule_id": row["schedule_id"],
        **await relations_of(reader, row),
        "position": reader.position,
    }


def _summary(row: Mapping[str, Any], reasons: Mapping[str, str]) -> TaskSummary:
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
        "updated": row["valid_from"],
        "updated_at": rfc3339(row["updated_ms"]),
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


async def list_assignments(query: ListAssignments, reader: Reader) -> AssignmentList:
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


async def count_completed(reader: Reader, *, since_ms: int) -> int:
    """How many tasks were completed after a time."""
    statement = select(func.count().label("n")).where(
        true_at(tasks, reader.at, selective=False), tasks.c.completed_ms > since_ms, tasks.c.status == "completed"
    )
    return int((await reader.rows(statement))[0]["n"])


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
