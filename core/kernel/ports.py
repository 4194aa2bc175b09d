"""The ports. A docstring here is a promise, and each promise is a test that every adapter runs (tests/contracts)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol
from uuid import UUID

from msgspec import Struct

from core.kernel.commit import Entry


class Conflict(Exception):
    """The expectation did not hold: these entries came to the subject after it, oldest first."""

    def __init__(self, newer: Sequence[Entry]) -> None:
        super().__init__(f"{len(newer)} newer entries")
        self.newer = newer


class EventLog(Protocol):
    """The one place where a command becomes a fact.

    Positions are dense, start at 1 and never change meaning. Appends may run concurrently from any task of the loop.
    """

    async def append(self, subject: str, commit_id: str, body: bytes, *, expected: int) -> int:
        """Append one message if the subject's last position is `expected` (0: the subject is new); its position.

        A lost acknowledgement is resolved before this returns: the message is sent again under the same expectation,
        and the entry that carries `commit_id` is found or it is not. Cancelling the caller does not undo an append.

        Raises Conflict (nothing stored under this call, or an earlier attempt of this commit id was: look into
        `newer`), Unavailable (the log cannot be reached, nothing was sent), OutcomeUnknown (sent, and unresolved
        within the adapter's deadline), LogFull.
        """
        ...

    async def read(self, subject: str, *, after: int = 0) -> list[Entry]:
        """The subject's entries after a position, in order, as the leader has them: own appends are seen at once."""
        ...

    async def entry(self, position: int) -> Entry | None:
        """The entry at a position; None where the log holds none."""
        ...

    async def head(self) -> int:
        """The last position, 0 for an empty log."""
        ...

    def follow(self, *, after: int) -> AsyncIterator[Sequence[Entry]]:
        """All entries after a position, for ever, in non-empty batches of at most 1,000, dense and without repeats.

        The consumer sets the pace: at most two batches are held for it. The iterator outlives disconnects. It ends
        only by `aclose()` or with Unavailable, raised when the log no longer holds the next position.
        """
        ...

    async def healthy(self) -> bool:
        """Whether the log answered within the last two seconds."""
        ...


class Lease(Protocol):
    """The right to be the one that does something, among all processes of a fleet. One object, one task that asks.

    `acquire`, work until `lost` returns, begin again; `release` at the end. A holder renews by itself while its loop
    runs. One that cannot renew stops being it by its own clock, before anybody else can become it; what it had sent
    by then may arrive later, so what must never count twice carries a fence (the term of a scheduler).
    """

    @property
    def held(self) -> bool:
        """Whether it is ours at this moment; asks nobody, and is right even after the process stood still."""
        ...

    async def acquire(self) -> None:
        """Wait until it is ours. Cancelling gives up; what the cancelled call may have got expires by itself."""
        ...

    async def lost(self) -> None:
        """Wait until it is not ours any more: released, taken, or not renewed in time. At once if it never was."""
        ...

    async def release(self) -> None:
        """Give it back, so that the next one need not wait for it to expire. A repeat is harmless."""
        ...


class Remembered(Struct, frozen=True):
    """An accepted command as the store keeps it."""

    position: int
    fingerprint: str


class CommandMemory(Protocol):
    """The store's answer to a late repeat."""

    async def remembered(self, command_id: UUID) -> Remembered | None:
        """The commit that this command left, if the store has it."""
        ...


class Clock(Protocol):
    """Time as the program sees it; tests inject their own."""

    def now_ms(self) -> int:
        """Unix time in milliseconds, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait on this clock."""
        ...


class Blobs(Protocol):
    """Values by their hash: immutable, written before the commit that refers to them."""

    async def put(self, data: bytes) -> str:
        """Store and return the SHA-256 in hex. Durable on return; a repeat is harmless."""
        ...

    async def get(self, sha256: str) -> bytes | None:
        """The bytes, or None. What does not hash to its name is never returned."""
        ...


class Recording(Struct, frozen=True, kw_only=True):
    """An entry on its way into the store, with what the recorder read out of its body."""

    entry: Entry
    leaf: bytes
    version: int = 0
    command: str = ""
    command_id: UUID | None = None
    fingerprint: str = ""
    actor: str = ""
    parked: str | None = None


class Checkpoint(Struct, frozen=True):
    """How far the store is: the last position, its commit's recorded time, and the Merkle frontier at that size."""

    position: int = 0
    recorded_ms: int = 0
    frontier: tuple[bytes, ...] = ()


class Stored(Struct, frozen=True):
    """A commit as the store gives it back."""

    entry: Entry
    recorded_ms: int
    parked: str | None = None


class CheckpointMoved(Exception):
    """Another recorder advanced the checkpoint: this one must stop."""


class Store(CommandMemory, Protocol):
    """The system of record: every commit of the log, for ever, in one order."""

    async def checkpoint(self) -> Checkpoint:
        """The newest recorded position, read from the database."""
        ...

    async def record(self, recordings: Sequence[Recording], *, old: Checkpoint, new: Checkpoint) -> None:
        """Write commits, stream versions, command outcomes, frontier and checkpoint in one transaction.

        All or nothing. Raises CheckpointMoved when the stored checkpoint is not `old`, Unavailable where the database
        takes nothing now (a full disk): the same call may be made again. A commit id that the store
        already holds is stored again under its own position, parked, and never answers `remembered`.
        """
        ...

    async def read(self, *, after: int, limit: int) -> list[Stored]:
        """Commits after a position, in order."""
        ...

    async def position_at(self, time_ms: int) -> int:
        """The last position recorded at or before a time; 0 if there is none."""
        ...

    async def recorded_ms(self, position: int) -> int | None:
        """When a position was recorded; None where the store has no such position."""
        ...

    async def stream(self, subject: str, *, after: int, limit: int) -> list[Stored]:
        """One subject's commits after a position, in order, the parked ones among them."""
        ...

    async def body_at(self, position: int) -> bytes | None:
        """The bytes of one commit as the log gave them; None where the store has no such position."""
        ...

    async def leaf(self, position: int) -> bytes | None:
        """The Merkle leaf that was recorded with a position; None where the store has no such position."""
        ...
