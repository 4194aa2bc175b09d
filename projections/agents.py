"""Agents: who they are, what they do now, and how well they have done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NotRequired, TypedDict, get_args

from msgspec import Meta, Struct
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ColumnElement,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    and_,
    func,
    select,
)

from core import agent as a
from core import task as t
from core.kernel.answers import Position, Time, Unknown
from core.kernel.commit import Commit, Event
from core.kernel.errors import NotFound, Unprocessable
from core.kernel.registry import QuerySpec, Route, doc_of
from core.kernel.times import rfc3339
from core.projection import Row, RowView
from projections.view import Reader, true_at, versioned

metadata = MetaData()

agents = Table(
    "agents",
    metadata,
    Column("id", String(36), primary_key=True),
    *versioned(),
    Column("created", BigInteger, nullable=False),
    Column("type", String(100), nullable=False),
    Column("name", String(100), nullable=False),
    Column("executor", String(100), nullable=False),
    Column("capabilities", JSON, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("life", String(16), nullable=False),
    Column("host_id", String(36)),
    Column("running", JSON, nullable=False),
    Column("busy_slots", Integer, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("last_activity_ms", BigInteger, nullable=False),
    Column("tasks_completed", Integer, nullable=False),
    Column("attempts_ended", Integer, nullable=False),
    Column("busy_ms", BigInteger, nullable=False),
)
Index("agents_now", agents.c.valid_to, agents.c.created)
Index("agents_page", agents.c.created, agents.c.valid_from)


# What tasks say of the agents that work on them.
_OF_AGENTS = (t.TaskAssigned, t.AttemptEnded, t.TaskAsked, t.TaskCompleted)


class Agents(RowView):
    """Folds agents' own events and those of the tasks they work on."""

    name = "agents"
    table = agents
    nouns = frozenset({"agent", "task"})

    def touched(self, commit: Commit, event: Event) -> Iterable[str]:
        """The agent itself, or the one a task's event names."""
        if commit.noun == "agent":
            return (commit.aggregate_id,)
        if isinstance(event, _OF_AGENTS):
            return (event.agent_id,)
        return ()

    def fold(self, row: Row | None, commit: Commit, event: Event) -> Row | None:
        """One arm per event."""
        time_ms = commit.body.occurred_at
        if isinstance(event, a.AgentSpawned):
            return _spawned(commit, event)
        if row is None:
            return None  # a task names an agent that the log does not know; its own events decide
        row = {**row, "last_activity_ms": time_ms}
        match event:
            case a.AgentStarted():
                return {**row, "life": "idle", "host_id": event.host_id}
            case a.AgentStopped():
                life = "draining" if row["life"] == "draining" else "offline"
                return {**row, "life": life, "host_id": None}
            case a.AgentDraining():
                return {**row, "life": "draining"}
            case a.AgentRetired():
                return {**row, "life": "retired", "host_id": None}
            case t.TaskAssigned():
                running = [*row["running"], commit.aggregate_id]
                return {**row, "running": running, "busy_slots": len(running)}
            case t.TaskCompleted():
                return _ended(row, commit, completed=1, busy_ms=time_ms - event.started_ms)
            case t.TaskAsked():
                return _ended(row, commit, completed=0, busy_ms=0, counts=False)
            case t.AttemptEnded():
                measured = event.outcome in ("failed", "timed_out", "output_limit", "budget_exceeded")
                busy_ms = time_ms - event.started_ms if measured and event.started_ms else 0
                return _ended(row, commit, completed=0, busy_ms=busy_ms, counts=measured)
            case _:
                return row


def _spawned(commit: Commit, event: a.AgentSpawned) -> Row:
    return {
        "id": commit.aggregate_id,
        "created": commit.position,
        "type": event.type,
        "name": event.name,
        "executor": event.executor,
        "capabilities": event.capabilities,
        "slots": event.slots,
        "life": "starting",
        "host_id": None,
        "running": [],
        "busy_slots": 0,
        "created_ms": commit.body.occurred_at,
        "last_activity_ms": commit.body.occurred_at,
        "tasks_completed": 0,
        "attempts_ended": 0,
        "busy_ms": 0,
    }


def _ended(row: Row, commit: Commit, *, completed: int, busy_ms: int, counts: bool = True) -> Row:
    """An attempt's end; one that was lost or called off says nothing about the agent's work."""
    running = [task_id for task_id in row["running"] if task_id != commit.aggregate_id]
    return {
        **row,
        "running": running,
        "busy_slots": len(running),
        "tasks_completed": row["tasks_completed"] + completed,
        "attempts_ended": row["attempts_ended"] + (1 if counts else 0),
        "busy_ms": row["busy_ms"] + max(0, busy_ms),
    }


# --- queries ----------------------------------------------------------------------------------------------------------


Status = Literal["starting", "idle", "busy", "paused", "draining", "suspect", "quarantined", "offline", "retired"]
STATUSES = get_args(Status)


