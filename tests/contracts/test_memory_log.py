from collections.abc import AsyncIterator

import pytest

from adapters.memory.log import MemoryLog
from tests.contracts.event_log import EventLogContract
from tests.contracts.log_upkeep import Both, LogUpkeepContract


class TestMemoryLog(EventLogContract):
    @pytest.fixture
    async def log(self) -> AsyncIterator[MemoryLog]:
        log = MemoryLog()
        yield log
        await log.close()

    @pytest.fixture
    async def full_log(self) -> MemoryLog:
        return MemoryLog(bytes_max=50_000)


class TestMemoryUpkeep(LogUpkeepContract):
    @pytest.fixture
    async def both(self) -> AsyncIterator[Both]:
        log = MemoryLog()
        yield log, log
        await log.close()
