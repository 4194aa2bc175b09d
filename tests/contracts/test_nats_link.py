from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters.jetstream.connection import connect, connect_to
from adapters.jetstream.hosts import NatsControl, NatsGateway, beats, commands, listen
from adapters.jetstream.server import EmbeddedServer
from adapters.jetstream.wire import WireClient
from core.kernel.errors import Unavailable
from core.kernel.subjects import HOST_INBOX
from core.services.agent_host import AgentHost
from core.services.link import Beat
from tests.contracts.link import HOST, SESSION, Bench, Link, LinkContract, registration
from tests.given import REGISTRY, until


async def there(client: WireClient) -> None:
    """Until the server has this client's subscriptions: nats-py's flush overtakes what was not written yet."""
    await until(lambda: not client._pending, "the subscriptions to leave")
    await client.flush()


class TestNatsLink(LinkContract):
    @pytest.fixture
    async def broker(self, tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
        broker = EmbeddedServer(tmp_path, profile="fast")
        await broker.start()
        yield broker
        await broker.stop()

    @pytest.fixture
    async def link(self, broker: EmbeddedServer) -> AsyncIterator[Link]:
        """The host's end logs in as a host: what it may not do, no test can do by accident."""
        bench = Bench()
        near = await connect(broker.url, user=broker.user, password=broker.password, name="bus")
        far = await connect_to(broker.hosts_access, name="host", inbox=HOST_INBOX)
        servers = [commands(near, bench.door, REGISTRY), beats(near, bench.beat, lambda: bench.leading)]
        for server in servers:
            await server.start()
        await there(near)
        control = NatsControl(far, REGISTRY, HOST, answer_s=2.0)
        await control.start()

        async def join(host: AgentHost) -> None:
            await listen(far, host)
            await there(far)

        yield Link(bench, control, NatsGateway(near), join)
        control.close()
        for server in servers:
            await server.close()
        await far.close()
        await near.close()

    async def test_a_scheduler_that_does_not_lead_is_silent_so_that_the_one_that_leads_is_heard(
        self, link: Link, broker: EmbeddedServer
    ) -> None:
        standby = Bench()
        standby.leading = False
        client = await connect(broker.url, user=broker.user, password=broker.password, name="standby")
        server = beats(client, standby.beat, lambda: standby.leading)
        await server.start()
        await there(client)
        for _ in range(20):
            assert (await link.control.beat(Beat(host_id=HOST, session=SESSION, registered_at=1, running=()))).alive
        assert standby.heard == []
        await server.close()
        await client.close()

    async def test_a_command_goes_to_one_bus_of_several(self, link: Link, broker: EmbeddedServer) -> None:
        other = Bench()
        client = await connect(broker.url, user=broker.user, password=broker.password, name="other")
        server = commands(client, other.door, REGISTRY)
        await server.start()
        await there(client)
        sessions = [registration(session=f"s.{number}") for number in range(50)]
        await asyncio.gather(*(link.control.execute(session, correlation_id="c") for session in sessions))
        assert await link.bench.log.head() + await other.log.head() == len(sessions)
        await server.close()
        await client.close()

    async def test_without_anybody_on_the_broker_a_command_is_unavailable(
        self, link: Link, broker: EmbeddedServer
    ) -> None:
        await broker.stop()
        with pytest.raises(Unavailable):
            await link.control.execute(registration(), correlation_id="c")

    async def test_a_host_beats_at_once_after_its_connection_is_back(self, link: Link, broker: EmbeddedServer) -> None:
        host = AgentHost(HOST, "box", {}, link.control, link.bench.clock, beat_s=600)
        await link.join(host)
        living = asyncio.create_task(host.live())
        await until(lambda: len(link.bench.heard) == 1, "the first beat")
        port = broker.port
        await broker.stop()
        again = EmbeddedServer(broker._store.parent, profile="fast", port=port)
        await again.start()
        await until(lambda: len(link.bench.heard) == 2, "a beat after the reconnect")
        living.cancel()
        await again.stop()
