"""One call of one action: what every way in shares between its own envelope and the dispatcher.

A transport says who calls, which action, and its arguments as JSON values; it gets the answer or a HivebusError. Beside
the action's own fields a call may say how it wants to be carried out (`CommandOptions`, `QueryOptions`); over REST and
NATS the same words are headers or the query string.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import perf_counter
from typing import Annotated, Any, Literal, TypedDict, TypeVar, get_type_hints

import msgspec
from msgspec import Meta, Struct

from adapters.telemetry import UNKNOWN, answered
from core.kernel.answers import ChangedAnswer, CreatedAnswer
from core.kernel.errors import HivebusError, UnknownAction, Unprocessable, internal
from core.kernel.registry import CommandSpec, QuerySpec, Registry, Route
from core.services.dispatch import WAIT_S_MAX, Dispatcher, Look, Principal
from entrypoints.decode import envelope_from, unprocessable

POSITION_MAX = 10**18 - 1

S = TypeVar("S", bound=Struct)


class CommandOptions(Struct, frozen=True, kw_only=True):
    """How a command is carried out, beside what it says.

    `idempotency_key` makes it repeatable: the same key and body give the same answer, once carried out. `wait` answers
    when the views hold it: "recorded", or at most so many seconds.
    """

    idempotency_key: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    correlation_id: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    wait: Literal["recorded"] | Annotated[float, Meta(ge=0, le=WAIT_S_MAX)] | None = None


class QueryOptions(Struct, frozen=True, kw_only=True):
    """Where a query looks: `at` a position or a time (RFC 3339), and not before `min_position`."""

    at: Annotated[int, Meta(ge=0, le=POSITION_MAX)] | Annotated[str, Meta(min_length=1, max_length=40)] | None = None
    min_position: Annotated[int, Meta(ge=0, le=POSITION_MAX)] = 0


class NoOptions(Struct, frozen=True):
    """A call that says nothing beside its own fields."""


Carry = Callable[[Any, Any, Principal], Awaitable[dict[str, Any]]]


class Action(Struct, frozen=True, kw_only=True):
    """An action as a transport sees it: its name, its arguments' Structs, and how to carry it out.

    `answer` is the shape of what it answers, a TypedDict or a Struct; `faults` are the errors of its own by their code.
    """

    name: str
    doc: str
    struct: type[Struct]
    options: type[Struct]
    read_only: bool
    carry: Carry
    route: Route | None = None
    creates: bool = False
    finishes: bool = False
    answer: Any = dict[str, Any]
    faults: Mapping[str, type[HivebusError]] = {}

    @property
    def summary(self) -> str:
        """The first line of what it says of itself."""
        return self.doc.partition("\n")[0]


class Calls:
    """All actions that callers from outside may take, by name."""

    def __init__(self, actions: Iterable[Action]) -> None:
        self.actions = {action.name: action for action in actions}

    def action(self, name: str) -> Action:
        """The action of a name. Raises UnknownAction."""
        found = self.actions.get(name)
        if found is None:
            raise UnknownAction(
                f"There is no action {name[:100]!r}.",
                remedy="docs/reference lists them, and so does rpc.discover.",
            )
        return found

    async def call(
        self, name: str, arguments: Mapping[str, Any], principal: Principal, *, transport: str
    ) -> dict[str, Any]:
        """Carry out an action; its answer as JSON values. Raises HivebusError. Either is counted here, once."""
        began = perf_counter()
        counted = name if name in self.actions else UNKNOWN
        try:
            answer = await self._carried_out(self.action(name), arguments, principal)
        except Exception as error:
            code = error.code if isinstance(error, HivebusError) else internal().code
            answered(counted, transport, perf_counter() - began, code)
            raise
        answered(counted, transport, perf_counter() - began)
        return answer

    async def _carried_out(self, action: Action, arguments: Mapping[str, Any], principal: Principal) -> dict[str, Any]:
        own, said = split(action, arguments)
        try:
            return await action.carry(fitted(own, action.struct), fitted(said, action.options), principal)
        except RecursionError:
            raise Unprocessable(
                "The arguments are nested too deeply.", code="too_deep", pointer="", remedy="Nest them less."
            ) from None


def split(action: Action, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The action's own arguments, and the options beside them."""
    names = action.options.__struct_fields__
    own = {name: value for name, value in arguments.items() if name not in names}
    return own, {name: arguments[name] for name in names if name in arguments}


