"""Waiting for a position: how a caller learns that what it wrote is recorded, or visible."""

from __future__ import annotations

import asyncio
from heapq import heapify, heappop, heappush
from itertools import count

from core.kernel.errors import TooMany


class PositionGate:
    """A position that only grows, and those who wait for it. For one event loop."""

    def __init__(self, position: int = 0, *, waiters_max: int = 10_000) -> None:
        self._position = position
        self._waiters_max = waiters_max
        self._waiting = 0
        self._heap: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = count()

    @property
    def position(self) -> int:
        """The newest position that was reached."""
        return self._position

    @property
    def waiting(self) -> int:
        """How many callers wait now."""
        return self._waiting

    def advance(self, position: int) -> None:
        """Wake everybody who waits for this position or an earlier one. An older position changes nothing."""
        self._position = max(self._position, position)
        while self._heap and self._heap[0][0] <= self._position:
            future = heappop(self._heap)[2]
            if not future.done():
                future.set_result(None)

    async def wait_for(self, position: int, timeout_s: float) -> bool:
        """Whether the position is reached within the time. Raises TooMany over the bound of waiters."""
        if position <= self._position:
            return True
        if self._waiting >= self._waiters_max:
            raise TooMany(
                f"{self._waiting} callers already wait for a position.",
                remedy="Ask without waiting, or come back later.",
                retry_after_s=1,
            )
        future = asyncio.get_running_loop().create_future()
        heappush(self._heap, (position, next(self._order), future))
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            # The deadline and the position may come in the same turn of the loop: the position decides.
            return position <= self._position
        finally:
            self._waiting -= 1
            self._sweep()
        return True

    def _sweep(self) -> None:
        # Those who gave up stay in the heap until it is half dead, which keeps leaving cheap and the heap bounded.
        if len(self._heap) > 2 * self._waiting + 64:
            self._heap = [waiter for waiter in self._heap if not waiter[2].done()]
            heapify(self._heap)
