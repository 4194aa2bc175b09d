"""Many WebSocket clients in a process of their own: told by lines on stdin, it answers with lines of JSON on stdout.

connect N            N clients, subscribed from now on
churn R              from now on R clients a second are cut at random; each comes back with its last position
phase NAME           latencies are counted under this name from now on
stall                one client more, which stops reading; it reads on when `wake` is said
wake                 the stalled client reads on: its close code, reason and position
report               latencies of the phases, in ms
count                frames and bytes since the last count
end POSITION         wait until everybody is there, and compare each record with the store's
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from array import array
from typing import Any

import uvloop

from tests.accept.program import Client
from tests.accept.socket_client import Batch, Batches, SocketClient

FILTER = {"noun": "task"}
DEADLINE_S = 60.0
CONNECTING_AT_ONCE = 50


class Gap(Exception):
    """A batch that does not follow on the one before it."""


class Watcher:
    """One client over all its connections: every batch it was told."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self.client: SocketClient | None = None
        self.batches: list[Batch] = []
        self.began = 0
        self.position: int | None = None
        self.resumes = 0

    async def connect(self, **how: Any) -> None:
        place, key = self._clients.place, self._clients.key
        client = SocketClient(place, key, self.position, self._hear, **FILTER)
        self.client = client
        await client.connect(**how)
        if self.position is None:
            self.began = self.position = client.position or 0

    def _hear(self, payload: bytes) -> None:
        clients = self._clients
        clients.frames += 1
        clients.bytes += len(payload)
        if clients.counting:
            return
        batch = clients.batches.of(payload)
        # The batch may come with the answer to the subscription, before it is looked at.
        if self.position is None:
            self.began = self.position = self.client.position or 0  # type: ignore[union-attr]
        if batch.after != self.position:
            raise Gap(f"told up to {self.position}, then from {batch.after}")
        self.position = batch.to
        self.batches.append(batch)
        # What the stalled one is told at last is late by intent.
        if batch.time_s is not None and self is not clients.stalled:
            clients.latencies.append(time.time() - batch.time_s)

    @property
    def events(self) -> list[tuple[int, str]]:
        return [event for batch in self.batches for event in batch.events]

    async def cut(self) -> None:
        """Lose the connection without a word, and come back."""
        assert self.client is not None
        self.client.transport.abort()
        await self.client.ended
        self.resumes += 1
        await self.connect()


class Clients:
    """What the lines on stdin speak of."""

    def __init__(self, api: str, place: str, key: str, seed: int, *, counting: bool) -> None:
        self.api, self.place, self.key = api, place, key
        self.counting = counting
        self.batches = Batches()
        self.frames = self.bytes = 0
        self.phases: dict[str, array[float]] = {}
        self.latencies: array[float] = array("d")
        self.watchers: list[Watcher] = []
        self.stalled: Watcher | None = None
        self.failed: list[str] = []
        self._random = random.Random(seed)
        self._churn: asyncio.Task[None] | None = None
        self._cutting: set[asyncio.Task[None]] = set()

    async def connect(self, count: int) -> dict[str, Any]:
        for start in range(0, count, CONNECTING_AT_ONCE):
            some = [Watcher(self) for _ in range(min(CONNECTING_AT_ONCE, count - start))]
            await asyncio.gather(*(watcher.connect() for watcher in some))
            self.watchers += some
        return {"connected": len(self.watchers)}

    def churn(self, per_s: float) -> dict[str, Any]:
        if self._churn is not None:
            self._churn.cancel()
        self._churn = asyncio.create_task(self._cut(per_s)) if per_s else None
        return {"churn": per_s}

    async def _cut(self, per_s: float) -> None:
        away: set[Watcher] = set()

        async def one(watcher: Watcher) -> None:
            try:
                await watcher.cut()
            except OSError as error:
                self.failed.append(repr(error))
            finally:
                away.discard(watcher)

        due = time.monotonic()
        while True:
            due += 1 / per_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            watcher = self._random.choice(self.watchers)
            if watcher not in away:
                away.add(watcher)
                task = asyncio.create_task(one(watcher))
                self._cutting.add(task)
                task.add_done_callback(self._cutting.discard)

    def phase(self, name: str) -> dict[str, Any]:
        self.latencies = self.phases.setdefault(name, array("d"))
        return {"phase": name}

    async def stall(self) -> dict[str, Any]:
        self.stalled = Watcher(self)
        await self.stalled.connect(receive_bytes=64 * 1024)
        assert self.stalled.client is not None
        self.stalled.client.transport.pause_reading()
        return {"stalled": self.stalled.position}

    async def wake(self) -> dict[str, Any]:
        assert self.stalled is not None
        assert self.stalled.client is not None
        self.stalled.client.transport.resume_reading()
        async with asyncio.timeout(DEADLINE_S):
            await self.stalled.client.ended
        code, reason = self.stalled.client.close or (1006, "")
        answer = {"code": code, "reason": reason, "position": self.stalled.position}
        await self.stalled.connect()
        self.watchers.append(self.stalled)
        return answer

    def report(self) -> dict[str, Any]:
        return {name: _quantiles(values) for name, values in self.phases.items()}

    def count(self) -> dict[str, Any]:
        answer = {"frames": self.frames, "bytes": self.bytes, "at": time.monotonic()}
        self.frames = self.bytes = 0
        return answer

    async def end(self, position: int) -> dict[str, Any]:
        self.churn(0)
        while self._cutting:
            await asyncio.gather(*self._cutting)
        try:
            async with asyncio.timeout(DEADLINE_S):
                while any((watcher.position or 0) < position for watcher in self.watchers):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pass
        stored = Client(self.api, self.key).events(min(watcher.began for watcher in self.watchers), **FILTER)
        wanted = [(int(event["sequence"]), event["id"]) for event in stored]
        equal = sum(
            watcher.events == [event for event in wanted if watcher.began < event[0] <= (watcher.position or 0)]
            and (watcher.position or 0) >= position
            for watcher in self.watchers
        )
        return {
            "clients": len(self.watchers),
            "equal": equal,
            "events_of_the_store": len(wanted),
            "events_told": sum(len(batch.events) for watcher in self.watchers for batch in watcher.batches),
            "resumes": sum(watcher.resumes for watcher in self.watchers),
            "failed": self.failed[:3],
        }


def _quantiles(values: array[float]) -> dict[str, float]:
    ordered = sorted(values)
    if not ordered:
        return {"count": 0}
    at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    places = {name: round(ordered[min(len(ordered) - 1, int(len(ordered) * q))] * 1000, 1) for name, q in at.items()}
    return {"count": len(ordered), **places}


async def main() -> None:
    api, place, key, seed, mode = sys.argv[1:]
    clients = Clients(api, place, key, int(seed), counting=mode == "count")
    loop = asyncio.get_running_loop()

    def broken(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        clients.failed.append(repr(context.get("exception") or context["message"]))

    loop.set_exception_handler(broken)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode().split():
        word, arguments = line[0], [int(text) if text.isdigit() else text for text in line[1:]]
        answer: Any = getattr(clients, word)(*arguments)
        if asyncio.iscoroutine(answer):
            answer = await answer
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