def fitted(values: Mapping[str, Any], struct: type[S]) -> S:
    """JSON values as a Struct. Raises Unprocessable with a pointer to what does not fit."""
    try:
        return msgspec.convert(values, struct)
    except msgspec.ValidationError as error:
        raise unprocessable(error) from error


def actions_of(registry: Registry, dispatcher: Dispatcher) -> Iterable[Action]:
    """Every command of clients and every query of the registry."""
    for command in registry.client_commands():
        yield _command(command, dispatcher)
    for query in registry.queries.values():
        yield _query(query, dispatcher)


def _command(spec: CommandSpec, dispatcher: Dispatcher) -> Action:
    async def carry(command: Struct, options: CommandOptions, principal: Principal) -> dict[str, Any]:
        wait_s = WAIT_S_MAX if options.wait == "recorded" else options.wait
        envelope = envelope_from(options.idempotency_key, options.correlation_id, wait_s)
        return await dispatcher.command(command, principal, envelope)

    return Action(
        name=spec.name,
        doc=spec.doc,
        struct=spec.struct,
        options=CommandOptions,
        read_only=False,
        carry=carry,
        route=spec.route,
        creates=spec.batched,
        finishes=spec.finishes,
        answer=answer_of_command(spec),
        faults=spec.faults,
    )


def answer_of_command(spec: CommandSpec) -> Any:
    """The shape of a command's answer: the id of its noun, what every command answers, and what it adds itself."""
    own = get_type_hints(spec.answer, include_extras=True)["return"] if spec.answer is not None else None
    fields: dict[str, Any] = {} if spec.bulk else {f"{spec.noun}_id": str}
    for part in (None if spec.bulk else CreatedAnswer if spec.creates else ChangedAnswer, own):
        if part is not None:
            fields |= get_type_hints(part, include_extras=True)
    words = spec.name.replace("_", ".").split(".")
    name = "".join(map(str.capitalize, words)) + "Answer"
    shape = TypedDict(name, fields)  # type: ignore[misc]
    shape.__doc__ = f"The answer to {spec.name}."
    return shape


def answer_of_read(read: Callable[..., Any]) -> Any:
    """The shape of a reading: what its function says that it returns."""
    return get_type_hints(read, include_extras=True)["return"]


def _query(spec: QuerySpec, dispatcher: Dispatcher) -> Action:
    async def carry(query: Struct, options: QueryOptions, principal: Principal) -> dict[str, Any]:
        del principal  # every key may read
        at = None if options.at is None else str(options.at)
        return await dispatcher.query(spec, query, Look(at=at, min_position=options.min_position))

    return Action(
        name=spec.name,
        doc=spec.doc,
        struct=spec.struct,
        options=QueryOptions,
        read_only=True,
        carry=carry,
        route=spec.route,
        answer=answer_of_read(spec.read),
    )


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """A call without arguments."""


def plain(name: str, doc: str, path: str, read: Callable[[], Awaitable[Mapping[str, Any]]]) -> Action:
    """A reading of the program itself: no arguments, no options."""

    async def carry(_arguments: Struct, _options: Struct, _principal: Principal) -> dict[str, Any]:
        return dict(await read())

    return Action(
        name=name,
        doc=doc,
        struct=Nothing,
        options=NoOptions,
        read_only=True,
        carry=carry,
        route=Route("GET", path),
        answer=answer_of_read(read),
    )
