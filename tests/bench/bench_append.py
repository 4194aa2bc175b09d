"""Appends per second, 256 in flight: through the command bus, beside raw publishers in one run, in both profiles.

Fast: the yardstick is our own pipelined publisher with expectation and a body made beforehand; a publisher written
with nats-py's public API alone stands beside it. Durable: the yardstick is raw atomic batches formed from a queue;
plain appends, each synced for itself, and the publisher that groups stand beside it. Through the bus a command is
also decided, encoded, hashed and folded.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import uvloop
from nats.aio.msg import Msg

from adapters.clock import SystemClock
from adapters.jetstream.connection import connect, ensure_stream
from adapters.jetstream.log import JetStreamLog
from adapters.jetstream.server import EmbeddedServer, Profile
from adapters.jetstream.wire import WireClient
from adapters.memory.store import MemoryStore
from core.actions import registry as make_registry
from core.kernel.codec import Codec
from core.kernel.command_bus import Caller, CommandBus
from core.kernel.ids import uuid7
from core.task import SubmitTask
from entrypoints.process import tune
from tests.bench.raw_batches import RawBatches

APPENDS = 20_000
IN_FLIGHT = 256
ROUNDS = 5
REACH = 0.5
BODY = b"x" * 640  # as large as the commit of the command below

Append = Callable[[UUID], Awaitable[object]]


async def nats_py(client: WireClient) -> Append:
    """A shared inbox, futures by token, the expectation in a header; public API only."""
    futures: dict[str, asyncio.Future[int]] = {}
    inbox = client.new_inbox()

    async def on_ack(message: Msg) -> None:
        futures.pop(message.subject.rpartition(".")[2]).set_result(json.loads(message.data)["seq"])

    await client.subscribe(f"{inbox}.*", cb=on_ack)

    async def append(commit_id: UUID) -> int:
        token = commit_id.hex
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        futures[token] = future
        headers = {"Nats-Expected-Last-Subject-Sequence": "0"}
        await client.publish(f"hive.log.raw.{token}", BODY, reply=f"{inbox}.{token}", headers=headers)
        return await future

    return append


def publisher(log: JetStreamLog) -> Append:
    """Our own raw publisher: no command, no decision, one body for all."""
    return lambda commit_id: log.append(f"hive.log.ours.{commit_id.hex}", str(commit_id), BODY, expected=0)


def bus(log: JetStreamLog) -> Append:
    """The whole way of a command."""
    registry = make_registry()
    command_bus = CommandBus(log, registry, Codec(registry), SystemClock(), MemoryStore())
    command = SubmitTask(type="bench", executor="command", parameters={"argv": ["true"]})
    return lambda commit_id: command_bus.execute(command, Caller(actor="key:bench", command_id=commit_id))


async def rate(append: Append, appends: int) -> float:
    """Appends per second, each to a new subject."""
    ids = iter([uuid7() for _ in range(appends)])

    async def worker() -> None:
        for commit_id in ids:
            await append(commit_id)

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return appends / (time.perf_counter() - started)


async def rounds(ways: dict[str, Append], yardstick: str, appends: int) -> dict[str, object]:
    """The median rate of each way, and the median over the rounds of the bus's share of the yardstick."""
    taken = []
    for _ in range(ROUNDS):
        rates = {name: await rate(append, appends) for name, append in ways.items()}
        taken.append(rates)
        shown = "   ".join(f"{name} {value:8,.0f}/s" for name, value in rates.items())
        print(f"  {shown}   bus/{yardstick} {rates['bus'] / rates[yardstick]:.2f}", file=sys.stderr)
    figures: dict[str, object] = {
        f"{name}_per_s": round(statistics.median(rates[name] for rates in taken)) for name in ways
    }
    ratio = statistics.median(rates["bus"] / rates[yardstick] for rates in taken)
    return figures | {"ratio": round(ratio, 2), "reach": REACH}


@asynccontextmanager
async def connected(profile: Profile) -> AsyncIterator[WireClient]:
    """A connection to a broker of its own, with an empty stream."""
    with tempfile.TemporaryDirectory() as directory:
        broker = EmbeddedServer(Path(directory), profile=profile)
        await broker.start()
        client = await connect(broker.url, user=broker.user, password=broker.password, name="bench")
        await ensure_stream(client)
        yield client
        await client.close()
        await broker.stop()


async def fast_profile(appends: int) -> dict[str, object]:
    print("fast", file=sys.stderr)
    async with connected("fast") as client:
        log = await JetStreamLog.open(client)
        ways = {"nats_py": await nats_py(client), "publisher": publisher(log), "bus": bus(log)}
        figures = await rounds(ways, "publisher", appends)
        await log.close()
    return figures


async def durable_profile(appends: int) -> dict[str, object]:
    print("durable", file=sys.stderr)
    async with connected("durable") as client:
        raw = RawBatches(client, BODY)
        await raw.start()
        plain = await JetStreamLog.open(client)
        log = await JetStreamLog.open(client, grouped=True)
        ways = {"plain": publisher(plain), "raw_batches": raw.append, "publisher": publisher(log), "bus": bus(log)}
        figures = await rounds(ways, "raw_batches", appends)
        await log.close()
        await plain.close()
    return figures


async def main(*, fast: bool) -> dict[str, object]:
    appends = APPENDS // 4 if fast else APPENDS
    tune()
    return await fast_profile(appends) | {"durable": await durable_profile(appends // 4)}


if __name__ == "__main__":
    print(json.dumps({"append": uvloop.run(main(fast="--fast" in sys.argv))}))
