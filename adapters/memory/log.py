"""The event log in memory: the same promises, gone with the process. For tests and simulations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from core.kernel.commit import COMMIT_MAX_BYTES, Entry
from core.kernel.errors import LogFull, TooLarge
from core.kernel.ports import Conflict

BATCH_MAX = 1000
LOG_BYTES_MAX = 1024 * 1024 * 1024


class MemoryLog:
    """EventLog in a list. It takes bodies of 1 GiB together, then it is full."""

    def __init__(self, *, bytes_max: int = LOG_BYTES_MAX) -> None:
        self._bytes_left = bytes_max
        self._entries: list[Entry] = []
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
        self._bytes_left -= len(body)
        entry = Entry(len(self._entries) + 1, subject, commit_id, body)
        self._entries.append(entry)
        self._by_subject.setdefault(subject, mine).append(entry)
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

    def follow(self, *, after: int) -> _Follower:
        """See EventLog."""
        follower = _Follower(self._entries, after, self._followers.discard)
        self._followers.add(follower)
        return follower

    async def healthy(self) -> bool:
        """See EventLog."""
        return True

    async def close(self) -> None:
        """End all followers."""
        for follower in list(self._followers):
            await follower.aclose()


class _Follower:
    """A cursor into the list; it holds nothing itself. For one consumer."""

    def __init__(self, entries: Sequence[Entry], after: int, on_close: Callable[[_Follower], None]) -> None:
        self._entries = entries
        self._seen = after
        self._on_close = on_close
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    def __aiter__(self) -> _Follower:
        return self

    async def __anext__(self) -> Sequence[Entry]:
        while not self._closed:
            batch = self._entries[self._seen : self._seen + BATCH_MAX]
            if batch:
                self._seen += len(batch)
                return batch
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the iteration, also for a task that waits in it. A repeat is harmless."""
        self._closed = True
        self._on_close(self)
        self.wake()

    def wake(self) -> None:
        """Let the consumer look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
