"""The recorder: follows the log and makes the store hold every commit, in order, each exactly once."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import cast
from uuid import UUID

from msgspec import Struct

from core.kernel.codec import Codec, Undecodable
from core.kernel.commit import Body, Entry, split_subject
from core.kernel.errors import Unavailable
from core.kernel.merkle import Frontier, leaf_hash
from core.kernel.ports import Checkpoint, CheckpointMoved, Clock, EventLog, Recording, Store
from core.services.pace import Pace

logger = logging.getLogger("hivebus.recorder")

# A refusal is a fact about a command that changed nothing: its key may be tried again, so it is never remembered.
REFUSAL_NOUNS = frozenset({"refusal", "refusals"})
NAME_CHARS_MAX = 512
VERSION_MAX = (1 << 63) - 1
RETRY_S = 0.2

_canonical_uuid = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}").fullmatch


class Lag(Struct, frozen=True):
    """How far the store is behind the log: `commits` is counted now.

    `delay_ms` is the newest commit's time from decision to record, None before this run recorded one; clocks that
    disagree can make it negative.
    """

    commits: int
    delay_ms: int | None


def _nothing(_what: object) -> None: ...


class Recorder:
    """Copies the log into the store, one transaction per batch, from the store's checkpoint on.

    It stops only by an error: a hole in the log, another recorder, a store that refuses. For a store that is away it
    waits, and `trouble` says so. What it cannot read it parks and stores raw. A restart goes on at the checkpoint, the
    only cursor there is.
    """

    def __init__(
        self,
        log: EventLog,
        store: Store,
        codec: Codec,
        clock: Clock,
        *,
        batch_max: int = 1000,
        on_recorded: Callable[[int], None] = _nothing,
        on_commits: Callable[[Sequence[tuple[Entry, Body]]], None] = _nothing,
        pace: Pace | None = None,
    ) -> None:
        self._log = log
        self._store = store
        self._codec = codec
        self._clock = clock
        self._batch_max = batch_max
        self._on_recorded = on_recorded
        self._on_commits = on_commits
        self._pace = pace
        self._checkpoint = Checkpoint()
        self._delay_ms: int | None = None
        self.trouble: str | None = None
        # Set while nothing that the log handed over waits to be recorded, so also while this one does not run.
        self._drained = asyncio.Event()
        self._drained.set()

    @property
    def position(self) -> int:
        """The newest position that is durable in the store; 0 before `run` has read the checkpoint."""
        return self._checkpoint.position

    async def lag(self) -> Lag:
        """Measured against the log's head. Raises what the log raises when it cannot be reached."""
        return Lag(commits=await self._log.head() - self.position, delay_ms=self._delay_ms)

    async def drained(self) -> None:
        """Wait until all that the log has handed over is recorded; at once where nothing records here."""
        while not self._drained.is_set():
            await self._drained.wait()

    async def run(self) -> None:
        """Record for ever. `on_recorded` hears the position reached, first the checkpoint, then after each batch.

        `on_commits` hears the commits of a batch once it is recorded, without those that were parked.

        Raises Unavailable (code `log_hole`: the log skipped a position), CheckpointMoved (another recorder writes).
        """
        self._checkpoint = await self._stored_checkpoint()
        self._well()
        frontier = Frontier.decode(self._checkpoint.position, self._checkpoint.frontier)
        self._on_recorded(self.position)
        # The port promises aclose, which AsyncIterator does not spell.
        follow = cast("AsyncGenerator[Sequence[Entry], None]", self._log.follow(after=self.position))
        try:
            async with aclosing(follow):
                while (entries := await anext(follow, None)) is not None:
                    self._drained.clear()
                    await self._take(entries, frontier)
                    self._drained.set()
        finally:
            self._drained.set()

    async def _take(self, entries: Sequence[Entry], frontier: Frontier) -> None:
        for start in range(0, len(entries), self._batch_max):
            if self._pace is not None:
                self._pace.begin()
            await self._record(entries[start : start + self._batch_max], frontier)
            if self._pace is not None:
                await self._pace.rest()

    async def _record(self, entries: Sequence[Entry], frontier: Frontier) -> None:
        old = self._checkpoint
        self._refuse_hole(entries)
        recordings: list[Recording] = []
        commits: list[tuple[Entry, Body]] = []
        occurred_ms: int | None = None
        for entry in entries:
            recording, body = self._read(entry)
            frontier.append(recording.leaf)
            recordings.append(recording)
            occurred_ms = body.occurred_at if body else None
            if body is not None:
                commits.append((entry, body))
        # The time that `?at=` means never decreases, whatever the machine's clock does.
        recorded_ms = max(self._clock.now_ms(), old.recorded_ms)
        new = Checkpoint(position=frontier.size, recorded_ms=recorded_ms, frontier=frontier.encode())
        await self._store_batch(recordings, old, new)
        self._checkpoint = new
        if occurred_ms is not None:
            self._delay_ms = recorded_ms - occurred_ms
        _alarm_parked(recordings)
        self._on_recorded(new.position)
        self._on_commits(commits)

    async def _store_batch(self, recordings: Sequence[Recording], old: Checkpoint, new: Checkpoint) -> None:
        """Record until it is certain: a connection that broke at the commit says neither yes nor no."""
        unknown = False
        while True:
            try:
                await self._store.record(recordings, old=old, new=new)
            except Unavailable as error:
                unknown = True
                await self._wait(error)
            except CheckpointMoved:
                # By ourselves, perhaps: then the store stands exactly where this batch ends.
                if not unknown or await self._stored_checkpoint() != new:
                    raise
                break
            else:
                break
        self._well()

    async def _stored_checkpoint(self) -> Checkpoint:
        while True:
            try:
                return await self._store.checkpoint()
            except Unavailable as error:
                await self._wait(error)

    async def _wait(self, error: Unavailable) -> None:
        if self.trouble is None:
            logger.warning("Recording waits at position %d: %s", self.position, error.sentence)
        self.trouble = error.sentence
        await self._clock.sleep(RETRY_S)

    def _well(self) -> None:
        if self.trouble is not None:
            logger.warning("Recording goes on after position %d.", self.position)
            self.trouble = None

    def _refuse_hole(self, entries: Sequence[Entry]) -> None:
        for expected, entry in enumerate(entries, self.position + 1):
            if entry.position != expected:
                logger.error("the log gave position %d where %d was due: recording stops", entry.position, expected)
                raise Unavailable(
                    f"The log gave position {entry.position} where {expected} was due.",
                    code="log_hole",
                    remedy="Compare the log with the store before anything is appended.",
                )

    def _read(self, entry: Entry) -> tuple[Recording, Body | None]:
        leaf = leaf_hash(entry.position, entry.subject, entry.body)
        try:
            body = self._codec.body(entry.body)
        except Undecodable:
            return Recording(entry=entry, leaf=leaf, parked="undecodable"), None
        if fault := _fault(entry, body):
            return Recording(entry=entry, leaf=leaf, parked=fault), None
        refusal = split_subject(entry.subject)[0] in REFUSAL_NOUNS
        recording = Recording(
            entry=entry,
            leaf=leaf,
            version=body.version,
            command=body.command,
            command_id=None if refusal else UUID(body.command_id),
            fingerprint=body.fingerprint,
            actor=body.actor,
        )
        return recording, body


def _fault(entry: Entry, body: Body) -> str | None:
    """Why a body that decodes is still no commit of ours; None for a good one."""
    if body.id != entry.commit_id:
        return "commit_id_mismatch"
    if not _canonical_uuid(body.id):
        return "invalid_commit_id"
    if not _canonical_uuid(body.command_id):
        return "invalid_command_id"
    if not 0 <= body.version <= VERSION_MAX:
        return "invalid_version"
    # A NUL is legal in JSON, and no Postgres text can hold it.
    for name in (body.command, body.actor, body.fingerprint):
        if len(name) > NAME_CHARS_MAX or "\0" in name:
            return "invalid_name"
    return None


def _alarm_parked(recordings: Sequence[Recording]) -> None:
    parked = [recording for recording in recordings if recording.parked]
    if parked:
        first = parked[0]
        logger.error("parked %d commits; the first at %d: %s", len(parked), first.entry.position, first.parked)
