import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters.jetstream.channel import UNSENT_BYTES_MAX, ClientChannel
from adapters.jetstream.connection import connect
from adapters.jetstream.server import EmbeddedServer
from core.services.channel import Message
from tests.contracts.channel import ChannelContract, settled, until


class TestClientChannel(ChannelContract):
    @pytest.fixture
    async def broker(self, tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
        broker = EmbeddedServer(tmp_path, profile="fast")
        await broker.start()
        yield broker
        await broker.stop()

    @pytest.fixture
    async def channel(self, broker: EmbeddedServer) -> AsyncIterator[ClientChannel]:
        client = await connect(broker.url, user=broker.user, password=broker.password, name="contract")
        yield ClientChannel(client)
        await client.close()

    @pytest.fixture
    async def other(self, broker: EmbeddedServer) -> AsyncIterator[ClientChannel]:
        client = await connect(broker.url, user=broker.user, password=broker.password, name="other")
        yield ClientChannel(client)
        await client.close()

    async def test_it_outlives_the_broker_and_publishes_nothing_meanwhile(
        self, broker: EmbeddedServer, channel: ClientChannel, other: ClientChannel, tmp_path: Path
    ) -> None:
        heard: list[bytes] = []
        await channel.listen("hive.cmd.>", lambda message: heard.append(message.data), queue="q")
        await settled(channel)
        await broker.stop()
        await until(lambda: not other._client.is_connected)
        assert not other.publish("hive.cmd.a", b"lost", {})
        again = EmbeddedServer(tmp_path, port=broker.port, profile="fast")
        await again.start()
        try:
            await until(lambda: channel._client.is_connected and other._client.is_connected)
            await settled(channel)
            assert other.publish("hive.cmd.a", b"back", {})
            await until(lambda: heard == [b"back"])
        finally:
            await again.stop()

    async def test_it_publishes_nothing_while_much_waits_to_be_sent(self, channel: ClientChannel) -> None:
        heard: list[Message] = []
        await channel.listen("hive.event.>", heard.append)
        large = bytes(300_000)
        # No turn of the loop in between, so nothing leaves.
        taken = sum(channel.publish("hive.event.a.b.c", large, {}) for _ in range(10))
        assert taken == UNSENT_BYTES_MAX // len(large) + 1
        await until(lambda: len(heard) == taken)
        assert channel.publish("hive.event.a.b.c", b"", {})

    async def test_leaving_a_broker_that_stands_still_takes_a_second_and_its_late_answer_harms_nobody(
        self, broker: EmbeddedServer, channel: ClientChannel, other: ClientChannel
    ) -> None:
        heard: list[bytes] = []
        number = await channel.listen("hive.cmd.a", lambda message: heard.append(message.data))
        await channel.listen("hive.cmd.b", lambda message: heard.append(message.data))
        await settled(channel)
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            await channel.leave(number)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        await settled(channel)
        assert channel._client.is_connected
        assert other.publish("hive.cmd.b", b"still there", {})
        await until(lambda: heard == [b"still there"])
