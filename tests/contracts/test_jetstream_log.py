from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from adapters.jetstream.connection import connect, ensure_stream
from adapters.jetstream.log import JetStreamLog
from adapters.jetstream.server import EmbeddedServer
from tests.contracts.event_log import EventLogContract


@asynccontextmanager
async def fresh_log(data_dir: Path, *, bytes_max: int = -1) -> AsyncIterator[JetStreamLog]:
    """A log on a broker of its own; one starts in about 50 ms."""
    broker = EmbeddedServer(data_dir, profile="fast")
    await broker.start()
    client = await connect(broker.url, user=broker.user, password=broker.password, name="contract")
    await ensure_stream(client, bytes_max=bytes_max)
    log = await JetStreamLog.open(client)
    yield log
    await log.close()
    await client.close()
    await broker.stop()


class TestJetStreamLog(EventLogContract):
    @pytest.fixture
    async def log(self, tmp_path: Path) -> AsyncIterator[JetStreamLog]:
        async with fresh_log(tmp_path) as log:
            yield log

    @pytest.fixture
    async def full_log(self, tmp_path: Path) -> AsyncIterator[JetStreamLog]:
        async with fresh_log(tmp_path, bytes_max=50_000) as log:
            yield log
