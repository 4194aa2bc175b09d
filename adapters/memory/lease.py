"""Leases among the tasks of one process."""

from __future__ import annotations

import asyncio
import time

POLL_S = 0.05


class MemoryLeases:
    """All leases of one process. `ttl_s` is how long one outlives a holder that cannot renew it."""

    def __init__(self, *, ttl_s: float = 12.0) -> None:
        self.ttl_s = ttl_s
        self.holders: dict[str, tuple[MemoryLease, float]] = {}

    def lease(self, name: str) -> MemoryLease:
        """A candidate for the lease of that name."""
        return MemoryLease(self, name)


class MemoryLease:
    """Lease (see core.kernel.ports). `reachable` False is a holder that is cut off from the others."""

    def __init__(self, leases: MemoryLeases, name: str) -> None:
        self._leases = leases
        self._name = name
        self._until = float("-inf")
        self._ended = asyncio.Event()
        self._ended.set()
        self._renewing: asyncio.Task[None] | None = None
        self.reachable = True

    @property
    def held(self) -> bool:
        """See Lease."""
        return time.monotonic() < self._until

    async def acquire(self) -> None:
        """See Lease."""
        await self.release()
        while True:
            if self.reachable and self._take():
                break
            await asyncio.sleep(POLL_S)
        self._ended.clear()
        self._renewing = asyncio.create_task(self._renew())

    async def lost(self) -> None:
        """See Lease."""
        await self._ended.wait()

    async def release(self) -> None:
        """See Lease."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait({self._renewing})
        if self.reachable and self._owner() is self:
            del self._leases.holders[self._name]
        self._end()

    def _owner(self) -> MemoryLease | None:
        owner, until = self._leases.holders.get(self._name, (None, 0.0))
        return owner if time.monotonic() < until else None

    def _take(self) -> bool:
        if self._owner() not in (None, self):
            return False
        now = time.monotonic()
        self._leases.holders[self._name] = (self, now + self._leases.ttl_s)
        self._until = now + self._leases.ttl_s * 5 / 6
        return True

    async def _renew(self) -> None:
        while self.held:
            await asyncio.sleep(self._leases.ttl_s / 12)
            if self.reachable and not self._take():
                break
        self._end()

    def _end(self) -> None:
        self._until = float("-inf")
        self._renewing = None
        self._ended.set()
