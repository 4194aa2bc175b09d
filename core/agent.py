"""The agent: who does the work. What it is doing right now is folded from tasks, not kept here."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict, assert_never

from msgspec import Meta, Struct
from msgspec.structs import replace

from core.catalogue import AGENT_TYPES
from core.kernel.answers import Unknown
from core.kernel.commit import Event, Moment
from core.kernel.errors import Refused, Unprocessable
from core.kernel.registry import Aggregate, Context, Route, Scope

agent = Aggregate("agent")

Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$(?!\n)", max_length=100)]


# --- events -----------------------------------------------------------------------------------------------------------


@agent.event("agent.spawned")
class AgentSpawned(Event, frozen=True):
    """Somebody wants an agent; a host with its executor takes it in."""

    type: str
    name: str
    executor: str
    capabilities: list[str]
    slots: int


@agent.event("agent.started")
class AgentStarted(Event, frozen=True):
    """The agent lives on a host, for the length of that host's session."""

    host_id: str
    session: str
    term: int


@agent.event("agent.stopped")
class AgentStopped(Event, frozen=True):
    """The agent's host is gone; it waits for another."""

    reason: str


@agent.event("agent.draining")
class AgentDraining(Event, frozen=True):
    """The agent gets no new task and retires after its last one."""

    reason: str | None = None


@agent.event("agent.retired", final=True)
class AgentRetired(Event, frozen=True):
    """The agent is gone for good."""


AgentEvent = AgentSpawned | AgentStarted | AgentStopped | AgentDraining | AgentRetired


# --- state ------------------------------------------------------------------------------------------------------------


class Agent(Struct, frozen=True, kw_only=True):
    """What decisions about an agent need to know. Status: starting, idle, offline, draining, retired."""

    status: str
    spec: AgentSpawned
    host_id: str | None = None
    session: str | None = None


@agent.evolves
def evolve(state: Agent | None, event: AgentEvent, moment: Moment) -> Agent:
    """The fold of an agent."""
    if isinstance(event, AgentSpawned):
        return Agent(status="starting", spec=event)
    assert state is not None, "the first event of an agent is agent.spawned"
    match event:
        case AgentStarted():
            return replace(state, status="idle", host_id=event.host_id, session=event.session)
        case AgentStopped():
            status = "draining" if state.status == "draining" else "offline"
            return replace(state, status=status, host_id=None, session=None)
        case AgentDraining():
            return replace(state, status="draining")
        case AgentRetired():
            return replace(state, status="retired", host_id=None, session=None)
        case _:
            assert_never(event)


# --- commands of callers ----------------------------------------------------------------------------------------------


class SpawnAgent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Spawn an agent: a worker of a type, with so many tasks at a time.

    The built-in types are `shell` (executor command) and `python` (executor python). Another type needs an executor.
    """

    type: Word
    name: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    executor: Word | None = None
    capabilities: Annotated[list[Word], Meta(max_length=64)] | None = None
    slots: Annotated[int, Meta(ge=1, le=256)] = 1


class Spawning(TypedDict):
    """What the agent is called."""

    type: str
    name: str


def _spawn_answer(command: SpawnAgent, accepted: Any) -> Spawning:
    return {"type": accepted.state.spec.type, "name": accepted.state.spec.name}


@agent.decides(
    "agent.spawn",
    route=Route("POST", "/api/agents", 202),
    creates=True,
    answer=_spawn_answer,
    faults={"unknown_agent_type": Unprocessable},
)
def spawn(command: SpawnAgent, state: Agent | None, context: Context) -> list[AgentEvent]:
    """A type with an executor can be spawned."""
    known = AGENT_TYPES.get(command.type)
    executor = command.executor or (known.executor if known else None)
    if executor not in {built_in.executor for built_in in AGENT_TYPES.values()}:
        raise Unprocessable(
            f"{command.type} is no built-in agent type, and no executor that runs its tasks is named.",
            code="unknown_agent_type",
            pointer="/type" if executor is None else "/executor",
            remedy=f"Choose a type ({', '.join(sorted(AGENT_TYPES))}), or add an executor: command, python.",
        )
    capabilities = known.capabilities if known and command.capabilities is None else command.capabilities or ()
    return [
        AgentSpawned(
            type=command.type,
            name=command.name or f"{command.type}-{context.aggregate_id[-6:]}",
            executor=executor,
            capabilities=sorted(set(capabilities)),
            slots=command.slots,
        )
    ]


class RetireAgent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Retire an agent: it gets no new task and goes after its last one."""

    agent_id: Annotated[str, Meta(min_length=1, max_length=64)]
    reason: Annotated[str, Meta(max_length=500)] | None = None


class Retiring(TypedDict):
    """What a retirement did to the agent."""

    message: str
    previous_status: str | None
    unknown: NotRequired[Unknown]


def _retire_answer(command: RetireAgent, accepted: Any) -> Retiring:
    previous = accepted.before.status if accepted.before else None
    answer: Retiring = {"message": "The agent retires after its last task.", "previous_status": previous}
    if previous is None:
        answer["unknown"] = {"previous_status": "this is the answer to a repeat"}
    return answer


@agent.decides(
    "agent.retire", route=Route("DELETE", "/api/agents/{agent_id}", 202), answer=_retire_answer, finishes=True
)
def retire(command: RetireAgent, state: Agent, context: Context) -> list[AgentEvent]:
    """Twice is once."""
    if state.status in ("draining", "retired"):
        return []
    return [AgentDraining(reason=command.reason)]


# --- commands of the scheduler ----------------------------------------------------------------------------------------


class StartAgent(Struct, frozen=True, kw_only=True):
    """Place an agent on a host's session."""

    agent_id: str
    host_id: str
    session: str
    term: int


@agent.decides("agent.start", scope=Scope.INTERNAL)
def start(command: StartAgent, state: Agent, context: Context) -> list[AgentEvent]:
    """Only where it does not live already, and only while it is wanted."""
    if state.status in ("draining", "retired") or state.session == command.session:
        return []
    return [AgentStarted(host_id=command.host_id, session=command.session, term=command.term)]


class StopAgent(Struct, frozen=True, kw_only=True):
    """The session that an agent lived on is gone."""

    agent_id: str
    session: str
    reason: str


@agent.decides("agent.stop", scope=Scope.INTERNAL)
def stop(command: StopAgent, state: Agent, context: Context) -> list[AgentEvent]:
    """Only the session it lives on can end it."""
    return [AgentStopped(reason=command.reason)] if state.session == command.session else []


class RemoveAgent(Struct, frozen=True, kw_only=True):
    """A draining agent has no task left."""

    agent_id: str


@agent.decides("agent.remove", scope=Scope.INTERNAL)
def remove(command: RemoveAgent, state: Agent, context: Context) -> list[AgentEvent]:
    """Retired is for good."""
    if state.status == "retired":
        return []
    if state.status != "draining":
        raise Refused(f"The agent is {state.status}, not draining.")
    return [AgentRetired()]
