"""Leases on a real server; in a cluster they survive the election of a leader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from adapters.jetstream.api import LEASE_STREAM
from adapters.jetstream.broker import Access
from adapters.jetstream.connection import connect, connect_to
from adapters.jetstream.lease import TTL_S as CLUSTER_TTL_S
from adapters.jetstream.lease import JetStreamLeases
from adapters.jetstream.server import EmbeddedServer
from tests.adapters.lossy_wire import Proxy
from tests.cluster import Cluster
from tests.contracts.lease import DEADLINE_S, LASTING_TTL_S, TTL_S, Candidates, LeaseContract


class WiredCandidates:
    """The first one speaks over a wire that can lose everything."""

    def __init__(self, wire: Proxy, own: JetStreamLeases, others: JetStreamLeases) -> None:
        self._wire = wire
        self.first, self.second = own.lease("one"), others.lease("one")
        self.stranger = others.lease("other")

    async def cut(self) -> None:
        self._wire.loses_requests = self._wire.loses_answers = True

    async def mend(self) -> None:
        self._wire.loses_requests = self._wire.loses_answers = False
        # What was swallowed left the protocol in pieces.
        self._wire.cut()


@asynccontextmanager
async def wired(access: Access, *, replicas: int = 1, ttl_s: int = TTL_S) -> AsyncIterator[WiredCandidates]:
    async with AsyncExitStack() as stack:
        wire = await stack.enter_async_context(Proxy(int(access.urls[0].rpartition(":")[2])))
        all_leases = []
        for url in (f"nats://127.0.0.1:{wire.port}", access.urls[0]):
            client = await connect(url, user=access.user, password=access.password, name="test")
            stack.push_async_callback(client.close)
            leases = await JetStreamLeases.open(client, replicas=replicas, ttl_s=ttl_s)
            stack.callback(leases.close)
            all_leases.append(leases)
        candidates = WiredCandidates(wire, *all_leases)
        yield candidates
        for lease in (candidates.first, candidates.second, candidates.stranger):
            await lease.release()


class TestJetStreamLease(LeaseContract):
    @pytest.fixture
    async def candidates(self, tmp_path: Path) -> AsyncIterator[Candidates]:
        broker = EmbeddedServer(tmp_path, profile="fast")
        await broker.start()
        async with wired(broker.access) as candidates:
            yield candidates
        await broker.stop()

    @pytest.fixture
    async def lasting(self, tmp_path: Path) -> AsyncIterator[Candidates]:
        broker = EmbeddedServer(tmp_path, profile="fast")
        await broker.start()
        async with wired(broker.access, ttl_s=LASTING_TTL_S) as candidates:
            yield candidates
        await broker.stop()

    async def test_a_holder_finds_what_was_stored_without_its_hearing_of_it(self, tmp_path: Path) -> None:
        """Given a renewal whose answer was lost, when the next one is sent, then the lease is still the holder's."""
        broker = EmbeddedServer(tmp_path, profile="fast")
        await broker.start()
        async with wired(broker.access, ttl_s=6) as candidates:
            await candidates.first.acquire()
            candidates._wire.loses_answers = True
            revision = candidates.first._revision
            probe = candidates.second
            probe._token = candidates.first._token
            async with asyncio.timeout(DEADLINE_S):
                while await probe._stored_revision() == revision:  # noqa: ASYNC110 - it happens in the server
                    await asyncio.sleep(0.02)
                await candidates.mend()
                while candidates.first._revision <= revision + 1 and candidates.first.held:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.02)
            assert candidates.first.held
            assert candidates.first._revision > revision + 1
        await broker.stop()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.mark.peers
class TestClusterLease(LeaseContract):
    @pytest.fixture
    async def candidates(self, cluster: Cluster) -> AsyncIterator[Candidates]:
        async with wired(cluster.access, replicas=3) as candidates:
            yield candidates

    @pytest.fixture
    async def lasting(self, cluster: Cluster) -> AsyncIterator[Candidates]:
        async with wired(cluster.access, replicas=3, ttl_s=LASTING_TTL_S) as candidates:
            yield candidates


@pytest.mark.peers
@pytest.mark.timeout(120)
async def test_the_election_of_a_leader_does_not_cost_the_lease(cluster: Cluster) -> None:
    client = await connect_to(cluster.access, name="test")
    leases = await JetStreamLeases.open(client, replicas=3)
    first, second = leases.lease("election"), leases.lease("election")
    await first.acquire()
    losing = asyncio.ensure_future(first.lost())
    waiting = asyncio.ensure_future(second.acquire())
    for _ in range(2):
        leader = await asyncio.to_thread(cluster.stream_leader, LEASE_STREAM)
        await asyncio.to_thread(leader.kill)
        await asyncio.to_thread(cluster.stream_leader, LEASE_STREAM)
        done, _ = await asyncio.wait({losing, waiting}, timeout=CLUSTER_TTL_S)
        assert not done
        assert first.held
        await asyncio.to_thread(leader.start)
        await asyncio.to_thread(cluster.wait_whole)
    await first.release()
    async with asyncio.timeout(CLUSTER_TTL_S):
        await waiting
    await second.release()
    losing.cancel()
    leases.close()
    await client.close()