class AgentSummary(TypedDict):
    """An agent in a list. `running` are the tasks that it holds now, `current_task` is the first of them."""

    id: str
    name: str
    type: str
    status: Status
    executor: str
    capabilities: list[str]
    slots: int
    current_task: str | None
    running: list[str]
    host_id: str | None
    tasks_completed: int


class AgentList(TypedDict):
    """The agents that match."""

    agents: list[AgentSummary]
    position: Position


class Performance(TypedDict):
    """How well an agent has done: seconds an attempt, and the share that was completed, over so many samples."""

    tasks_completed: int
    average_response_time: float | None
    success_rate: Annotated[float, Meta(ge=0, le=1)] | None
    samples: int
    unknown: NotRequired[Unknown]


class AgentDetails(AgentSummary):
    """All that the views hold about an agent."""

    created_at: Time
    last_activity: Time
    performance_metrics: Performance
    position: Position


class KnownAgent(Struct, frozen=True):
    """An agent as the rule of eligibility sees it."""

    id: str
    type: str
    executor: str
    capabilities: frozenset[str]
    status: str


async def candidates(reader: Reader) -> list[KnownAgent]:
    """The agents that are not retired, as of the reader's position."""
    statement = select(agents.c.id, agents.c.type, agents.c.executor, agents.c.capabilities, agents.c.life).where(
        true_at(agents, reader.at), agents.c.life != "retired"
    )
    return [
        KnownAgent(row["id"], row["type"], row["executor"], frozenset(row["capabilities"]), row["life"])
        for row in await reader.rows(statement)
    ]


class ListAgents(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List agents, oldest first. Retired ones only with status=retired."""

    status: Annotated[str, Meta(extra_json_schema={"enum": [*STATUSES]})] | None = None
    type: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000


async def list_agents(query: ListAgents, reader: Reader) -> AgentList:
    """All agents that match; busy means that it works on something."""
    statement = select(agents).where(true_at(agents, reader.at)).order_by(agents.c.created).limit(query.limit)
    if query.type is not None:
        statement = statement.where(agents.c.type == query.type)
    rows = await reader.rows(statement.where(_has_status(query.status)))
    return {"agents": [_summary(row) for row in rows], "position": reader.position}


def _has_status(status: str | None) -> ColumnElement[bool]:
    """Busy and idle are one life with and without work; retired agents are shown only when asked for."""
    if status is None:
        return agents.c.life != "retired"
    if status in ("busy", "idle"):
        return and_(agents.c.life == "idle", agents.c.busy_slots > 0 if status == "busy" else agents.c.busy_slots == 0)
    if status not in STATUSES:
        raise Unprocessable(
            f"{status!r} is no status of an agent.", pointer="/status", remedy=f"One of {', '.join(STATUSES)}."
        )
    return agents.c.life == status


class ShowAgent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show an agent with its performance."""

    agent_id: str


async def show_agent(query: ShowAgent, reader: Reader) -> AgentDetails:
    """Everything the views hold about it."""
    rows = await reader.rows(
        select(agents).where(true_at(agents, reader.at, selective=False), agents.c.id == query.agent_id)
    )
    if not rows:
        raise NotFound(
            f"There is no agent {query.agent_id}.",
            code="unknown_agent",
            remedy="List what there is: GET /api/agents, or `hivebus agent list`.",
        )
    row = rows[0]
    samples = row["attempts_ended"]
    metrics: Performance = {
        "tasks_completed": row["tasks_completed"],
        "average_response_time": row["busy_ms"] / samples / 1000 if samples else None,
        "success_rate": row["tasks_completed"] / samples if samples else None,
        "samples": samples,
    }
    if not samples:
        reason = "no attempt of this agent has ended yet"
        metrics["unknown"] = {"average_response_time": reason, "success_rate": reason}
    return {
        **_summary(row),
        "created_at": rfc3339(row["created_ms"]),
        "last_activity": rfc3339(row["last_activity_ms"]),
        "performance_metrics": metrics,
        "position": reader.position,
    }


def _summary(row: Mapping[str, Any]) -> AgentSummary:
    running = row["running"]
    status: Status = "busy" if row["life"] == "idle" and running else row["life"]
    return {
        "id": row["id"],
        "name": row["name"],
        "type": row["type"],
        "status": status,
        "executor": row["executor"],
        "capabilities": row["capabilities"],
        "slots": row["slots"],
        "current_task": running[0] if running else None,
        "running": running,
        "host_id": row["host_id"],
        "tasks_completed": row["tasks_completed"],
    }


async def count_active(reader: Reader) -> int:
    """How many agents can work now."""
    statement = select(func.count().label("n")).where(true_at(agents, reader.at), agents.c.life == "idle")
    return int((await reader.rows(statement))[0]["n"])


QUERIES = (
    QuerySpec("agent.list", ListAgents, list_agents, Route("GET", "/api/agents"), doc_of(ListAgents)),
    QuerySpec("agent.show", ShowAgent, show_agent, Route("GET", "/api/agents/{agent_id}"), doc_of(ShowAgent)),
)
