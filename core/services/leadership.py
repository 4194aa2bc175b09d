"""Work that one process of a fleet does: whoever holds the lease, while it holds it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from core.kernel.ports import Lease


async def hold(lease: Lease, work: Callable[[], Coroutine[Any, Any, None]], *, within_s: float | None = None) -> None:
    """Wait for the lease and work until it is lost or the work is done; it is given back however this ends.

    The work is cancelled before anybody else can begin. What it raises is raised; TimeoutError where the lease was
    not had `within_s`.
    """
    try:
        async with asyncio.timeout(within_s):
            await lease.acquire()
        await _until_lost(lease, work)
    finally:
        await _give_back(lease)


async def _give_back(lease: Lease) -> None:
    """Release it, cancelled or not: a stop that cuts this short leaves nobody at work until the lease runs out."""
    releasing = asyncio.create_task(lease.release())
    try:
        await asyncio.shield(releasing)
    except asyncio.CancelledError:
        await asyncio.wait({releasing})
        raise


async def _until_lost(lease: Lease, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    working = asyncio.create_task(work())
    lost = asyncio.create_task(lease.lost())
    try:
        await asyncio.wait({working, lost}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, lost):
            task.cancel()
        await asyncio.wait({working, lost})
    if not working.cancelled():
        working.result()


class Kept:
    """The lease of whoever holds a lock that cannot be lost: its process is the only one for as long as it lives."""

    held = True

    async def acquire(self) -> None:
        """At once."""

    async def lost(self) -> None:
        """Never."""
        await asyncio.get_running_loop().create_future()

    async def release(self) -> None:
        """Nothing: the kernel gives the lock back."""
