from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from adapters.jetstream import connection
from adapters.jetstream.connection import connect, ensure_stream
from adapters.jetstream.log import JetStreamLog
from adapters.jetstream.server import EmbeddedServer, Profile
from adapters.jetstream.upkeep import JetStreamUpkeep
from tests.adapters.lossy_wire import AckLosingClient
from tests.contracts.event_log import EventLogContract
from tests.contracts.log_upkeep import Both, LogUpkeepContract


@asynccontextmanager
async def fresh_log(
    data_dir: Path, *, bytes_max: int = -1, profile: Profile = "fast", deadline_s: float = 5.0
) -> AsyncIterator[JetStreamLog]:
    """A log on a broker of its own; one starts in about 50 ms."""
    broker = EmbeddedServer(data_dir, profile=profile)
    await broker.start()
    client = await connect(broker.url, user=broker.user, password=broker.password, name="contract")
    await ensure_stream(client, bytes_max=bytes_max)
    log = await JetStreamLog.open(client, grouped=profile == "durable", append_deadline_s=deadline_s)
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


class TestJetStreamLogThatGroups(EventLogContract):
    """On a broker that syncs every append, what waits goes out as atomic batches."""

    @pytest.fixture
    async def log(self, tmp_path: Path) -> AsyncIterator[JetStreamLog]:
        async with fresh_log(tmp_path, profile="durable") as log:
            yield log

    @pytest.fixture
    async def full_log(self, tmp_path: Path) -> AsyncIterator[JetStreamLog]:
        async with fresh_log(tmp_path, bytes_max=50_000, profile="durable") as log:
            yield log


class TestJetStreamLogThatGroupsAndLosesAnswers(EventLogContract):
    """As above, and answers to batches are lost on the way: each commit's outcome is found all the same."""

    @pytest.fixture(autouse=True)
    def lossy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection, "WireClient", AckLosingClient)

    @pytest.fixture
    async def log(self, tmp_path: Path) -> AsyncIterator[JetStreamLog]:
        async with fresh_log(tmp_path, profile="durable", deadline_s=8.0) as log:
            yield log

    @pytest.fixture
    async def full_log(self, tmp_path: Path) -> AsyncIterator[JetStreamLog]:
        async with fresh_log(tmp_path, bytes_max=50_000, profile="durable", deadline_s=8.0) as log:
            yield log


class TestJetStreamUpkeep(LogUpkeepContract):
    @pytest.fixture
    async def both(self, tmp_path: Path) -> AsyncIterator[Both]:
        async with fresh_log(tmp_path) as log:
            upkeep = await JetStreamUpkeep.open(log._client, None)
            yield log, upkeep
            upkeep.close()
