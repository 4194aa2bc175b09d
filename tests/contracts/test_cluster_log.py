"""The log with three copies in a real cluster: the same promises, also while servers are killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import pytest
from nats.js.errors import NotFoundError

from adapters.jetstream.api import STREAM
from adapters.jetstream.connection import connect_to, ensure_stream
from adapters.jetstream.log import JetStreamLog
from adapters.jetstream.upkeep import JetStreamUpkeep
from core.kernel.commit import Entry
from core.kernel.errors import OutcomeUnknown, Unavailable
from core.kernel.ports import Conflict
from tests.cluster import Cluster
from tests.contracts.event_log import TASK, EventLogContract, new_id, taken
from tests.contracts.log_upkeep import Both, LogUpkeepContract

pytestmark = pytest.mark.peers

OUTAGE_S_MAX = 40.0
LIFE_S_MAX = 150


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@asynccontextmanager
async def fresh_log(cluster: Cluster, *, bytes_max: int = -1) -> AsyncIterator[JetStreamLog]:
    """An empty log with three copies."""
    client = await connect_to(cluster.access, name="contract")
    with suppress(NotFoundError):
        await client.jetstream().delete_stream(STREAM)
    replicas = await ensure_stream(client, replicas=0, bytes_max=bytes_max)
    assert replicas == 3
    log = await JetStreamLog.open(client, replicas=replicas)
    try:
        yield log
    finally:
        await log.close()
        await client.close()


class TestClusterLog(EventLogContract):
    @pytest.fixture
    async def log(self, cluster: Cluster) -> AsyncIterator[JetStreamLog]:
        async with fresh_log(cluster) as log:
            yield log

    @pytest.fixture
    async def full_log(self, cluster: Cluster) -> AsyncIterator[JetStreamLog]:
        async with fresh_log(cluster, bytes_max=50_000) as log:
            yield log


class TestClusterUpkeep(LogUpkeepContract):
    @pytest.fixture
    async def both(self, cluster: Cluster) -> AsyncIterator[Both]:
        async with fresh_log(cluster) as log:
            upkeep = await JetStreamUpkeep.open(log._client, None, replicas=3)
            yield log, upkeep
            upkeep.close()


@pytest.fixture
async def log(cluster: Cluster) -> AsyncIterator[JetStreamLog]:
    async with fresh_log(cluster) as log:
        yield log


@pytest.fixture(autouse=True)
def whole(cluster: Cluster) -> Iterator[None]:
    """Whatever a test killed runs again for the next one."""
    yield
    for node in cluster.nodes:
        if not node.running:
            node.start()
    cluster.wait_whole()


async def persist(log: JetStreamLog, subject: str, expected: int) -> int:
    """Append under one id until it is certain, as a client with an Idempotency-Key does."""
    commit_id, body = new_id(), subject.encode()
    async with asyncio.timeout(OUTAGE_S_MAX):
        while True:
            try:
                return await log.append(subject, commit_id, body, expected=expected)
            except Conflict as conflict:
                (own,) = conflict.newer
                if own.commit_id != str(commit_id):
                    raise
                return own.position
            except (Unavailable, OutcomeUnknown):
                await asyncio.sleep(0.05)


@pytest.mark.timeout(LIFE_S_MAX)
@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_every_append_is_stored_once_and_followed_once_while_the_leader_goes(
    how: str, cluster: Cluster, log: JetStreamLog
) -> None:
    """Given load, when the leader goes twice, then each append stands once and a follower sees each once, in order."""
    stop = asyncio.Event()
    positions: list[int] = []

    async def writer(number: int) -> None:
        subject, last = f"hive.log.task.w{number}", 0
        while not stop.is_set():
            last = await persist(log, subject, last)
            positions.append(last)

    seen: list[Entry] = []

    async def follow() -> None:
        async for batch in log.follow(after=0):
            seen.extend(batch)

    following = asyncio.ensure_future(follow())
    writers = [asyncio.ensure_future(writer(number)) for number in range(16)]
    for _ in range(2):
        await reached(positions, len(positions) + 200)
        leader = await asyncio.to_thread(cluster.stream_leader)
        await asyncio.to_thread(getattr(leader, how))
        await reached(positions, len(positions) + 200)
        await asyncio.to_thread(leader.start)
        await asyncio.to_thread(cluster.wait_whole)
    stop.set()
    await asyncio.gather(*writers)
    head = await log.head()

    async def all_seen() -> bool:
        return following.done() or bool(seen and seen[-1].position >= head)

    await eventually(all_seen)
    following.cancel()
    assert sorted(positions) == list(range(1, head + 1)), "an append is missing, or stands twice"
    assert [entry.position for entry in seen] == list(range(1, head + 1))
    for number in range(16):
        own = [entry for entry in seen if entry.subject == f"hive.log.task.w{number}"]
        assert await log.read(f"hive.log.task.w{number}") == own


async def reached(positions: list[int], count: int) -> None:
    async def enough() -> bool:
        return len(positions) >= count

    await eventually(enough)


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(OUTAGE_S_MAX):
        while not await holds():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.02)


@pytest.mark.timeout(LIFE_S_MAX)
async def test_a_follower_survives_the_restart_of_each_server_in_turn(cluster: Cluster, log: JetStreamLog) -> None:
    following = log.follow(after=0)
    position = 0
    for node in cluster.nodes:
        await asyncio.to_thread(node.stop)
        position = await persist(log, TASK, position)
        assert [entry.position for entry in await patiently(following)] == [position]
        await asyncio.to_thread(node.start)
        await asyncio.to_thread(cluster.wait_whole)
        position = await persist(log, TASK, position)
        assert [entry.position for entry in await patiently(following)] == [position]


async def patiently(following: AsyncIterator[object]) -> list[Entry]:
    async with asyncio.timeout(OUTAGE_S_MAX):
        return list(await anext(following))  # type: ignore[call-overload]


async def test_a_read_is_current_however_far_the_copies_are(log: JetStreamLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given copies that have nothing of the last two entries, when a subject is read, then the leader gives them."""
    first = await log.append(TASK, new_id(), b"1", expected=0)
    second = await log.append(TASK, new_id(), b"2", expected=first)
    reader = log._reader
    direct = reader._read_direct

    async def lagging(subject: str, after: int) -> list[Entry]:
        return [entry for entry in await direct(subject, after) if entry.position <= first]

    monkeypatch.setattr(reader, "_read_direct", lagging)
    third = await log.append(TASK, new_id(), b"3", expected=second)
    assert [entry.body for entry in await log.read(TASK)] == [b"1", b"2", b"3"]
    assert [entry.body for entry in await log.read(TASK, after=first)] == [b"2", b"3"]
    with pytest.raises(Conflict) as caught:
        await log.append(TASK, new_id(), b"late", expected=first)
    assert [entry.position for entry in caught.value.newer] == [second, third]


@pytest.mark.timeout(LIFE_S_MAX)
async def test_a_log_without_a_leader_is_not_healthy_and_comes_back(cluster: Cluster, log: JetStreamLog) -> None:
    await log.append(TASK, new_id(), b"x", expected=0)
    following = log.follow(after=0)  # its heartbeats are heard all the while
    assert len(await taken(following, 1)) == 1
    watching = asyncio.ensure_future(log.watch())
    leader = await asyncio.to_thread(cluster.stream_leader)
    other = next(node for node in cluster.nodes if node is not leader)
    await asyncio.to_thread(leader.kill)
    await asyncio.to_thread(other.kill)

    async def unhealthy() -> bool:
        return not await log.healthy()

    await eventually(unhealthy)
    await asyncio.to_thread(leader.start)
    await asyncio.to_thread(other.start)
    await eventually(log.healthy)
    watching.cancel()
