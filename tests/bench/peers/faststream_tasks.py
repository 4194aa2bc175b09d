"""FastStream on JetStream: a durable consumer that pushes, a hundred handlers at once, acknowledged after each.

It keeps no results. `python -m tests.bench.peers.faststream_tasks` is the worker.
"""

from __future__ import annotations

import asyncio
import os

import nats
import uvloop
from faststream import AckPolicy, FastStream
from faststream.nats import JStream, NatsBroker
from nats.js.api import ConsumerConfig
from nats.js.errors import NotFoundError

from tests.bench.peers import probe

HANDLERS = 100
TOGETHER = 500
WORKER_S_MAX = 20.0

broker = NatsBroker(os.environ["PEER_NATS"], logger=None)
stream = JStream("tasks", subjects=["tasks.>"], declare=True)


def _subscriber(name: str):
    return broker.subscriber(
        f"tasks.{name}",
        stream=stream,
        durable=name,
        config=ConsumerConfig(max_ack_pending=10_000),
        ack_policy=AckPolicy.NACK_ON_ERROR,
        max_workers=HANDLERS,
        pending_msgs_limit=100_000,
    )


@_subscriber("noop")
async def noop(message: str) -> None:
    """Do nothing, and succeed."""


@_subscriber("stamp")
async def stamp(message: list[int]) -> None:
    await probe.stamp(*message)


@_subscriber("hold")
async def hold(message: int) -> None:
    await probe.hold(message)


class FastStreamClient:
    poll_s = 0.01

    async def open(self) -> None:
        await broker.connect()
        self._nats = await nats.connect(os.environ["PEER_NATS"])
        self._js = self._nats.jetstream()
        # The worker makes stream and consumers.
        async with asyncio.timeout(WORKER_S_MAX):
            while not await self._there():
                await asyncio.sleep(0.05)

    async def flood(self, count: int) -> None:
        for start in range(0, count, TOGETHER):
            await asyncio.gather(*(self._publish("", "noop") for _ in range(min(TOGETHER, count - start))))

    async def stamp(self, port: int, sent_ns: int) -> None:
        await self._publish([port, sent_ns], "stamp")

    async def hold(self, port: int) -> None:
        await self._publish(port, "hold")

    async def ended(self) -> int:
        """Acknowledged without a gap, by both consumers."""
        found = [await self._js.consumer_info("tasks", name) for name in ("noop", "stamp")]
        total = (await self._js.stream_info("tasks")).state.messages
        return total - sum(info.num_pending + info.num_ack_pending for info in found)

    async def lag_ms(self) -> None:
        return None

    async def _there(self) -> bool:
        try:
            await self.ended()
        except NotFoundError:
            return False
        return True

    async def _publish(self, message: object, name: str) -> None:
        await broker.publish(message, f"tasks.{name}", stream="tasks")


CLIENT = FastStreamClient

if __name__ == "__main__":
    uvloop.run(FastStream(broker, logger=None).run())
