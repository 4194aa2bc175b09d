from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from adapters.memory.lease import MemoryLeases
from tests.contracts.lease import LASTING_TTL_S, TTL_S, Candidates, LeaseContract


class MemoryCandidates:
    def __init__(self, ttl_s: float) -> None:
        leases = MemoryLeases(ttl_s=ttl_s)
        self.first, self.second = leases.lease("one"), leases.lease("one")
        self.stranger = leases.lease("other")

    async def cut(self) -> None:
        self.first.reachable = False

    async def mend(self) -> None:
        self.first.reachable = True


@asynccontextmanager
async def given(ttl_s: float) -> AsyncIterator[Candidates]:
    candidates = MemoryCandidates(ttl_s)
    yield candidates
    for lease in (candidates.first, candidates.second, candidates.stranger):
        await lease.release()


class TestMemoryLease(LeaseContract):
    @pytest.fixture
    async def candidates(self) -> AsyncIterator[Candidates]:
        async with given(TTL_S) as candidates:
            yield candidates

    @pytest.fixture
    async def lasting(self) -> AsyncIterator[Candidates]:
        async with given(LASTING_TTL_S) as candidates:
            yield candidates
