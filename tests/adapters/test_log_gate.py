"""The gate on a real broker that ends and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters.jetstream.connection import connect, ensure_stream
from adapters.jetstream.log import JetStreamLog
from adapters.jetstream.server import EmbeddedServer
from adapters.jetstream.upkeep import JetStreamUpkeep
from adapters.jetstream.wire import WireClient
from core.kernel.errors import OutcomeUnknown, Unavailable
from core.kernel.ids import uuid7

TASK = "hive.log.task.1"
DEADLINE_S = 10.0


class Broker:
    """A broker, a guarded log on it, and the upkeep that goes round the gate."""

    def __init__(self, server: EmbeddedServer, client: WireClient, log: JetStreamLog, upkeep: JetStreamUpkeep) -> None:
        self.server = server
        self.client = client
        self.log = log
        self.upkeep = upkeep

    async def end(self) -> None:
        await self.server.stop()

    async def come_back(self) -> None:
        self.server._wanted_port = self.server.port
        await self.server.start()
        async with asyncio.timeout(DEADLINE_S):
            await self.client.connected.wait()


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    server = EmbeddedServer(tmp_path, profile="fast")
    await server.start()
    client = await connect(server.url, user=server.user, password=server.password, name="gate")
    await ensure_stream(client)
    log = await JetStreamLog.open(client, guarded=True, append_deadline_s=1.0)
    upkeep = await JetStreamUpkeep.open(client, lambda: ensure_stream(client))
    yield Broker(server, client, log, upkeep)
    upkeep.close()
    await log.close()
    await client.close()
    await server.stop()


async def append(log: JetStreamLog, subject: str = TASK, expected: int = 0) -> int:
    return await log.append(subject, str(uuid7()), b"x", expected=expected)


async def test_nothing_is_appended_read_or_followed_before_the_gate_opens(broker: Broker) -> None:
    following = asyncio.ensure_future(anext(broker.log.follow(after=0)))
    for attempt in (append(broker.log), broker.log.read(TASK), broker.log.entry(1), broker.log.head()):
        with pytest.raises(Unavailable):
            await attempt
    assert not await broker.log.healthy()
    await asyncio.wait({following}, timeout=0.1)
    assert not following.done()
    assert await broker.upkeep.head() == 0
    broker.log.gate.open(await broker.log.gate.next_connection(0))
    assert await append(broker.log) == 1
    async with asyncio.timeout(DEADLINE_S):
        assert [entry.position for entry in await following] == [1]


async def test_a_broker_that_comes_back_shuts_the_gate_until_somebody_has_compared(broker: Broker) -> None:
    first = await broker.log.gate.next_connection(0)
    broker.log.gate.open(first)
    await append(broker.log)
    await broker.end()
    await broker.come_back()
    with pytest.raises(Unavailable):
        await append(broker.log, expected=1)
    broker.log.gate.open(first)
    with pytest.raises(Unavailable):
        await append(broker.log, expected=1)
    following = asyncio.ensure_future(anext(broker.log.follow(after=0)))
    await asyncio.wait({following}, timeout=0.2)
    assert not following.done()
    assert await broker.upkeep.head() == 1
    broker.log.gate.open(await broker.log.gate.next_connection(first))
    assert await append(broker.log, expected=1) == 2
    async with asyncio.timeout(DEADLINE_S):
        assert (await following)[0].position == 1


async def test_what_was_not_sent_before_the_connection_broke_is_never_sent_by_itself(broker: Broker) -> None:
    broker.log.gate.open(await broker.log.gate.next_connection(0))
    await append(broker.log)
    # The flusher stands still, as it does while the kernel takes nothing: the frame waits in nats-py's buffer.
    assert broker.client._flusher_task is not None
    broker.client._flusher_task.cancel()
    late = asyncio.ensure_future(append(broker.log, "hive.log.task.late"))
    await asyncio.wait({late}, timeout=0.05)
    await broker.end()
    await broker.come_back()
    with pytest.raises(OutcomeUnknown):
        await late
    assert await broker.upkeep.head() == 1


async def test_a_stream_that_is_gone_is_made_anew_and_empty(broker: Broker) -> None:
    broker.log.gate.open(await broker.log.gate.next_connection(0))
    await append(broker.log)
    await broker.client.jetstream().delete_stream("HIVE")
    assert await broker.upkeep.head() == 0
