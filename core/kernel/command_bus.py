"""The command bus: load, fold, decide, append. The append under the expected position is the commit point.

Optimistic concurrency is the only guard of correctness. The lock per cached aggregate is a courtesy: 64 commands at
once on one aggregate would otherwise starve each other (measured: 44 of 320 stored with five tries each).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from msgspec import Struct

from core.kernel.aggregate_errors import gone, key_reused, unknown
from core.kernel.codec import Codec
from core.kernel.commit import Commit, Event, Moment, commit_id_of, fingerprint_of, subject_of
from core.kernel.errors import HivebusError, OutcomeUnknown, Refused, Unavailable
from core.kernel.ids import derived, uuid7
from core.kernel.loaded import AggregateCache, First, Loaded
from core.kernel.outcomes import CommandUnchanged
from core.kernel.ports import Clock, CommandMemory, Conflict, EventLog
from core.kernel.refusals import RefusalLedger
from core.kernel.registry import CommandSpec, Context, Registry, Scope

TRIES_MAX = 5
KEYS_MAX = 10_000
PAGE_MAX = 1000

# A subject token is never a user's text: whatever does not look like one of our ids names nothing.
_ID = re.compile(r"[A-Za-z0-9-]{1,64}").fullmatch


class Caller(Struct, frozen=True, kw_only=True, gc=False):
    """Who asks, and how the command hangs together with others. `keyed`: the id comes from an Idempotency-Key."""

    actor: str
    command_id: UUID | None = None
    keyed: bool = False
    fingerprint: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    on_behalf_of: str | None = None


class Accepted(Struct, frozen=True, kw_only=True, gc=False):
    """What a command led to. `repeated`: the log held this very command already; `before` is then not known."""

    position: int
    aggregate_id: str
    before: Any
    state: Any
    events: Sequence[Event]
    time_ms: int
    correlation_id: str
    repeated: bool = False


class _Job(Struct, frozen=True, gc=False):
    """One command on its way through the bus."""

    spec: CommandSpec
    command: Struct
    caller: Caller
    aggregate_id: str
    subject: str
    fingerprint: str
    context: Context
    key: str


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
        self._cache = AggregateCache(clock, max_items=cache_max, ttl_s=cache_ttl_s)
        self._keys: OrderedDict[str, str] = OrderedDict()
        self.refusals = RefusalLedger(log, codec, clock)
        self.executed = 0
        self.newest = 0

    async def execute(self, command: Struct, caller: Caller) -> Accepted:
        """Run a command to its commit.

        Raises what the decision raises (Refused also leaves a `command.refused`), NotFound for an aggregate that the
        log does not know, KeyReused, and what EventLog.append raises. A repeat answers with the first commit.
        """
        self.executed += 1
        job = self._job(command, caller)
        try:
            stored = await self._claim_key(job) if caller.keyed else False
            if job.spec.creates and not stored:
                return await self._decide(job, await self._origin(job), fresh=True)
            # A creation that the store has is a repeat: trimmed of it, the log would take it a second time.
            return await self._change(job)
        except HivebusError as error:
            await self._failed(job, error)
            raise

    async def _origin(self, job: _Job) -> Loaded:
        """What a creation begins with: nothing, or the state that it copies."""
        new = Loaded()
        if job.spec.copies is not None:
            new.state = await self.load(job.spec.noun, getattr(job.command, job.spec.copies))
        return new

    async def _failed(self, job: _Job, error: HivebusError) -> None:
        if not isinstance(error, OutcomeUnknown) and self._keys.get(job.key) == job.fingerprint:
            # It left nothing, so the key may be tried again, with another body too.
            del self._keys[job.key]
        if isinstance(error, Refused) and job.spec.scope is not Scope.INTERNAL:
            await self.refusals.record(error, job.spec.name, job.aggregate_id, job.caller, job.context, job.fingerprint)

    async def load(self, noun: str, aggregate_id: str) -> Any:
        """The state of an aggregate as the log has it; NotFound where it has none."""
        loaded = await self._loaded(noun, aggregate_id, fresh=True)
        if not loaded.position:
            raise unknown(noun, aggregate_id)
        return loaded.state

    async def position_of(self, noun: str, aggregate_id: str) -> int:
        """The aggregate's last position as far as this bus knows; 0 where the log has no such aggregate."""
        return (await self._loaded(noun, aggregate_id)).position

    async def commits(self, noun: str, aggregate_id: str) -> list[Commit]:
        """The whole history of an aggregate, oldest first, what the log was trimmed of too; none where it has none."""
        return (await self._history(noun, aggregate_id, 0))[0] if _ID(aggregate_id) else []

    # --- one command ---

    def _job(self, command: Struct, caller: Caller) -> _Job:
        spec = self._registry.command_of(command)
        now_ms = self._clock.now_ms()
        command_id = caller.command_id or uuid7(now_ms)
        key = str(command_id)
        if spec.creates:
            aggregate_id = derived(command_id, spec.noun, key)
        else:
            aggregate_id = spec.id_of(command)
            if not _ID(aggregate_id):
                raise unknown(spec.noun, aggregate_id)
        return _Job(
            spec,
            command,
            caller,
            aggregate_id,
            subject_of(spec.noun, aggregate_id),
            caller.fingerprint or fingerprint_of(spec.name, command),
            Context(now_ms, aggregate_id, command_id, caller.actor, caller.correlation_id or key),
            key,
        )

    async def _change(self, job: _Job) -> Accepted:
        """Decide on an aggregate as the log has it."""
        loaded = self._cache.get(job.subject)
        async with loaded.lock:
            fresh = not loaded.position
            if fresh:
                await self._read(loaded, job.spec.noun, job.aggregate_id)
            if not loaded.position and not job.spec.upserts:
                raise unknown(job.spec.noun, job.spec.named_by(job.command))
            repeat = await self._repeat(job, loaded)
            if repeat is None and loaded.trimmed:
                raise gone(job.spec.noun, job.aggregate_id)
            return repeat or await self._decide(job, loaded, fresh=fresh)

    def forget(self, subject: str) -> None:
        """The log was trimmed of this subject: what is kept of it no longer fits."""
        self._cache.drop(subject)

    def heard(self, commit: Commit) -> None:
        """What the log said another process has appended: the next command here need not read it."""
        aggregate = self._registry.aggregates.get(commit.noun)
        if aggregate is not None:
            self._cache.hear(subject_of(commit.noun, commit.aggregate_id), aggregate, commit)

    async def _decide(self, job: _Job, loaded: Loaded, *, fresh: bool) -> Accepted:
        """Decide and append; on a conflict, fold what came between and decide again.

        A decision that leaves nothing is not checked by an append, and another process may have changed the aggregate
        since it was cached: such a one counts only on a `fresh` state.
        """
        for _ in range(TRIES_MAX):
            events: Sequence[Event] = ()
            refused = False
            try:
                events = job.spec.decide(job.command, loaded.state, job.context)
            except Refused:
                if fresh:
                    raise
                refused = True
            if not fresh and (refused or (not events and job.spec.scope is not Scope.CLIENT)):
                fresh = True
                await self._read(loaded, job.spec.noun, job.aggregate_id)
                repeat = await self._repeat(job, loaded)
                if repeat is not None:
                    return repeat
                continue
            if not events:
                if job.spec.scope is not Scope.CLIENT:
                    return self._accepted(job, loaded, loaded.state, ())
                events = (CommandUnchanged(),)
            commit_id, body = self._commit(job, loaded, events)
            try:
                position = await self._log.append(job.subject, commit_id, body, expected=loaded.position)
            except Conflict as conflict:
                repeat = await self._catch_up(job, loaded, conflict)
                if repeat is not None:
                    return repeat
            except BaseException:
                # Whether it was stored is not known here: the next command reads the log again.
                self._cache.drop(job.subject)
                raise
            else:
                return self._applied(job, loaded, events, position)
        self._cache.drop(job.subject)
        raise Unavailable(
            f"{job.spec.noun} {job.aggregate_id} changed {TRIES_MAX} times while this command was decided.",
            code="contended",
            remedy="Send the command again.",
            retry_after_s=1,
        )

    def _commit(self, job: _Job, loaded: Loaded, events: Sequence[Event]) -> tuple[str, bytes]:
        """(id, body) of the commit that would follow."""
        context, caller = job.context, job.caller
        commit_id = commit_id_of(context.command_id, job.subject, job.key)
        return commit_id, self._codec.encode(
            id=commit_id,
            command=job.spec.name,
            command_id=job.key,
            fingerprint=job.fingerprint,
            actor=caller.actor,
            on_behalf_of=caller.on_behalf_of,
            correlation_id=context.correlation_id,
            causation_id=caller.causation_id or job.key,
            occurred_at=context.now_ms,
            version=loaded.version + 1,
            events=events,
        )

    async def _catch_up(self, job: _Job, loaded: Loaded, conflict: Conflict) -> Accepted | None:
        """Fold what came first. The answer if it was this very command; KeyReused if another one created this."""
        if loaded.position and not conflict.newer:
            # What was folded here is no longer on the log: another process trimmed it.
            self._cache.drop(job.subject)
            raise Unavailable(
                f"The log no longer holds {job.spec.noun} {job.aggregate_id} as it was folded here.",
                code="contended",
                remedy="Send the command again.",
                retry_after_s=1,
            )
        aggregate = self._registry.aggregates[job.spec.noun]
        loaded.catch_up(aggregate, [self._codec.decode(entry) for entry in conflict.newer])
        repeat = await self._repeat(job, loaded)
        if repeat is not None:
            self._cache.keep(job.subject, loaded)
        elif job.spec.creates:
            raise key_reused(loaded.position) from None
        return repeat

    def _applied(self, job: _Job, loaded: Loaded, events: Sequence[Event], position: int) -> Accepted:
        """Fold what is on the log now, and answer."""
        self.newest = max(self.newest, position)
        context, before = job.context, loaded.state
        aggregate = self._registry.aggregates[job.spec.noun]
        loaded.apply(aggregate, events, Moment(position, context.now_ms, context.correlation_id))
        loaded.remember(job.key, First(job.fingerprint, position, context.now_ms, context.correlation_id))
        self._cache.keep(job.subject, loaded)
        return self._accepted(job, loaded, before, events)

    def _accepted(self, job: _Job, loaded: Loaded, before: Any, events: Sequence[Event]) -> Accepted:
        return Accepted(
            position=loaded.position,
            aggregate_id=job.aggregate_id,
            before=before,
            state=loaded.state,
            events=events,
            time_ms=job.context.now_ms,
            correlation_id=job.context.correlation_id,
        )

    # --- repeats ---

    async def _claim_key(self, job: _Job) -> bool:
        """A key stands for one body, whatever it is sent to: whether the store has it. Raises KeyReused for another."""
        known = self._keys.get(job.key)
        stored = None
        # A key that is kept here may have been used long ago: before anything is created twice, the store is asked.
        if known is None or job.spec.creates:
            stored = await self._memory.remembered(job.context.command_id)
            # Another command may have claimed it meanwhile.
            known = self._keys.get(job.key) or (stored.fingerprint if stored else None)
        if known is not None and known != job.fingerprint:
            raise key_reused(None)
        self._keys[job.key] = job.fingerprint
        if len(self._keys) > KEYS_MAX:
            self._keys.popitem(last=False)
        return stored is not None

    async def _repeat(self, job: _Job, loaded: Loaded) -> Accepted | None:
        """The answer to a command that the log already holds."""
        first = loaded.recent.get(job.key)
        if first is None and job.caller.keyed and loaded.position:
            first = await self._stored_first(job)
        if first is None:
            return None
        if first.fingerprint != job.fingerprint:
            raise key_reused(first.position)
        return Accepted(
            position=first.position,
            aggregate_id=job.aggregate_id,
            before=None,
            state=loaded.state,
            events=(),
            time_ms=first.time_ms,
            correlation_id=first.correlation_id,
            repeated=True,
        )

    async def _stored_first(self, job: _Job) -> First | None:
        stored = await self._memory.remembered(job.context.command_id)
        if stored is None:
            return None
        entry = await self._log.entry(stored.position)
        if entry is None:
            held = await self._memory.stream(job.subject, after=stored.position - 1, limit=1)
            if not held or held[0].entry.position != stored.position:
                return First(stored.fingerprint, stored.position, job.context.now_ms, job.context.correlation_id)
            entry = held[0].entry
        body = self._codec.body(entry.body)
        return First(stored.fingerprint, stored.position, body.occurred_at, body.correlation_id)

    # --- reading ---

    async def _loaded(self, noun: str, aggregate_id: str, *, fresh: bool = False) -> Loaded:
        if not _ID(aggregate_id):
            return Loaded()
        loaded = self._cache.get(subject_of(noun, aggregate_id))
        async with loaded.lock:
            if fresh or not loaded.position:
                await self._read(loaded, noun, aggregate_id)
        return loaded

    async def _read(self, loaded: Loaded, noun: str, aggregate_id: str) -> None:
        """Fold what the log has beyond what is loaded, and what it was trimmed of from the store."""
        commits, trimmed = await self._history(noun, aggregate_id, loaded.position)
        loaded.trimmed = loaded.trimmed or trimmed
        loaded.catch_up(self._registry.aggregates[noun], commits)

    async def _history(self, noun: str, aggregate_id: str, after: int) -> tuple[list[Commit], bool]:
        """The commits after a position, and whether the log was trimmed of some of them."""
        subject = subject_of(noun, aggregate_id)
        commits = [self._codec.decode(entry) for entry in await self._log.read(subject, after=after)]
        if after or (commits and commits[0].body.version == 1):
            return commits, False
        older = await self._stored(subject, commits[0].position if commits else 0)
        return older + commits, bool(older)

    async def _stored(self, subject: str, before: int) -> list[Commit]:
        """The subject's commits as the store has them, before a position if that is not 0."""
        commits: list[Commit] = []
        after = 0
        while page := await self._memory.stream(subject, after=after, limit=PAGE_MAX):
            after = page[-1].entry.position
            good = [stored.entry for stored in page if stored.parked is None]
            commits += [self._codec.decode(entry) for entry in good if not before or entry.position < before]
        return commits
