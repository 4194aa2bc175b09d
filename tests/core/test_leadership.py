from __future__ import annotations

import asyncio

import pytest

from adapters.memory.lease import MemoryLeases
from core.services.leadership import Kept, hold
from tests.given import running, until


class Work:
    """Work that counts how often it began and ended."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = self.ended = 0
        self.error = error
        self.done = asyncio.Event()

    async def __call__(self) -> None:
        self.begun += 1
        try:
            await self.done.wait()
            if self.error is not None:
                raise self.error
        finally:
            self.ended += 1


async def test_the_work_is_done_while_the_lease_is_held_and_cancelled_when_it_is_lost() -> None:
    leases, work = MemoryLeases(ttl_s=0.2), Work()
    lease, rival = leases.lease("x"), leases.lease("x")
    holding = asyncio.create_task(hold(lease, work))
    await until(lambda: work.begun == 1, "the work")
    lease.reachable = False
    await rival.acquire()
    assert work.ended == 1, "nobody works beside the next holder"
    await holding
    await rival.release()


async def test_done_work_gives_the_lease_back_and_its_error_is_raised() -> None:
    leases = MemoryLeases(ttl_s=30)
    for error in (None, ValueError("broken")):
        work = Work(error)
        work.done.set()
        if error is None:
            await hold(leases.lease("x"), work)
        else:
            with pytest.raises(ValueError, match="broken"):
                await hold(leases.lease("x"), work)
        assert leases.holders == {}


async def test_a_cancellation_ends_the_work_and_gives_the_lease_back() -> None:
    leases, work = MemoryLeases(ttl_s=30), Work()
    async with running(hold(leases.lease("x"), work)):
        await until(lambda: work.begun == 1, "the work")
    assert (work.ended, leases.holders) == (1, {})


class SlowToGiveBack(Kept):
    """A lease whose holder has to ask for a while before it is given back."""

    def __init__(self) -> None:
        self.asked, self.answered, self.given_back = asyncio.Event(), asyncio.Event(), False

    async def release(self) -> None:
        self.asked.set()
        await self.answered.wait()
        self.given_back = True


async def test_a_cancellation_does_not_cut_short_the_giving_back() -> None:
    lease, work = SlowToGiveBack(), Work()
    work.done.set()
    holding = asyncio.create_task(hold(lease, work))
    await lease.asked.wait()
    holding.cancel()
    await asyncio.sleep(0)
    lease.answered.set()
    await asyncio.wait({holding})
    assert (lease.given_back, holding.cancelled()) == (True, True)


async def test_who_does_not_get_the_lease_in_time_says_so() -> None:
    leases, work = MemoryLeases(ttl_s=30), Work()
    await leases.lease("x").acquire()
    with pytest.raises(TimeoutError):
        await hold(leases.lease("x"), work, within_s=0.01)
    assert work.begun == 0


async def test_what_is_kept_is_held_at_once_and_never_lost() -> None:
    work = Work()
    async with running(hold(Kept(), work)):
        await until(lambda: work.begun == 1, "the work")
    assert Kept().held
