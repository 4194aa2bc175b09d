"""The one door: every way in hands its commands and queries here, and each gets the same rules."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, Protocol, TypedDict
from uuid import UUID

from msgspec import Meta, Struct
from msgspec.structs import replace

from core.kernel.command_bus import Accepted, Caller, CommandBus
from core.kernel.commit import fingerprint_of
from core.kernel.errors import Forbidden, HivebusError, NotFound, NotYet, TooMany, Unprocessable
from core.kernel.ids import derive, from_key, uuid7
from core.kernel.ports import Clock, Store
from core.kernel.registry import CommandSpec, QuerySpec, Registry, Scope
from core.kernel.times import parse_rfc3339, rfc3339
from core.limit import Limit, limit_id
from core.replay import StartReplay
from core.schedule import SetSchedule
from core.secrets import Secrets, find_literal_secret, free_fields
from core.services.batches import Plan, planned
from core.services.positions import PositionGate
from core.services.relations import know_relations
from core.services.replays import Pick, Replays
from core.services.vault import Vault
from core.task import SubmitTask

WAIT_S_MAX = 25.0
READ_YOUR_WRITE_S = 2.0
BATCH_MAX = 1000
BATCH_IN_FLIGHT = 100
POSITION_DIGITS_MAX = 18
MORE_TASKS = frozenset({"task.submit", "task.replay"})


class BatchAnswer(TypedDict):
    """What became of each item of a batch: its own answer under its index, or its problem document as `error`."""

    items: list[dict[str, Any]]
    accepted: int
    refused: int
    correlation_id: str
    position: Annotated[int, Meta(ge=0, description="The newest position of an accepted item; 0 if none was.")]


class Principal(Struct, frozen=True):
    """Who was let in: the id of a key is the actor of its commands."""

    actor: str
    scopes: frozenset[Scope] = frozenset({Scope.CLIENT})


class Envelope(Struct, frozen=True, kw_only=True):
    """What a request says besides the command itself."""

    idempotency_key: str | None = None
    correlation_id: str | None = None
    wait_s: float | None = None


class Look(Struct, frozen=True):
    """Where a query looks: `at` a position or a time, not before `min_position`."""

    at: str | None = None
    min_position: int = 0


class ReadableViews(Protocol):
    """The views as queries need them."""

    @property
    def parked(self) -> int:
        """How many aggregates a view could not go on folding."""
        ...

    def reader(self, *, at: int | None, now_ms: int) -> AbstractAsyncContextManager[Any]:
        """One consistent look (projections.view.Reader)."""
        ...


class Dispatcher:
    """Authorises, seals, executes, waits, answers."""

    def __init__(
        self,
        bus: CommandBus,
        registry: Registry,
        views: ReadableViews,
        store: Store,
        vault: Vault,
        secrets: Secrets,
        clock: Clock,
        applied: PositionGate,
        *,
        pick: Pick,
        live_tasks: Callable[[], int],
        live_tasks_max: int = 200_000,
        refuse: Callable[[CommandSpec], None] = lambda _: None,
    ) -> None:
        """`pick` finds what a replay is of; `refuse` raises for a command that may not be accepted now."""
        self._bus = bus
        self._registry = registry
        self._views = views
        self._store = store
        self._vault = vault
        self._secrets = secrets
        self._clock = clock
        self._applied = applied
        self._live_tasks = live_tasks
        self._live_tasks_max = live_tasks_max
        self._refuse = refuse
        self._replays = Replays(views, clock, pick, self._reach)

    # --- commands ---

    async def command(self, command: Struct, principal: Principal, envelope: Envelope) -> dict[str, Any]:
        """Execute one command; its answer as JSON-able data, with the position of its commit."""
        spec = self._registry.command_of(command)
        if isinstance(command, StartReplay):
            return await self._replay(spec, command, principal, envelope)
        command_id = self._command_id(principal, envelope)
        keyed = envelope.idempotency_key is not None
        accepted = await self._execute(spec, command, principal, envelope, command_id, keyed=keyed)
        await self._wait_applied(accepted.position, envelope.wait_s)
        return answer_of(spec, command, accepted)

    async def batch(
        self, commands: Sequence[Struct | HivebusError], principal: Principal, envelope: Envelope
    ) -> BatchAnswer:
        """Execute commands, each with its own answer, in their order on the log; one correlation id for all of them.

        Each item's id is derived from the batch's, so that the whole batch can be sent again under its key, and items
        can name each other before they exist: whatever is named goes first.
        """
        if len(commands) > BATCH_MAX:
            raise TooMany(
                f"{len(commands)} items are more than the {BATCH_MAX} that one batch takes.",
                remedy="Cut the batch into pieces.",
            )
        batch_id = self._command_id(principal, envelope)
        envelope = replace(envelope, correlation_id=envelope.correlation_id or str(batch_id))
        plan = planned(commands, batch_id)
        answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        for start in range(0, len(commands), BATCH_IN_FLIGHT):
            part = plan.order[start : start + BATCH_IN_FLIGHT]
            for index in part:
                answers[index] = asyncio.ensure_future(self._item(index, plan, principal, envelope, batch_id, answers))
            await asyncio.gather(*(answers[index] for index in part))
        items = [answers[index].result() for index in range(len(commands))]
        position = max((item["position"] for item in items if "position" in item), default=0)
        await self._wait_applied(position, envelope.wait_s)
        refused = sum("error" in item for item in items)
        return {
            "items": items,
            "accepted": len(items) - refused,
            "refused": refused,
            "correlation_id": envelope.correlation_id or str(batch_id),
            "position": position,
        }

    async def _item(
        self,
        index: int,
        plan: Plan,
        principal: Principal,
        envelope: Envelope,
        batch_id: UUID,
        answers: Mapping[int, Awaitable[dict[str, Any]]],
    ) -> dict[str, Any]:
        """One item's answer: what its command led to, or its problem document."""
        command = plan.items[index]
        named = {"index": index} | ({"ref": plan.refs[index]} if index in plan.refs else {})
        try:
            if isinstance(command, HivebusError):
                raise command
            for other, pointer in plan.needs.get(index, ()):
                if "error" in await answers[other]:
                    raise Unprocessable(
                        f"Item {other} of this batch, which this one names, was refused.",
                        code="dependency_refused",
                        pointer=pointer,
                        remedy="Mend that item, and send the batch again.",
                    )
        except HivebusError as error:
            return named | {"error": error.as_problem()}
        # An item's key is derived, and the log itself tells a repeat: no look into the store for each item.
        item_id = derive(batch_id, str(index))
        return named | await self._answered(command, principal, envelope, item_id, keyed=False)

    async def _answered(
        self, command: Struct, principal: Principal, envelope: Envelope, command_id: UUID, *, keyed: bool
    ) -> dict[str, Any]:
        """What one command of many led to, or its problem document as `error`."""
        spec = self._registry.command_of(command)
        try:
            accepted = await self._execute(spec, command, principal, envelope, command_id, keyed=keyed)
        except HivebusError as error:
            return {"error": error.as_problem()}
        return answer_of(spec, command, accepted)

    async def _replay(
        self, spec: CommandSpec, command: StartReplay, principal: Principal, envelope: Envelope
    ) -> dict[str, Any]:
        """Its own commit first, then a command for each task that is picked as of that position."""
        command_id = self._command_id(principal, envelope)
        if command.dry_run:
            self._admit(spec, principal)
            return await self._replays.counted(spec, command)
        keyed = envelope.idempotency_key is not None
        accepted = await self._execute(spec, command, principal, envelope, command_id, keyed=keyed)
        within = replace(envelope, correlation_id=accepted.correlation_id)

        def one(item: Struct, item_id: UUID) -> Awaitable[dict[str, Any]]:
            # Whatever became of the first replay of a task, the log trimmed of it too: the store knows it.
            return self._answered(item, principal, within, item_id, keyed=True)

        answer = await self._replays.carried_out(spec, command, accepted, command_id, one)
        await self._wait_applied(answer["position"], envelope.wait_s)
        return answer

    async def _execute(
        self,
        spec: CommandSpec,
        command: Struct,
        principal: Principal,
        envelope: Envelope,
        command_id: UUID,
        *,
        keyed: bool,
    ) -> Accepted:
        self._admit(spec, principal)
        self._refuse(spec)
        if spec.name in MORE_TASKS and self._live_tasks() >= self._live_tasks_max:
            raise TooMany(
                f"{self._live_tasks()} tasks are alive; the bound is {self._live_tasks_max}.",
                code="too_many_tasks",
                remedy="Wait until tasks have ended, or raise HIVEBUS_LIVE_TASKS_MAX.",
                retry_after_s=5,
            )
        task = command.task if isinstance(command, SetSchedule) else command
        if isinstance(task, SubmitTask) and task.rate_key is not None:
            await self._know_rate(task.rate_key, "/rate_key" if task is command else "/task/rate_key")
        if isinstance(command, SubmitTask) and (command.depends_on or command.parent is not None):
            task_id = str(derive(command_id, spec.noun))
            try:
                await know_relations(self._bus, command, task_id)
            except Unprocessable:
                # A repeat is answered as it was, whatever has ended since.
                if not await self._bus.position_of("task", task_id):
                    raise
        command, fingerprint = await self._seal(spec, command)
        caller = Caller(
            actor=principal.actor,
            command_id=command_id,
            keyed=keyed,
            fingerprint=fingerprint,
            correlation_id=envelope.correlation_id,
        )
        return await self._bus.execute(command, caller)

    def _admit(self, spec: CommandSpec, principal: Principal) -> None:
        if spec.scope not in principal.scopes:
            raise Forbidden(f"This key may not issue {spec.name}.", remedy=f"It needs the scope {spec.scope}.")

    async def _know_rate(self, key: str, pointer: str) -> None:
        """Raises Unprocessable for a rate key that has no rate: nobody could say how fast is right."""
        try:
            found: Limit | None = await self._bus.load("limit", limit_id(key))
        except NotFound:
            found = None
        if found is None or found.spec.rate_per_s is None:
            raise Unprocessable(
                f"No rate is set for the key {key[:100]!r}.",
                code="unknown_limit",
                pointer=pointer,
                remedy="Set one first: PUT /api/limits/{key} with rate_per_s, or `hivebus limit set`.",
            )

    async def _seal(self, spec: CommandSpec, command: Struct) -> tuple[Struct, str | None]:
        """The command as the log may keep it, and its fingerprint where that is not the plain one."""
        if isinstance(command, SetSchedule):
            return await self._seal_task(command)
        said = {field: value for field in free_fields(spec.struct) if (value := getattr(command, field))}
        pointer = find_literal_secret(said, self._secrets.values())
        if pointer is not None:
            raise Unprocessable(
                "This looks like a secret; the log would keep it for ever.",
                code="literal_secret",
                pointer=pointer,
                remedy='Put it into the file secrets/NAME of the data directory and refer to it: {"secret": "NAME"}.',
            )
        parameters = said.get("parameters")
        sealed = await self._vault.seal(parameters) if isinstance(parameters, dict) else None
        if sealed is None:
            return command, None
        fingerprint = fingerprint_of(spec.name, replace(command, parameters=sealed.canonical))
        return replace(command, parameters=sealed.parameters), fingerprint

    async def _seal_task(self, command: SetSchedule) -> tuple[Struct, str | None]:
        """The same for the task of a schedule."""
        try:
            task, _ = await self._seal(self._registry.commands["task.submit"], command.task)
        except Unprocessable as error:
            error.pointer = f"/task{error.pointer or ''}"
            raise
        fingerprint = None if task is command.task else fingerprint_of("schedule.set", command)
        return replace(command, task=task), fingerprint

    def _command_id(self, principal: Principal, envelope: Envelope) -> UUID:
        if envelope.idempotency_key is None:
            return uuid7(self._clock.now_ms())
        return from_key(principal.actor, envelope.idempotency_key)

    async def _wait_applied(self, position: int, wait_s: float | None) -> None:
        if wait_s is not None and position:
            await self._reach(position, min(wait_s, WAIT_S_MAX))

    # --- queries ---

    async def query(self, spec: QuerySpec, query: Struct, look: Look) -> dict[str, Any]:
        """Read the views, as of a position if one is asked for."""
        if look.min_position:
            await self._reach(look.min_position, READ_YOUR_WRITE_S)
        at, now_ms = await self._moment(look.at)
        try:
            return await self._read(spec, query, at, now_ms)
        except NotFound:
            if at is not None or not await self._is_on_its_way(spec, query):
                raise
            return await self._read(spec, query, at, now_ms)

    async def _read(self, spec: QuerySpec, query: Struct, at: int | None, now_ms: int) -> dict[str, Any]:
        async with self._views.reader(at=at, now_ms=now_ms) as reader:
            answer: dict[str, Any] = await spec.read(query, reader)
            return answer

    async def _is_on_its_way(self, spec: QuerySpec, query: Struct) -> bool:
        """Whether the log knows the id already: then wait for the views, so that no acknowledged id is ever a 404."""
        noun = spec.name.partition(".")[0]
        aggregate_id = getattr(query, f"{noun}_id", None)
        if aggregate_id is None or noun not in self._registry.aggregates:
            return False
        position = await self._bus.position_of(noun, aggregate_id)
        if not position:
            return False
        await self._reach(position, READ_YOUR_WRITE_S)
        return True

    async def _moment(self, at: str | None) -> tuple[int | None, int]:
        if at is None:
            return None, self._clock.now_ms()
        if not (at.isascii() and at.isdigit() and len(at) <= POSITION_DIGITS_MAX):
            time_ms = parse_rfc3339(at)
            if time_ms >= self._clock.now_ms():
                raise Unprocessable(
                    "This time has not passed yet; what is true then is not known.",
                    pointer="/at",
                    remedy="Give a time in the past, or leave `at` out.",
                )
            position = await self._store.position_at(time_ms)
            await self._reach(position, READ_YOUR_WRITE_S)
            return position, time_ms
        position = int(at)
        await self._reach(position, READ_YOUR_WRITE_S)
        return position, await self._store.recorded_ms(position) or 0

    async def _reach(self, position: int, timeout_s: float) -> None:
        if not await self._applied.wait_for(position, timeout_s):
            raise NotYet(
                f"The views stand at position {self._applied.position} and did not reach {position} in time.",
                remedy="Ask again; if it lasts, look at the lag in GET /api/status.",
                position=position,
                retry_after_s=1,
            )


def answer_of(spec: CommandSpec, command: Struct, accepted: Accepted) -> dict[str, Any]:
    """What the caller of a command gets: where its commit stands, and what became of the aggregate."""
    state = accepted.state
    answer = {
        f"{spec.noun}_id": accepted.aggregate_id,
        "position": accepted.position,
        "status": state.status,
        "created_at" if spec.creates else "time": rfc3339(accepted.time_ms),
        "correlation_id": accepted.correlation_id,
    }
    if accepted.repeated:
        answer["repeated"] = True
    if spec.answer is not None:
        answer |= spec.answer(command, accepted)
    return answer
