"""The store in memory: for tests, and for a bus that need not outlive its process."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Collection, Sequence
from uuid import UUID

from core.kernel.ports import Checkpoint, CheckpointMoved, Recording, Remembered, Stored

logger = logging.getLogger("hivebus.store")

DUPLICATE = "duplicate_commit_id"


class MemoryStore:
    """The Store port on lists. It keeps everything, as a store does: its bound is the memory of the process."""

    def __init__(self) -> None:
        self._checkpoint = Checkpoint()
        self._commits: list[Stored] = []
        self._leaves: list[bytes] = []
        self._streams: dict[str, list[Stored]] = {}
        self._commit_ids: set[str] = set()
        self._commands: dict[UUID, Remembered] = {}

    async def close(self) -> None:
        """Nothing to release; the commits go with the object."""

    async def record(self, recordings: Sequence[Recording], *, old: Checkpoint, new: Checkpoint) -> Collection[int]:
        """See Store."""
        if self._checkpoint.position != old.position:
            raise CheckpointMoved(f"The store's checkpoint is no longer {old.position}.")
        repeats = [recording.entry.position for recording in recordings if self._add(recording, new.recorded_ms)]
        self._checkpoint = new
        return repeats

    def _add(self, recording: Recording, recorded_ms: int) -> bool:
        """Whether it is a repeat."""
        entry, parked = recording.entry, recording.parked
        assert entry.position == len(self._commits) + 1, "a recorder gives dense positions from 1"
        if parked is None and entry.commit_id in self._commit_ids:
            parked = DUPLICATE
            logger.error("position %d repeats commit id %s: parked", entry.position, entry.commit_id)
        stored = Stored(entry, recorded_ms, parked)
        self._commits.append(stored)
        self._leaves.append(recording.leaf)
        self._streams.setdefault(entry.subject, []).append(stored)
        if parked is None:
            self._commit_ids.add(entry.commit_id)
            if recording.command_id is not None:
                self._commands.setdefault(recording.command_id, Remembered(entry.position, recording.fingerprint))
        return parked == DUPLICATE

    async def checkpoint(self) -> Checkpoint:
        """See Store."""
        return self._checkpoint

    async def remembered(self, command_id: UUID) -> Remembered | None:
        """See CommandMemory."""
        return self._commands.get(command_id)

    async def read(self, *, after: int, limit: int) -> list[Stored]:
        """See Store."""
        return self._commits[after : after + limit]

    async def stream(self, subject: str, *, after: int, limit: int) -> list[Stored]:
        """See Store."""
        commits = self._streams.get(subject, [])
        start = bisect_right(commits, after, key=lambda stored: stored.entry.position)
        return commits[start : start + limit]

    async def position_at(self, time_ms: int) -> int:
        """See Store."""
        return bisect_right(self._commits, time_ms, key=lambda stored: stored.recorded_ms)

    async def recorded_ms(self, position: int) -> int | None:
        """See Store."""
        stored = self._at(position)
        return stored.recorded_ms if stored else None

    async def body_at(self, position: int) -> bytes | None:
        """See Store."""
        stored = self._at(position)
        return stored.entry.body if stored else None

    async def leaf(self, position: int) -> bytes | None:
        """See Store."""
        return self._leaves[position - 1] if self._at(position) else None

    def _at(self, position: int) -> Stored | None:
        return self._commits[position - 1] if 1 <= position <= len(self._commits) else None
