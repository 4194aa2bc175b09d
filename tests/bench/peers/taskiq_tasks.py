"""taskiq on JetStream: its broker that pulls, in batches, acknowledged once the result is saved in Redis.

Its fetch waits for a whole batch until its time is over, so a short time is what makes a single task quick: 5 ms. With
the default, no time at all, a task waits until a hundred are there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator

import redis.asyncio
from nats.js.api import ConsumerConfig
from nats.js.errors import NotFoundError
from taskiq import AckableMessage
from taskiq_nats import PullBasedJetStreamBroker
from taskiq_redis import RedisAsyncResultBackend

from tests.bench.peers import probe

BATCH = 100
FETCH_S = 0.005
# Submitted at once: what nats-py allows to be unacknowledged at a time is more.
TOGETHER = 500
WORKERS_S_MAX = 20.0


class Broker(PullBasedJetStreamBroker):
    """Goes on after a fetch that found nothing: nats-py says so by two errors, and taskiq knows one of them.

    Without this the worker ends and is started again, and what it had fetched comes back 30 s later.
    """

    async def listen(self) -> AsyncGenerator[AckableMessage, None]:
        while True:
            try:
                async for message in super().listen():
                    yield message
            except TimeoutError:
                continue


broker = Broker(
    servers=os.environ["PEER_NATS"],
    consumer_config=ConsumerConfig(durable_name="taskiq_durable", max_ack_pending=10_000),
    pull_consume_batch=BATCH,
    pull_consume_timeout=FETCH_S,
).with_result_backend(RedisAsyncResultBackend(redis_url=os.environ["PEER_REDIS"], max_connection_pool_size=BATCH))


@broker.task
async def noop() -> None:
    """Do nothing, and succeed."""


stamp = broker.task(probe.stamp)
hold = broker.task(probe.hold)


class Taskiq:
    poll_s = 0.01

    async def open(self) -> None:
        await broker.startup()
        self._results = redis.asyncio.Redis.from_url(os.environ["PEER_REDIS"])
        # A flood that comes before the second worker would be the first one's alone.
        async with asyncio.timeout(WORKERS_S_MAX):
            while await self._fetching() < int(os.environ["PEER_WORKERS"]):
                await asyncio.sleep(FETCH_S / 4)

    async def flood(self, count: int) -> None:
        for start in range(0, count, TOGETHER):
            await asyncio.gather(*(noop.kiq() for _ in range(min(TOGETHER, count - start))))

    async def stamp(self, port: int, sent_ns: int) -> None:
        await stamp.kiq(port, sent_ns)

    async def hold(self, port: int) -> None:
        await hold.kiq(port)

    async def ended(self) -> int:
        return int(await self._results.dbsize())

    async def _fetching(self) -> int:
        try:
            return (await broker.js.consumer_info(broker.stream_name, broker.durable)).num_waiting or 0
        except NotFoundError:
            return 0

    async def lag_ms(self) -> None:
        return None


CLIENT = Taskiq
