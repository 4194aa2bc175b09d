"""The client's side of one system: `python -m tests.bench.peers.driving MODULE`, whose CLIENT submits on demand.

One line of JSON in, one out: {"do": "flood", "count"}, {"do": "latency", "count"}, {"do": "hold"}, {"do": "again",
"within_s"}. Its processor time is its own; the system under test is what the runner measures.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import sys
import time
from typing import Any, Protocol

from tests.bench.peers.probe import Ear

FLOOD_S_MAX = 90.0
# What a broker gives to another worker after 30 s still counts.
ONE_S_MAX = 40.0
BEGIN_S_MAX = 30.0
# Of warm-up tasks ahead of the latencies, which nobody counts.
UNCOUNTED = 20
PAUSE_S = 0.005


class Client(Protocol):
    """How a system is asked. `poll_s`: as often as `ended` may be asked without costing it much."""

    poll_s: float

    async def open(self) -> None:
        """Connect."""

    async def flood(self, count: int) -> None:
        """Submit so many no-ops as fast as this system takes them; each of them accepted at the return."""

    async def stamp(self, port: int, sent_ns: int) -> None:
        """Submit one `probe.stamp`, accepted at the return."""

    async def hold(self, port: int) -> None:
        """Submit one `probe.hold`."""

    async def ended(self) -> int:
        """How many tasks have ended wholly since the system began: their results are where they are read."""

    async def lag_ms(self) -> float | None:
        """How long the last end took from the log into the views. None for who has no views."""


class Driver:
    """Carries out what the runner says, one command at a time."""

    def __init__(self, client: Client, ear: Ear) -> None:
        self._client = client
        self._ear = ear

    async def flood(self, count: int) -> dict[str, Any]:
        """No-ops end to end, and how far it came within the time."""
        before = await self._client.ended()
        gc.collect()
        began = time.perf_counter()
        await self._client.flood(count)
        enqueued_s = time.perf_counter() - began
        while (ended := await self._client.ended() - before) < count:
            if time.perf_counter() - began > FLOOD_S_MAX:
                break
            await asyncio.sleep(self._client.poll_s)
        seconds = time.perf_counter() - began
        return {"ended": ended, "enqueued_s": enqueued_s, "seconds": seconds, "lag_ms": await self._client.lag_ms()}

    async def latency(self, count: int) -> dict[str, Any]:
        """From the submit's call to the first line of the task, one after the other."""
        before = await self._client.ended()
        took_ns: list[int] = []
        for _ in range(count + UNCOUNTED):
            sent_ns = time.monotonic_ns()
            await self._client.stamp(self._ear.port, sent_ns)
            took_ns.append(await self._ran(sent_ns) - sent_ns)
            # The end of this one is not the beginning of the next.
            await asyncio.sleep(PAUSE_S)
        async with asyncio.timeout(FLOOD_S_MAX):
            while await self._client.ended() - before < len(took_ns):
                await asyncio.sleep(self._client.poll_s)
        counted = sorted(took_ns[UNCOUNTED:])
        return {"p50_ms": counted[len(counted) // 2] / 1e6, "p99_ms": counted[len(counted) * 99 // 100] / 1e6}

    async def hold(self) -> dict[str, Any]:
        """A task that runs on, once it runs."""
        await self._client.hold(self._ear.port)
        async with asyncio.timeout(BEGIN_S_MAX):
            await self._ran(0)
        return {}

    async def again(self, within_s: float) -> dict[str, Any]:
        """When the held task ran again, on the monotonic clock; null if it did not within the time."""
        try:
            async with asyncio.timeout(within_s):
                return {"at_ns": await self._ran(0)}
        except TimeoutError:
            return {"at_ns": None}

    async def _ran(self, sent_ns: int) -> int:
        """When a task ran; what others repeat is not it."""
        async with asyncio.timeout(None if sent_ns == 0 else ONE_S_MAX):
            while True:
                sent, ran = await self._ear.heard.get()
                if sent == sent_ns:
                    return ran


async def _serve(client: Client) -> None:
    await client.open()
    driver = Driver(client, await Ear.open())
    _say({"ready": True})
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        _say(await getattr(driver, command.pop("do"))(**command))


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    # By name, so that its tasks are called here as they are in the worker.
    asyncio.run(_serve(importlib.import_module(sys.argv[1]).CLIENT()))
