"""Appends per second, 256 in flight, fast profile: through the command bus, beside two raw publishers in one run.

The yardstick is our own pipelined publisher with expectation and a body made beforehand; a publisher written with
nats-py's public API alone stands beside it. Through the bus a command is also decided, encoded, hashed and folded.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import uvloop
from nats.aio.msg import Msg

from adapters.clock import SystemClock
from adapters.jetstream.connection import connect, ensure_stream
from adapters.jetstream.log import JetStreamLog
from adapters.jetstream.server import EmbeddedServer
from adapters.jetstream.wire import WireClient
from adapters.memory.store import MemoryStore
from core.actions import registry as make_registry
from core.kernel.codec import Codec
from core.kernel.command_bus import Caller, CommandBus
from core.kernel.ids import uuid7
from core.task import SubmitTask
from entrypoints.process import tune

APPENDS = 20_000
IN_FLIGHT = 256
ROUNDS = 5
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


async def main(*, fast: bool) -> dict[str, object]:
    appends = APPENDS // 4 if fast else APPENDS
    tune()
    with tempfile.TemporaryDirectory() as directory:
        broker = EmbeddedServer(Path(directory), profile="fast")
        await broker.start()
        client = await connect(broker.url, user=broker.user, password=broker.password, name="bench")
        await ensure_stream(client)
        log = await JetStreamLog.open(client)
        ways = {"nats_py": await nats_py(client), "publisher": publisher(log), "bus": bus(log)}
        rounds = []
        for _ in range(ROUNDS):
            rates = {name: await rate(append, appends) for name, append in ways.items()}
            rounds.append(rates)
            shown = "   ".join(f"{name} {value:8,.0f}/s" for name, value in rates.items())
            print(f"  {shown}   bus/publisher {rates['bus'] / rates['publisher']:.2f}", file=sys.stderr)
        await log.close()
        await client.close()
        await broker.stop()
    figures: dict[str, object] = {
        f"{name}_per_s": round(statistics.median(rates[name] for rates in rounds)) for name in ways
    }
    ratio = statistics.median(rates["bus"] / rates["publisher"] for rates in rounds)
    return figures | {"ratio": round(ratio, 2), "reach": 0.5}


if __name__ == "__main__":
    print(json.dumps({"append": uvloop.run(main(fast="--fast" in sys.argv))}))
