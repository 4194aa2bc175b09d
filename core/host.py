"""The host: a process that runs agents. A session is one life of that process; a restart begins a new one."""

from __future__ import annotations

from typing import Annotated, assert_never

from msgspec import Meta, Struct
from msgspec.structs import replace

from core.kernel.commit import Event, Moment
from core.kernel.registry import Aggregate, Context, Scope

host = Aggregate("host")


# --- events -----------------------------------------------------------------------------------------------------------


@host.event("host.registered")
class HostRegistered(Event, frozen=True):
    """A host began a session; whatever ran in an earlier one is lost."""

    name: str
    session: str
    executors: list[str]
    slots: int


@host.event("host.lost")
class HostLost(Event, frozen=True):
    """A host was silent for a whole lease, or its end was seen."""

    session: str
    reason: str


@host.event("host.left")
class HostLeft(Event, frozen=True):
    """A host said goodbye."""

    session: str


HostEvent = HostRegistered | HostLost | HostLeft


# --- state ------------------------------------------------------------------------------------------------------------


class Host(Struct, frozen=True, kw_only=True):
    """The session that is alive, if one is."""

    session: str | None
    last_session: str


@host.evolves
def evolve(state: Host | None, event: HostEvent, moment: Moment) -> Host:
    """The fold of a host."""
    match event:
        case HostRegistered():
            return Host(session=event.session, last_session=event.session)
        case HostLost() | HostLeft():
            assert state is not None, "the first event of a host is host.registered"
            return replace(state, session=None)
        case _:
            assert_never(event)


# --- commands ---------------------------------------------------------------------------------------------------------


class FirstAgent(Struct, frozen=True):
    """An agent that a host brings along at its very first session."""

    type: str
    name: str
    slots: int


class RegisterHost(Struct, frozen=True, kw_only=True):
    """Begin a session with so many slots for tasks. The agents are spawned once, by whoever took the command."""

    host_id: str
    name: str
    session: str
    executors: list[str]
    slots: Annotated[int, Meta(ge=1, le=4096)]
    agents: Annotated[tuple[FirstAgent, ...], Meta(max_length=16)] = ()


@host.decides("host.register", scope=Scope.HOST, upserts=True)
def register(command: RegisterHost, state: Host | None, context: Context) -> list[HostEvent]:
    """A session begins once."""
    if state is not None and state.session == command.session:
        return []
    return [
        HostRegistered(
            name=command.name, session=command.session, executors=sorted(command.executors), slots=command.slots
        )
    ]


class LoseHost(Struct, frozen=True, kw_only=True):
    """Give up a session."""

    host_id: str
    session: str
    reason: str


@host.decides("host.lose", scope=Scope.INTERNAL)
def lose(command: LoseHost, state: Host, context: Context) -> list[HostEvent]:
    """Only the session that is alive can be lost."""
    return [HostLost(session=command.session, reason=command.reason)] if state.session == command.session else []


class LeaveHost(Struct, frozen=True, kw_only=True):
    """End a session in order."""

    host_id: str
    session: str


@host.decides("host.leave", scope=Scope.HOST)
def leave(command: LeaveHost, state: Host, context: Context) -> list[HostEvent]:
    """Only the session that is alive can leave."""
    return [HostLeft(session=command.session)] if state.session == command.session else []
