"""The event log in memory: the same promises, gone with the process. For tests and simulations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from core.kernel.commit import COMMIT_MAX_BYTES, Entry
from core.kernel.errors import LogFull, TooLarge, Unavailable
from core.kernel.ports import Conflict

BATCH_MAX = 1000
LOG_BYTES_MAX = 1024 * 1024 * 1024


class MemoryLog:
    """EventLog and LogUpkeep in a list. It takes bodies of 1 GiB together, then it is full."""

    def __init__(self, *, bytes_max: int = LOG_BYTES_MAX) -> None:
        self._bytes_left = bytes_max
        self._entries: list[Entry | None] = []
        self._by_subject: dict[str, list[Entry]] = {}
        self._followers: set[_Follower] = set()

    async def append(self, subject: str, commit_id: str, body: bytes, *, expected: int) -> int:
        """See EventLog. Also raises TooLarge. Nothing here waits, so an append cannot be cancelled half-way."""
        if len(body) > COMMIT_MAX_BYTES:
            raise TooLarge(
                f"A commit of {len(body)} bytes; the log takes {COMMIT_MAX_BYTES}.",
                remedy="Store large values as blobs and refer to them by hash.",
            )
        mine = self._by_subject.get(subject, [])
        if (mine[-1].position if mine else 0) != expected:
            raise Conflict([entry for entry in mine if entry.position > expected])
        if len(body) > self._bytes_left:
            raise LogFull("The log is full: it is held in memory.", remedy="Start with a log on disk.")
        return self._add(Entry(len(self._entries) + 1, subject, commit_id, body))

    def _add(self, entry: Entry) -> int:
        self._bytes_left -= len(entry.body)
        self._entries.append(entry)
        self._by_subject.setdefault(entry.subject, []).append(entry)
        for follower in self._followers:
            follower.wake()
        return entry.position

    async def read(self, subject: str, *, after: int = 0) -> list[Entry]:
        """See EventLog."""
        return [entry for entry in self._by_subject.get(subject, ()) if entry.position > after]

    async def entry(self, position: int) -> Entry | None:
        """See EventLog."""
        return self._entries[position - 1] if 1 <= position <= len(self._entries) else None

    async def head(self) -> int:
        """See EventLog."""
        return len(self._entries)

    def follow(self, *, after: int, trimmed_to: int = 0) -> _Follower:
        """See EventLog."""
        follower = _Follower(self._entries, after, trimmed_to, self._followers.discard)
        self._followers.add(follower)
        return follower

    async def healthy(self) -> bool:
        """See EventLog."""
        return True

    # --- LogUpkeep ---

    async def restore(self, entries: Sequence[Entry]) -> None:
        """See LogUpkeep."""
        for entry in entries:
            if entry.position != len(self._entries) + 1:
                raise Unavailable(
                    f"Position {entry.position} is not next after {len(self._entries)}.", code="log_restore_refused"
                )
            self._add(entry)

    async def subjects(self, *, offset: int) -> dict[str, int]:
        """See LogUpkeep."""
        names = sorted(self._by_subject)[offset : offset + BATCH_MAX]
        return {name: len(self._by_subject[name]) for name in names}

    async def purge(self, subject: str, *, through: int) -> int:
        """See LogUpkeep."""
        mine = self._by_subject.pop(subject, [])
        kept = [entry for entry in mine if entry.position > through]
        for entry in mine[: len(mine) - len(kept)]:
            self._entries[entry.position - 1] = None
            self._bytes_left += len(entry.body)
        if kept:
            self._by_subject[subject] = kept
        return len(mine) - len(kept)

    async def size(self) -> int:
        """See LogUpkeep."""
        return sum(len(entry.body) for mine in self._by_subject.values() for entry in mine)

    async def close(self) -> None:
        """End all followers."""
        for follower in list(self._followers):
            await follower.aclose()


class _Follower:
    """A cursor into the list; it holds nothing itself. For one consumer."""

    def __init__(
        self,
        entries: Sequence[Entry | None],
        after: int,
        trimmed_to: int,
        on_close: Callable[[_Follower], None],
    ) -> None:
        self._entries = entries
        self._seen = after
        self._trimmed_to = trimmed_to
        self._on_close = on_close
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    def __aiter__(self) -> _Follower:
        return self

    async def __anext__(self) -> Sequence[Entry]:
        while not self._closed:
            batch = self._take()
            if batch:
                return batch
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        raise StopAsyncIteration

    def _take(self) -> list[Entry]:
        batch: list[Entry] = []
        while len(batch) < BATCH_MAX and self._seen < len(self._entries):
            entry = self._entries[self._seen]
            if entry is not None:
                batch.append(entry)
            elif self._seen >= self._trimmed_to:
                if batch:
                    break
                raise Unavailable(f"The log no longer holds position {self._seen + 1}.", code="log_hole")
            self._seen += 1
        return batch

    async def aclose(self) -> None:
        """End the iteration, also for a task that waits in it. A repeat is harmless."""
        self._closed = True
        self._on_close(self)
        self.wake()

    def wake(self) -> None:
        """Let the consumer look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
