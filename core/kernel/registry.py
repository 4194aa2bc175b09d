"""One declaration per event, command and query; every transport and document is derived from it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeVar, get_type_hints
from uuid import UUID

from msgspec import Struct

from core.kernel.commit import Event, Moment
from core.kernel.errors import HivebusError
from core.kernel.ids import draw


class Scope(StrEnum):
    """Who may issue a command. Only `client` ones have routes, tools and CLI verbs."""

    CLIENT = "client"
    HOST = "host"
    INTERNAL = "internal"


class Route(Struct, frozen=True):
    """Where an action answers over REST; `{name}` in the path is a field of the action."""

    method: str
    path: str
    status: int = 200


class Context(Struct, frozen=True, gc=False):
    """What a pure decision may know besides the command and the state."""

    now_ms: int
    aggregate_id: str
    command_id: UUID
    actor: str
    correlation_id: str

    @property
    def draw(self) -> float:
        """A number in [0, 1) that is the same at every replay."""
        return draw(self.command_id)


E = TypeVar("E", bound=type[Event])
Decide = Callable[[Any, Any, Context], Sequence[Event]]
Evolve = Callable[[Any, Any, Moment], Any]


class CommandSpec(Struct, frozen=True):
    """A command: its Struct, its pure decision, and how the world reaches it.

    `faults` are the errors of its own, beside those that every command can get: the class by the code.
    """

    name: str
    noun: str
    struct: type[Struct]
    decide: Decide
    scope: Scope
    route: Route | None
    creates: bool
    upserts: bool
    target: str | None
    answer: Callable[[Any, Any], Mapping[str, Any]] | None
    doc: str
    finishes: bool = False
    identify: Callable[[str], str] | None = None
    copies: str | None = None
    faults: Mapping[str, type[HivebusError]] = {}
    bulk: bool = False

    def id_of(self, command: Struct) -> str:
        """The id of the aggregate that a command names."""
        named = self.named_by(command)
        return named if self.identify is None else self.identify(named)

    def named_by(self, command: Struct) -> str:
        """What the command calls its aggregate: its id, or a name that gives the id."""
        named: str = getattr(command, self.target or "")
        return named

    @property
    def batched(self) -> bool:
        """Whether many of it can be sent at once: what creates one thing each."""
        return self.creates and not self.bulk


class QuerySpec(Struct, frozen=True):
    """A query: its Struct and its read."""

    name: str
    struct: type[Struct]
    read: Callable[..., Awaitable[Any]]
    route: Route
    doc: str


class EventSpec(Struct, frozen=True):
    """An event as it is stored: (name, schema) and the Struct that today's code folds. After a `final` one nothing
    changes its aggregate any more, so that the log may be trimmed of it.
    """

    name: str
    schema: int
    struct: type[Event]
    final: bool = False


class Aggregate:
    """A decider with its vocabulary: events, the fold, and each command with its decision."""

    def __init__(self, noun: str, *, evolve: Evolve | None = None) -> None:
        self.noun = noun
        self.events: dict[type[Event], EventSpec] = {}
        self.upcasters: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}
        self.commands: list[CommandSpec] = []
        self.evolve: Evolve = evolve or _no_fold

    def event(self, name: str, *, schema: int = 1, final: bool = False) -> Callable[[E], E]:
        """Register an event Struct under its storage name; `final` ends the aggregate."""

        def register(struct: E) -> E:
            self.events[struct] = EventSpec(name, schema, struct, final)
            return struct

        return register

    def upcast(self, name: str, *, schema: int) -> Callable[..., Any]:
        """Register the pure step from (name, schema) to schema + 1."""

        def register(step: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
            self.upcasters[name, schema] = step
            return step

        return register

    def evolves(self, fold: Evolve) -> Evolve:
        """Register the fold: (state or None, event, moment) -> state."""
        self.evolve = fold
        return fold

    def decides(
        self,
        name: str,
        *,
        scope: Scope = Scope.CLIENT,
        route: Route | None = None,
        creates: bool = False,
        upserts: bool = False,
        target: str | None = None,
        answer: Callable[[Any, Any], Mapping[str, Any]] | None = None,
        finishes: bool = False,
        identify: Callable[[str], str] | None = None,
        copies: str | None = None,
        faults: Mapping[str, type[HivebusError]] | None = None,
        bulk: bool = False,
    ) -> Callable[[Decide], Decide]:
        """Register a decision. The command's Struct is the annotation of its first parameter.

        `target` names the field that holds the aggregate's id (default `<noun>_id`); a command that `creates` has none,
        one that `upserts` may be the first of its aggregate. One that `finishes` only ends work: it is accepted on a
        disk that is nearly full. Where users name an aggregate freely, `identify` makes its id from `target`.
        One that creates from what another aggregate of its noun holds names that one's id in the field `copies`: its
        decision gets that state.
        `faults` are the errors that only this command knows, for the documents. A `bulk` one is carried out on
        everything that it picks and answers for each: `answer` gives the whole answer, and it is in no batch itself.
        """

        def register(decide: Decide) -> Decide:
            first = next(iter(inspect.signature(decide).parameters))
            struct = get_type_hints(decide)[first]
            field = None if creates else target or f"{self.noun}_id"
            self.commands.append(
                CommandSpec(
                    name,
                    self.noun,
                    struct,
                    decide,
                    scope,
                    route,
                    creates,
                    upserts,
                    field,
                    answer,
                    doc_of(struct),
                    finishes,
                    identify,
                    copies,
                    dict(faults or {}),
                    bulk,
                )
            )
            return decide

        return register


def _no_fold(state: Any, event: Any, moment: Moment) -> Any:
    raise AssertionError(f"no fold is registered for {type(event).__name__}")


def doc_of(struct: type) -> str:
    """The docstring as one text, for help pages and documents."""
    return inspect.cleandoc(struct.__doc__ or "")


class Registry:
    """All aggregates and queries of the program."""

    def __init__(self, aggregates: Sequence[Aggregate], queries: Sequence[QuerySpec] = ()) -> None:
        self.aggregates = {aggregate.noun: aggregate for aggregate in aggregates}
        self.commands = {spec.name: spec for aggregate in aggregates for spec in aggregate.commands}
        self.queries = {spec.name: spec for spec in queries}
        self._by_struct = {spec.struct: spec for spec in self.commands.values()}
        self.event_specs: dict[type[Event], EventSpec] = {}
        self.upcasters: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}
        for aggregate in aggregates:
            self.event_specs |= aggregate.events
            self.upcasters |= aggregate.upcasters

    def command_of(self, command: Struct) -> CommandSpec:
        """The declaration of a command value."""
        return self._by_struct[type(command)]

    def client_commands(self) -> Iterator[CommandSpec]:
        """The commands that callers from outside may issue."""
        return (spec for spec in self.commands.values() if spec.scope is Scope.CLIENT)
