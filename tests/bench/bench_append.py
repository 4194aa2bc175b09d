"""Appends per second, 256 in flight, fast profile: the log against a pipelined publisher written with nats-py alone.

Run with `python -m tests.bench.bench_append`. Prints; asserts nothing.
"""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import uvloop
from nats.aio.msg import Msg

from adapters.jetstream.connection import connect, ensure_stream
from adapters.jetstream.log import JetStreamLog
from adapters.jetstream.server import EmbeddedServer
from adapters.jetstream.wire import WireClient
from core.kernel.ids import uuid7

APPENDS = 40_000
IN_FLIGHT = 256
ROUNDS = 5
BODY = b"x" * 400

Append = Callable[[str, UUID], Awaitable[int]]


async def raw_append(client: WireClient) -> Append:
    """The yardstick: a shared inbox, futures by token, the expectation in a header; public API only."""
    futures: dict[str, asyncio.Future[int]] = {}
    inbox = client.new_inbox()

    async def on_ack(message: Msg) -> None:
        futures.pop(message.subject.rpartition(".")[2]).set_result(json.loads(message.data)["seq"])

    await client.subscribe(f"{inbox}.*", cb=on_ack)

    async def append(subject: str, commit_id: UUID) -> int:
        token = commit_id.hex
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        futures[token] = future
        headers = {"Nats-Expected-Last-Subject-Sequence": "0"}
        await client.publish(subject, BODY, reply=f"{inbox}.{token}", headers=headers)
        return await future

    return append


async def rate(append: Append, label: str) -> float:
    """Appends per second, each to a new subject."""
    ids = iter([uuid7() for _ in range(APPENDS)])

    async def worker() -> None:
        for commit_id in ids:
            await append(f"hive.log.{label}.{commit_id.hex}", commit_id)

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return APPENDS / (time.perf_counter() - started)


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        broker = EmbeddedServer(Path(directory), profile="fast")
        await broker.start()
        client = await connect(broker.url, user=broker.user, password=broker.password, name="bench")
        await ensure_stream(client)
        log = await JetStreamLog.open(client)
        raw = await raw_append(client)
        pairs = []
        for _ in range(ROUNDS):
            ours = await rate(lambda subject, commit_id: log.append(subject, commit_id, BODY, expected=0), "ours")
            theirs = await rate(raw, "raw")
            pairs.append((ours, theirs))
            print(f"log.append {ours:8,.0f}/s   raw nats-py {theirs:8,.0f}/s   ratio {ours / theirs:.2f}")
        print(f"median ratio {statistics.median(ours / theirs for ours, theirs in pairs):.2f}")
        await log.close()
        await client.close()
        await broker.stop()


if __name__ == "__main__":
    uvloop.run(main())
