from collections.abc import AsyncIterator

import pytest

from adapters.memory.log import MemoryLog
from tests.contracts.event_log import EventLogContract


class TestMemoryLog(EventLogContract):
    @pytest.fixture
    async def log(self) -> AsyncIterator[MemoryLog]:
        log = MemoryLog()
        yield log
        await log.close()

    @pytest.fixture
    async def full_log(self) -> MemoryLog:
        return MemoryLog(bytes_max=50_000)
