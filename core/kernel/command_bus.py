"""The command bus: load, fold, decide, append. The append under the expected position is the commit point.

Optimistic concurrency is the only guard of correctness. The lock per cached aggregate is a courtesy: 64 commands at
once on one aggregate would otherwise starve each other (measured: 44 of 320 stored with five tries each).
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from msgspec import Struct

from core.kernel.codec import Codec
from core.kernel.commit import Commit, Event, Moment, commit_id_of, fingerprint_of, subject_of
from core.kernel.errors import HivebusError, KeyReused, NotFound, Refused, Unavailable
from core.kernel.ids import derive, uuid7
from core.kernel.outcomes import CommandUnchanged
from core.kernel.ports import Clock, CommandMemory, Conflict, EventLog
from core.kernel.refusals import RefusalLedger
from core.kernel.registry import CommandSpec, Context, Registry, Scope

TRIES_MAX = 5
RECENT_MAX = 64

# A subject token is never a user's text: whatever does not look like one of our ids names nothing.
_ID = re.compile(r"[A-Za-z0-9-]{1,64}").fullmatch


class Caller(Struct, frozen=True, kw_only=True):
    """Who asks, and how the command hangs together with others."""

    actor: str
    command_id: UUID | None = None
    keyed: bool = False
    fingerprint: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    on_behalf_of: str | None = None


class Accepted(Struct, frozen=True, kw_only=True):
    """What a command led to. `repeated`: the log held this very command already, nothing was added."""

    position: int
    aggregate_id: str
    before: Any
    state: Any
    events: Sequence[Event]
    time_ms: int
    correlation_id: str
    repeated: bool = False


class Loaded:
    """An aggregate in the cache: its state, where it stands on the log, and its last commands."""

    __slots__ = ("expires", "lock", "position", "recent", "state", "version")

    def __init__(self) -> None:
        self.state: Any = None
        self.position = 0
        self.version = 0
        self.recent: OrderedDict[str, tuple[str, int, int]] = OrderedDict()
        self.lock = asyncio.Lock()
        self.expires = 0.0

    def remember(self, command_id: str, fingerprint: str, position: int, time_ms: int) -> None:
        """Keep the last 64 commands, so that a repeat is known before the store has it."""
        self.recent[command_id] = (fingerprint, position, time_ms)
        if len(self.recent) > RECENT_MAX:
            self.recent.popitem(last=False)


class CommandBus:
    """Executes one command at a time per aggregate, any number at once over all."""

    def __init__(
        self,
        log: EventLog,
        registry: Registry,
        codec: Codec,
        clock: Clock,
        memory: CommandMemory,
        *,
        cache_max: int = 1000,
        cache_ttl_s: float = 300.0,
    ) -> None:
        self._log = log
        self._registry = registry
        self._codec = codec
        self._clock = clock
        self._memory = memory
        self._cache: OrderedDict[str, Loaded] = OrderedDict()
        self._cache_max = cache_max
        self._cache_ttl_s = cache_ttl_s
        self.refusals = RefusalLedger(log, codec, clock)
        self.executed = 0

    async def execute(self, command: Struct, caller: Caller) -> Accepted:
        """Run a command to its commit.

        Raises what the decision raises (Refused also leaves a `command.refused`), NotFound for an aggregate that the
        log does not know, KeyReused, and what EventLog.append raises. A repeat answers with the first commit.
        """
        spec = self._registry.command_of(command)
        self.executed += 1
        now_ms = self._clock.now_ms()
        command_id = caller.command_id or uuid7(now_ms)
        fingerprint = caller.fingerprint or fingerprint_of(spec.name, command)
        if spec.creates:
            aggregate_id = str(derive(command_id, spec.noun))
            return await self._commit(spec, command, caller, Loaded(), aggregate_id, command_id, fingerprint, now_ms)
        aggregate_id = getattr(command, spec.target or "")
        if not _ID(aggregate_id):
            raise unknown(spec.noun, aggregate_id)
        loaded = self._cached(subject_of(spec.noun, aggregate_id))
        async with loaded.lock:
            if not loaded.position:
                await self._load(loaded, spec.noun, aggregate_id)
            if not loaded.position and not spec.upserts:
                raise unknown(spec.noun, aggregate_id)
            return await self._commit(spec, command, caller, loaded, aggregate_id, command_id, fingerprint, now_ms)

    async def load(self, noun: str, aggregate_id: str) -> Any:
        """The state of an aggregate as the log has it; NotFound where it has none."""
        loaded = await self._loaded(noun, aggregate_id)
        if not loaded.position:
            raise unknown(noun, aggregate_id)
        return loaded.state

    async def position_of(self, noun: str, aggregate_id: str) -> int:
        """The aggregate's last position as far as this bus knows; 0 where the log has no such aggregate."""
        return (await self._loaded(noun, aggregate_id)).position

    async def _loaded(self, noun: str, aggregate_id: str) -> Loaded:
        if not _ID(aggregate_id):
            return Loaded()
        loaded = self._cached(subject_of(noun, aggregate_id))
        async with loaded.lock:
            if not loaded.position:
                await self._load(loaded, noun, aggregate_id)
        return loaded

    async def _commit(
        self,
        spec: CommandSpec,
        command: Struct,
        caller: Caller,
        loaded: Loaded,
        aggregate_id: str,
        command_id: UUID,
        fingerprint: str,
        now_ms: int,
    ) -> Accepted:
        key = str(command_id)
        subject = subject_of(spec.noun, aggregate_id)
        commit_id = commit_id_of(command_id)
        correlation_id = caller.correlation_id or key
        context = Context(now_ms, aggregate_id, command_id, caller.actor, correlation_id)
        repeat = await self._repeat(loaded, caller, key, fingerprint, aggregate_id)
        if repeat is not None:
            return repeat
        for _ in range(TRIES_MAX):
            before = loaded.state
            try:
                events: Sequence[Event] = spec.decide(command, before, context)
            except Refused as refusal:
                if spec.scope is not Scope.INTERNAL:
                    await self.refusals.record(refusal, spec.name, aggregate_id, caller, context, fingerprint)
                raise
            if not events:
                if spec.scope is not Scope.CLIENT:
                    return _accepted(loaded, aggregate_id, (), now_ms, correlation_id)
                events = (CommandUnchanged(),)
            body = self._codec.encode(
                id=str(commit_id),
                command=spec.name,
                command_id=key,
                fingerprint=fingerprint,
                actor=caller.actor,
                on_behalf_of=caller.on_behalf_of,
                correlation_id=correlation_id,
                causation_id=caller.causation_id or key,
                occurred_at=now_ms,
                version=loaded.version + 1,
                events=events,
            )
            try:
                position = await self._log.append(subject, commit_id, body, expected=loaded.position)
            except Conflict as conflict:
                self._catch_up(loaded, spec.noun, [self._codec.decode(entry) for entry in conflict.newer])
                repeat = await self._repeat(loaded, caller, key, fingerprint, aggregate_id)
                if repeat is not None:
                    self._keep(subject, loaded)
                    return repeat
                continue
            except BaseException:
                # Whether it was stored is not known here: the next command reads the log again.
                self._cache.pop(subject, None)
                raise
            self._apply(loaded, spec.noun, events, Moment(position, now_ms, correlation_id))
            loaded.remember(key, fingerprint, position, now_ms)
            self._keep(subject, loaded)
            return Accepted(
                position=position,
                aggregate_id=aggregate_id,
                before=before,
                state=loaded.state,
                events=events,
                time_ms=now_ms,
                correlation_id=correlation_id,
            )
        raise Unavailable(
            f"{spec.noun} {aggregate_id} changed {TRIES_MAX} times while this command was decided.",
            code="contended",
            remedy="Send the command again.",
            retry_after_s=1,
        )

    async def _repeat(
        self, loaded: Loaded, caller: Caller, key: str, fingerprint: str, aggregate_id: str
    ) -> Accepted | None:
        """The answer to a command that the log already holds."""
        known = loaded.recent.get(key)
        if known is None and caller.keyed and loaded.position:
            stored = await self._memory.remembered(UUID(key))
            if stored is not None:
                known = (stored.fingerprint, stored.position, self._clock.now_ms())
        if known is None:
            return None
        first, position, time_ms = known
        if first != fingerprint:
            raise KeyReused(
                "This idempotency key was used before with another body.",
                remedy="Repeat the first body, or choose a new key.",
                position=position,
            )
        accepted = _accepted(loaded, aggregate_id, (), time_ms, caller.correlation_id or key)
        return Accepted(
            position=position,
            aggregate_id=aggregate_id,
            before=accepted.before,
            state=accepted.state,
            events=(),
            time_ms=time_ms,
            correlation_id=accepted.correlation_id,
            repeated=True,
        )

    def _cached(self, subject: str) -> Loaded:
        loaded = self._cache.get(subject)
        if loaded is None or (loaded.expires < self._clock.monotonic() and not loaded.lock.locked()):
            loaded = Loaded()
            self._keep(subject, loaded)
        return loaded

    def _keep(self, subject: str, loaded: Loaded) -> None:
        loaded.expires = self._clock.monotonic() + self._cache_ttl_s
        self._cache[subject] = loaded
        self._cache.move_to_end(subject)
        if len(self._cache) > self._cache_max:
            self._cache.popitem(last=False)

    async def _load(self, loaded: Loaded, noun: str, aggregate_id: str) -> None:
        entries = await self._log.read(subject_of(noun, aggregate_id))
        self._catch_up(loaded, noun, [self._codec.decode(entry) for entry in entries])

    def _catch_up(self, loaded: Loaded, noun: str, commits: Sequence[Commit]) -> None:
        for commit in commits:
            if commit.position <= loaded.position:
                continue
            self._apply(loaded, noun, commit.events, commit.moment)
            body = commit.body
            loaded.remember(body.command_id, body.fingerprint, commit.position, body.occurred_at)

    def _apply(self, loaded: Loaded, noun: str, events: Sequence[Event], moment: Moment) -> None:
        evolve = self._registry.aggregates[noun].evolve
        state = loaded.state
        for event in events:
            if type(event) is not CommandUnchanged:
                state = evolve(state, event, moment)
        loaded.state = state
        loaded.position = moment.position
        loaded.version += 1


def unknown(noun: str, aggregate_id: str) -> HivebusError:
    """The error for an id that the log does not know."""
    return NotFound(
        f"There is no {noun} {aggregate_id}.",
        code=f"unknown_{noun}",
        remedy=f"List what there is: GET /api/{noun}s, or `hivebus {noun} list`.",
    )


def _accepted(
    loaded: Loaded, aggregate_id: str, events: Sequence[Event], time_ms: int, correlation_id: str
) -> Accepted:
    return Accepted(
        position=loaded.position,
        aggregate_id=aggregate_id,
        before=loaded.state,
        state=loaded.state,
        events=events,
        time_ms=time_ms,
        correlation_id=correlation_id,
    )
