"""Celery with Redis for queue and results: acknowledged late, so that a killed worker's task comes back at all."""

from __future__ import annotations

import asyncio
import os
import time

import redis
from celery import Celery

from tests.bench.peers import probe

# Redis keeps no connection to a worker: a task that it took is given to another after this time.
VISIBLE_S = 10

app = Celery("peers", broker=os.environ["PEER_REDIS"] + "/0", backend=os.environ["PEER_REDIS"] + "/1")
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    broker_transport_options={"visibility_timeout": VISIBLE_S},
    broker_connection_retry_on_startup=True,
    task_serializer="json",
    result_serializer="json",
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
)


@app.task
def noop() -> None:
    """Do nothing, and succeed."""


@app.task
def stamp(port: int, sent_ns: int) -> None:
    probe.tell(port, sent_ns)


@app.task
def hold(port: int) -> None:
    probe.tell(port, 0)
    time.sleep(probe.HOLD_S)


class CeleryClient:
    poll_s = 0.01

    async def open(self) -> None:
        self._results = redis.Redis.from_url(os.environ["PEER_REDIS"] + "/1")

    async def flood(self, count: int) -> None:
        """One connection for all of them; its client has no loop and no batches."""
        with app.producer_pool.acquire(block=True) as producer:
            for _ in range(count):
                noop.apply_async(producer=producer)

    async def stamp(self, port: int, sent_ns: int) -> None:
        stamp.apply_async((port, sent_ns))

    async def hold(self, port: int) -> None:
        hold.apply_async((port,))

    async def ended(self) -> int:
        await asyncio.sleep(0)
        return int(self._results.dbsize())

    async def lag_ms(self) -> None:
        return None


CLIENT = CeleryClient
