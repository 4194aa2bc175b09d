import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from adapters.jetstream import connection
from adapters.jetstream.connection import connect, ensure_stream
from adapters.jetstream.follower import OWN_HELD_MAX, OWN_RUN
from adapters.jetstream.log import JetStreamLog
from adapters.jetstream.server import EmbeddedServer, Profile
from adapters.jetstream.upkeep import JetStreamUpkeep
from tests.adapters.lossy_wire import AckLosingClient
from tests.contracts.event_log import DEADLINE_S, EventLogContract, new_id, taken
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


@pytest.mark.parametrize("profile", ["fast", "durable"])
class TestOwnAppends:
    """What a process appends itself reaches its followers without the broker's help, and what others append too."""

    @pytest.fixture
    async def log(self, tmp_path: Path, profile: Profile) -> AsyncIterator[JetStreamLog]:
        async with fresh_log(tmp_path, profile=profile) as log:
            yield log

    @pytest.fixture
    async def other(self, log: JetStreamLog) -> AsyncIterator[JetStreamLog]:
        """A second process on the same broker."""
        server = log._client.connected_url
        assert server is not None
        client = await connect(
            f"nats://{server.hostname}:{server.port}",
            user=str(log._client.options["user"]),
            password=str(log._client.options["password"]),
            name="other",
        )
        other = await JetStreamLog.open(client)
        yield other
        await other.close()
        await client.close()

    async def appended(self, log: JetStreamLog, name: str, count: int, *, together: int = 50) -> None:
        """So many appends to new subjects, some at a time."""
        for start in range(0, count, together):
            numbers = range(start, min(start + together, count))
            await asyncio.gather(*(log.append(f"hive.log.task.{name}{n}", new_id(), b"x", expected=0) for n in numbers))

    async def test_the_broker_delivers_no_more_while_only_this_process_appends(self, log: JetStreamLog) -> None:
        follower, count, last = log.follow(after=0), 8 * OWN_RUN, 0
        async with asyncio.timeout(DEADLINE_S):
            # A pause, of this machine or of its disk, has the broker asked again: then once more.
            while not last or await self.delivered(log) >= last:
                following = asyncio.ensure_future(taken(follower, count))
                await self.appended(log, f"own{last}-", count)
                assert [entry.position for entry in await following] == list(range(last + 1, last + count + 1))
                last += count

    async def delivered(self, log: JetStreamLog) -> int:
        """The last position that the broker sent to the one consumer there is."""
        names = json.loads((await log._client.request("$JS.API.CONSUMER.NAMES.HIVE", b"")).data)["consumers"]
        told = json.loads((await log._client.request(f"$JS.API.CONSUMER.INFO.HIVE.{names[0]}", b"")).data)
        return int(told["delivered"]["stream_seq"])

    async def test_what_another_process_appends_comes_in_its_place(
        self, log: JetStreamLog, other: JetStreamLog
    ) -> None:
        count = 4 * OWN_RUN
        following = asyncio.ensure_future(taken(log.follow(after=0), 3 * count))
        await self.appended(log, "own", count)
        await asyncio.gather(self.appended(log, "mine", count), self.appended(other, "theirs", count, together=3))

        entries = await following
        assert [entry.position for entry in entries] == list(range(1, 3 * count + 1))
        for entry in entries[count :: OWN_RUN // 8]:
            assert await log.entry(entry.position) == entry

    async def test_what_another_process_appends_comes_though_this_one_has_fallen_silent(
        self, log: JetStreamLog, other: JetStreamLog
    ) -> None:
        count = 8 * OWN_RUN  # more than the broker was asked for before
        follower = log.follow(after=0)
        following = asyncio.ensure_future(taken(follower, count))
        await self.appended(log, "own", count)
        await following

        await self.appended(other, "theirs", 1)
        assert [entry.subject for entry in await taken(follower, 1)] == ["hive.log.task.theirs0"]

    async def test_who_is_slow_is_handed_over_everything_in_order(self, log: JetStreamLog) -> None:
        count = OWN_HELD_MAX + 2 * OWN_RUN
        follower = log.follow(after=0)
        await self.appended(log, "one", 1)
        assert len(await anext(follower)) == 1
        await self.appended(log, "own", count, together=500)

        assert [entry.position for entry in await taken(follower, count)] == list(range(2, count + 2))


class TestJetStreamUpkeep(LogUpkeepContract):
    @pytest.fixture
    async def both(self, tmp_path: Path) -> AsyncIterator[Both]:
        async with fresh_log(tmp_path) as log:
            upkeep = await JetStreamUpkeep.open(log._client, None)
            yield log, upkeep
            upkeep.close()
