"""The recorder: follows the log and makes the store hold every commit, in order, each exactly once."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from typing import cast

from msgspec import Struct

from core.kernel.codec import Codec, Undecodable
from core.kernel.commit import Body, Entry, split_subject
from core.kernel.errors import Unavailable
from core.kernel.ids import canonical
from core.kernel.merkle import Frontier, leaf_hash
from core.kernel.ports import Checkpoint, CheckpointMoved, Clock, EventLog, Recording, Store
from core.services.pace import Pace
from core.services.recent import Recent

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


class _Batch(Struct, frozen=True):
    """What a transaction will hold: read out of the log, checked, and hashed up to its last position."""

    recordings: list[Recording]
    commits: list[tuple[Entry, Body]]
    position: int
    frontier: tuple[bytes, ...]


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
        recent: Recent | None = None,
        pace: Pace | None = None,
    ) -> None:
        """`recent` keeps what was just recorded, for a projector in the same process."""
        self._log = log
        self._store = store
        self._codec = codec
        self._clock = clock
        self._batch_max = batch_max
        self._on_recorded = on_recorded
        self._on_commits = on_commits
        self._recent = recent
        self._pace = pace
        self._checkpoint = Checkpoint()
        # The last position that the log handed over, and the last of those that were read into a batch.
        self._handed = 0
        self._read_to = 0
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
        self._read_to = self._handed = self.position
        frontier = Frontier.decode(self._checkpoint.position, self._checkpoint.frontier)
        self._on_recorded(self.position)
        # The port promises aclose, which AsyncIterator does not spell.
        follow = cast("AsyncGenerator[Sequence[Entry], None]", self._log.follow(after=self.position))
        try:
            async with aclosing(follow), aclosing(self._batches(follow, frontier)) as batches:
                await self._record_all(batches)
        finally:
            self._drained.set()

    async def _batches(
        self, follow: AsyncGenerator[Sequence[Entry], None], frontier: Frontier
    ) -> AsyncGenerator[_Batch, None]:
        while (entries := await anext(follow, None)) is not None:
            self._drained.clear()
            self._handed = entries[-1].position
            for start in range(0, len(entries), self._batch_max):
                yield self._read_batch(entries[start : start + self._batch_max], frontier)

    async def _record_all(self, batches: AsyncGenerator[_Batch, None]) -> None:
        """One transaction after the other; without rests the next batch is read while the store writes."""
        coming: asyncio.Future[_Batch | None] | None = None
        try:
            batch = await anext(batches, None)
            while batch is not None:
                if self._pace is not None:
                    self._pace.begin()
                # Who rests would only cut what comes meanwhile into smaller pieces.
                if self._pace is None or self._pace.hurries:
                    coming = asyncio.ensure_future(anext(batches, None))
                await self._record(batch)
                if self._pace is not None:
                    await self._pace.rest()
                batch = await (anext(batches, None) if coming is None else coming)
                coming = None
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)

    def _read_batch(self, entries: Sequence[Entry], frontier: Frontier) -> _Batch:
        self._refuse_hole(entries)
        recordings: list[Recording] = []
        commits: list[tuple[Entry, Body]] = []
        for entry in entries:
            recording, body = self._read(entry)
            frontier.append(recording.leaf)
            recordings.append(recording)
            if body is not None:
                commits.append((entry, body))
        self._read_to = frontier.size
        return _Batch(recordings, commits, frontier.size, frontier.encode())

    async def _record(self, batch: _Batch) -> None:
        old, commits = self._checkpoint, batch.commits
        # The time that `?at=` means never decreases, whatever the machine's clock does.
        recorded_ms = max(self._clock.now_ms(), old.recorded_ms)
        new = Checkpoint(position=batch.position, recorded_ms=recorded_ms, frontier=batch.frontier)
        repeats = await self._store_batch(batch.recordings, old, new)
        self._checkpoint = new
        if batch.recordings[-1].parked is None:
            self._delay_ms = recorded_ms - commits[-1][1].occurred_at
        _alarm_parked(batch.recordings)
        if repeats:
            commits = [commit for commit in commits if commit[0].position not in repeats]
        # Before anybody is told: who is woken looks there.
        if self._recent is not None and repeats is not None:
            self._recent.put(old.position, new.position, commits)
        self._on_recorded(new.position)
        self._on_commits(commits)
        if self.position == self._handed:
            self._drained.set()

    async def _store_batch(
        self, recordings: Sequence[Recording], old: Checkpoint, new: Checkpoint
    ) -> Collection[int] | None:
        """Record until it is certain: a connection that broke at the commit says neither yes nor no.

        The positions that the store parked as repeats; None where its answer was lost.
        """
        unknown = False
        repeats: Collection[int] | None = None
        while True:
            try:
                repeats = await self._store.record(recordings, old=old, new=new)
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
        return repeats

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
        for expected, entry in enumerate(entries, self._read_to + 1):
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
            command_id=None if refusal else canonical(body.command_id),
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
