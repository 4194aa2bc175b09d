"""Tasks: what each is, where it stands, and what its attempts came to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

from msgspec import structs, to_builtins
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
)

from core import task as t
from core.kernel.commit import Commit, Event
from core.kernel.times import rfc3339
from core.projection import Row, RowView
from projections.view import versioned

Status = Literal[
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
]
STATUSES = get_args(Status)

metadata = MetaData()

EXPIRED: dict[t.ExpiryReason, str] = {
    "deadline": "Its deadline came while it waited.",
    "queue_timeout": "It waited in the queue longer than its queue_timeout_s.",
    "total_timeout": "It had not ended when its total_timeout_s was over.",
}

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
    Column("updated_ms", BigInteger, nullable=False),
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
    Column("routing", JSON),
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
    Column("deadline_ms", BigInteger),
    Column("queue_timeout_s", Float),
    Column("total_timeout_s", Float),
    Column("silence_timeout_s", Float),
    Column("replay_of", String(36)),
    Column("schedule_id", String(36)),
    Column("fairness_key", String(200)),
    Column("concurrency_key", String(200)),
    Column("rate_key", String(200)),
    Column("depends_on", JSON),
    Column("on_dependency_failure", String(16)),
    Column("parent", String(64)),
)
Index("task_specs_parent", specs.c.parent)
_REPLAYS = specs.c.replay_of.is_not(None)
Index("task_specs_replay_of", specs.c.replay_of, sqlite_where=_REPLAYS, postgresql_where=_REPLAYS)


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
            # The run of a schedule is its owner's, and shares as such.
            "actor": commit.body.on_behalf_of or commit.body.actor,
            "deadline_ms": event.deadline_ms,
            "queue_timeout_s": event.queue_timeout_s,
            "total_timeout_s": event.total_timeout_s,
            "silence_timeout_s": event.silence_timeout_s,
            "replay_of": event.replay_of,
            "schedule_id": event.schedule_id,
            "fairness_key": event.fairness_key,
            "concurrency_key": event.concurrency_key,
            "rate_key": event.rate_key,
            "depends_on": None if event.depends_on is None else to_builtins(event.depends_on),
            "on_dependency_failure": None if event.depends_on is None else event.on_dependency_failure or "cancel",
            "parent": event.parent,
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
        """One arm per event; what changes anything is the last change."""
        if isinstance(event, t.TaskSubmitted):
            return _submitted(commit, event)
        assert row is not None, "the first event of a task is task.submitted"
        changed = _changed(row, event, commit.body.occurred_at)
        if changed is not row:
            changed["updated_ms"] = commit.body.occurred_at
        return changed


def _changed(row: Row, event: Event, time_ms: int) -> Row:
    match event:
        case t.TaskBlocked():
            return {**row, "status": "blocked"}
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
                "routing": None if event.routing is None else structs.asdict(event.routing),
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
        case t.TaskAsked():
            return {
                **row,
                "status": "input_required",
                "attempts": _attempt(row, time_ms, event.agent_id, event.started_ms, "input_required", None),
                "agent_id": None,
                "progress": None,
                "current_step": None,
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
        case t.TaskExpired():
            return {
                **row,
                "status": "expired",
                "outcome": event.reason,
                "error": EXPIRED[event.reason],
                "completed_ms": time_ms,
                "not_before_ms": None,
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
        "updated_ms": commit.body.occurred_at,
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
        "routing": None,
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
        }
        | ({"routing": row["routing"]} if row["routing"] is not None else {}),
    ]
