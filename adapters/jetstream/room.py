"""Permits for what may be unanswered at a time."""

from __future__ import annotations

import asyncio
from collections import deque


class Room:
    """Permits by count and by bytes. A body larger than all the bytes still passes when it is alone."""

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self._count = count_max
        self._bytes = bytes_max
        self._bytes_max = bytes_max
        self._queue: deque[tuple[asyncio.Future[None], int]] = deque()

    def take(self, size: int) -> bool:
        """A permit at once, unless there is none or others wait."""
        if self._queue or self._count <= 0 or (size > self._bytes and self._bytes != self._bytes_max):
            return False
        self._count -= 1
        self._bytes -= size
        return True

    async def wait(self, size: int) -> None:
        """A permit in turn."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((future, size))
        try:
            await future
        except asyncio.CancelledError:
            # Granted and cancelled in the same round of the loop: the permit goes to the next one.
            if future.done() and not future.cancelled():
                self.give(size)
            raise

    def give(self, size: int) -> None:
        """Return a permit and grant what fits now."""
        self._count += 1
        self._bytes += size
        while self._queue:
            future, wanted = self._queue[0]
            if not future.done():
                if not self._fits(wanted):
                    return
                self._count -= 1
                self._bytes -= wanted
                future.set_result(None)
            self._queue.popleft()

    def _fits(self, size: int) -> bool:
        return self._count > 0 and (size <= self._bytes or self._bytes == self._bytes_max)
