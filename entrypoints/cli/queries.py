"""The queries as the command line knows them: plain data.

Their declarations live in `projections`, which stand on SQLAlchemy: importing them would make each command start three
times slower. tests/entrypoints/test_cli_registry.py holds this table against projections/catalogue.py, so a query
without its line here fails the build.
"""

from __future__ import annotations

from msgspec import Struct

from entrypoints.cli.output import Column


class QueryOption(Struct, frozen=True):
    """A field of a query: how it is given, and what it does."""

    field: str
    help: str
    kind: type = str


class QueryVerb(Struct, frozen=True, kw_only=True):
    """A read: where it answers, what it takes, and how its answer is shown.

    `target` is the field in the path, given as an argument. `rows` names the list in the answer; without it the answer
    is shown as keys and values.
    """

    name: str
    path: str
    doc: str
    target: str | None = None
    options: tuple[QueryOption, ...] = ()
    rows: str | None = None
    columns: tuple[Column, ...] = ()
    examples: tuple[str, ...] = ()


LIMIT = QueryOption("limit", "At most so many, up to 1000.", int)

QUERIES = (
    QueryVerb(
        name="task.list",
        path="/api/tasks",
        doc="List tasks: the newest first, or in the order `updated` the one that changed last.",
        options=(
            QueryOption(
                "status",
                "Only these, with commas between: blocked, queued, scheduled, assigned, running, input_required, "
                "completed, failed, cancelled.",
            ),
            QueryOption("agent_id", "Only those that this agent works on, or worked on last."),
            QueryOption("type", "Only tasks of this type."),
            QueryOption("correlation_id", "Only what was submitted together: `task submit` prints the id."),
            QueryOption("parent", "Only the parts of this task."),
            QueryOption("updated_since", "Only those that changed at this time (RFC 3339) or later."),
            QueryOption("order", "created (the default) or updated."),
            QueryOption("before", "In the order updated: only what changed before this position.", int),
            LIMIT,
            QueryOption("offset", "Leave out the first ones.", int),
        ),
        rows="tasks",
        columns=(
            Column("id", "id"),
            Column("type", "type"),
            Column("status", "status"),
            Column("name", "name", folds=True),
            Column("executor", "executor"),
            Column("agent", "agent_id"),
            Column("created", "created_at"),
            Column("waits because", "unassignable", folds=True),
        ),
        examples=("hivebus task list --status failed", "hivebus task list --limit 1000 --json | jq '.tasks[].id'"),
    ),
    QueryVerb(
        name="task.show",
        path="/api/tasks/{task_id}",
        doc="Show a task with its parameters, result, attempts and history, what it waits for, and what it asks.",
        target="task_id",
        examples=("hivebus task show TASK_ID", "hivebus task show TASK_ID --json | jq -r .result.stdout"),
    ),
    QueryVerb(
        name="task.explain",
        path="/api/tasks/{task_id}/explain",
        doc="Explain why an agent got a task, or what the task waits for, its place and how long that may take.",
        target="task_id",
        examples=("hivebus task explain TASK_ID", "hivebus explain TASK_ID --at 4711"),
    ),
    QueryVerb(
        name="statistics.list",
        path="/api/statistics",
        doc="List how attempts went by task type and agent type, over the newest `attempts` of them.",
        options=(
            QueryOption("type", "Only tasks of this type."),
            QueryOption("attempts", "Over at most so many, up to 10000.", int),
        ),
        rows="statistics",
        columns=(
            Column("task type", "type"),
            Column("agent type", "agent_type"),
            Column("completed", "completed"),
            Column("failed", "failed"),
            Column("rate", "success_rate"),
            Column("p50 s", "p50_s"),
            Column("p95 s", "p95_s"),
        ),
        examples=("hivebus statistics list", "hivebus statistics list --type summarise"),
    ),
    QueryVerb(
        name="agent.list",
        path="/api/agents",
        doc="List agents, oldest first. Retired ones only with status=retired.",
        options=(
            QueryOption("status", "Only these: starting, idle, busy, draining, offline, retired."),
            QueryOption("type", "Only agents of this type."),
            LIMIT,
        ),
        rows="agents",
        columns=(
            Column("id", "id"),
            Column("name", "name", folds=True),
            Column("type", "type"),
            Column("status", "status"),
            Column("executor", "executor"),
            Column("capabilities", "capabilities", folds=True),
            Column("slots", "slots"),
            Column("done", "tasks_completed"),
            Column("current task", "current_task"),
        ),
        examples=("hivebus agent list", "hivebus agent list --status busy --json"),
    ),
    QueryVerb(
        name="agent.show",
        path="/api/agents/{agent_id}",
        doc="Show an agent with its performance.",
        target="agent_id",
        examples=("hivebus agent show AGENT_ID",),
    ),
    QueryVerb(
        name="agent.assignments",
        path="/api/agents/tasks",
        doc="List who works on what right now.",
        options=(LIMIT,),
        rows="assignments",
        columns=(
            Column("agent", "agent_id"),
            Column("task", "task_id"),
            Column("since", "since"),
            Column("lease until", "lease_expires_at"),
        ),
        examples=("hivebus agent assignments",),
    ),
    QueryVerb(
        name="limit.list",
        path="/api/limits",
        doc="List the limits that were set, by key.",
        options=(LIMIT, QueryOption("offset", "Leave out the first ones.", int)),
        rows="limits",
        columns=(
            Column("key", "key", folds=True),
            Column("concurrency", "concurrency"),
            Column("rate/s", "rate_per_s"),
            Column("burst", "burst"),
            Column("weight", "weight"),
            Column("set at", "set_at"),
        ),
        examples=("hivebus limit list",),
    ),
    QueryVerb(
        name="limit.show",
        path="/api/limits/{key}",
        doc="Show the limit of a key.",
        target="key",
        examples=("hivebus limit show KEY",),
    ),
    QueryVerb(
        name="schedule.list",
        path="/api/schedules",
        doc="List the schedules, by name, with the time of their next run.",
        options=(
            QueryOption("status", "Only these: active, paused."),
            LIMIT,
            QueryOption("offset", "Leave out the first ones.", int),
        ),
        rows="schedules",
        columns=(
            Column("name", "name", folds=True),
            Column("status", "status"),
            Column("cron", "cron"),
            Column("every s", "every_s"),
            Column("zone", "timezone"),
            Column("task", "task_type"),
            Column("next run", "next_run_at"),
            Column("last run", "last_run_at"),
            Column("runs", "times_fired"),
        ),
        examples=("hivebus schedule list",),
    ),
    QueryVerb(
        name="schedule.show",
        path="/api/schedules/{name}",
        doc="Show a schedule with its task and what became of its last ten times.",
        target="name",
        examples=("hivebus schedule show NAME",),
    ),
    QueryVerb(
        name="alert.list",
        path="/api/alerts",
        doc="List the alerts, the newest first: those that are live, unless `status` says which.",
        options=(
            QueryOption("status", "live (the default), raised, acknowledged, cleared or all."),
            QueryOption("kind", "Only these, such as queue_age, dead_letters, agent_lost or disk_low."),
            LIMIT,
            QueryOption("offset", "Leave out the first ones.", int),
        ),
        rows="alerts",
        columns=(
            Column("id", "id"),
            Column("level", "level"),
            Column("kind", "kind"),
            Column("status", "status"),
            Column("message", "message", folds=True),
            Column("raised", "raised_at"),
            Column("times", "times_raised"),
            Column("by", "acknowledged_by"),
        ),
        examples=("hivebus alert list", "hivebus alert list --status all --at 2026-01-31T12:00:00.000Z"),
    ),
    QueryVerb(
        name="queue.show",
        path="/api/queue",
        doc="Show how much waits, by priority and type, how old the oldest is, and how fast work gets done.",
        examples=("hivebus queue", "hivebus queue --at 2026-01-31T12:00:00.000Z"),
    ),
)
