"""The ports. A docstring here is a promise, and each promise is a test that every adapter runs (tests/contracts)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
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

    def follow(self, *, after: int, trimmed_to: int = 0) -> AsyncIterator[Sequence[Entry]]:
        """All entries after a position, for ever, in non-empty batches of at most 1,000, dense and without repeats.

        The consumer sets the pace: at most two batches are held for it. The iterator outlives disconnects. It ends
        only by `aclose()` or with Unavailable, raised when the log no longer holds the next position; positions up to
        `trimmed_to` may be missing.
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


class LogUpkeep(Protocol):
    """What only the care of the log does: it sees the log while appends are held back, and changes what is in it."""

    async def head(self) -> int:
        """The last position, 0 for an empty log; a stream that is gone is made anew, and empty."""
        ...

    async def entry(self, position: int) -> Entry | None:
        """The entry at a position; None where the log holds none."""
        ...

    async def restore(self, entries: Sequence[Entry]) -> None:
        """Append entries at the positions that they have, byte for byte; each position is verified.

        The first one must be next after the log's head. Raises Unavailable where a position is taken or no answer
        came: some of them, the first ones, may then be stored.
        """
        ...

    async def subjects(self, *, offset: int) -> dict[str, int]:
        """A page of the subjects that the log holds, in order, without the first `offset`, each with the number of its
        entries; empty at the end."""
        ...

    async def purge(self, subject: str, *, through: int) -> int:
        """Drop the subject's entries up to a position; how many there were. The head stays what it is."""
        ...

    async def size(self) -> int:
        """Bytes of the entries that the log holds."""
        ...


class LogGate(Protocol):
    """Holds appends, reads and followers of this process back while nobody has looked at the log."""

    async def next_connection(self, after: int) -> int:
        """Wait for a connection newer than the one with this number (0: any); its number. It is shut until `open`."""
        ...

    def open(self, connection: int) -> None:
        """Let everybody through, unless that connection was lost in the meantime."""
        ...


class Remembered(Struct, frozen=True):
    """An accepted command as the store keeps it."""

    position: int
    fingerprint: str


class Stored(Struct, frozen=True):
    """A commit as the store gives it back."""

    entry: Entry
    recorded_ms: int
    parked: str | None = None


class CommandMemory(Protocol):
    """What the store still knows when the log does not: late repeats, and aggregates that were trimmed."""

    async def remembered(self, command_id: UUID) -> Remembered | None:
        """The commit that this command left, if the store has it."""
        ...

    async def stream(self, subject: str, *, after: int, limit: int) -> list[Stored]:
        """One subject's commits after a position, in order, the parked ones among them."""
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


class CheckpointMoved(Exception):
    """Another recorder advanced the checkpoint: this one must stop."""


class Store(CommandMemory, Protocol):
    """The system of record: every commit of the log, for ever, in one order."""

    async def checkpoint(self) -> Checkpoint:
        """The newest recorded position, read from the database."""
        ...

    async def record(self, recordings: Sequence[Recording], *, old: Checkpoint, new: Checkpoint) -> Collection[int]:
        """Write commits, stream versions, command outcomes, frontier and checkpoint in one transaction.

        All or nothing; the positions that were parked as repeats. Raises CheckpointMoved when the stored checkpoint is
        not `old`, Unavailable where the database takes nothing now (a full disk): the same call may be made again. A
        commit id that the store already holds is stored again under its own position, parked, and never answers
        `remembered`.
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

    async def body_at(self, position: int) -> bytes | None:
        """The bytes of one commit as the log gave them; None where the store has no such position."""
        ...

    async def leaf(self, position: int) -> bytes | None:
        """The Merkle leaf that was recorded with a position; None where the store has no such position."""
        ...


class SignedHead(Struct, frozen=True):
    """The root of the Merkle tree over the first `size` commits, signed; `key_id` names the key that signed."""

    size: int
    root: bytes
    signed_ms: int
    signature: bytes
    key_id: str


class Signer(Protocol):
    """Signs the heads of the log."""

    @property
    def key_id(self) -> str:
        """Names the key: the first 8 bytes of the SHA-256 of its public half, in hex."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes (Ed25519, RFC 8032)."""
        ...


class Trim(Struct, frozen=True, kw_only=True):
    """A trim of the log as the store remembers it: from then on, positions up to `trimmed_to` may be missing."""

    trimmed_to: int
    at_ms: int
    actor: str


class LastCommit(Struct, frozen=True):
    """The newest commit of a subject; `body` is None where the recorder parked it."""

    subject: str
    position: int
    body: bytes | None


class CareStore(Protocol):
    """What the care of the log keeps beside the commits: signed heads and trims."""

    async def newest_head(self) -> SignedHead | None:
        """The head with the largest size."""
        ...

    async def add_head(self, head: SignedHead) -> None:
        """Keep a head. The first one of a size stays."""
        ...

    async def trimmed_to(self) -> int:
        """The largest position that a trim ever reached; 0 where none was."""
        ...

    async def add_trim(self, trim: Trim) -> None:
        """Remember a trim, durable on return: before the log loses anything."""
        ...

    async def last_commits(self, subjects: Sequence[str]) -> list[LastCommit]:
        """The newest commit of each of at most 1,000 subjects, as far as they are recorded, in no order."""
        ...
