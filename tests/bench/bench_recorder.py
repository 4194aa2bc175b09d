"""Commits per second of the recorder, alone and with the core views: `python -m tests.bench.bench_recorder`.

The commits of a fleet (three for each task, 600 bytes), batches of 1000, into SQLite files with synchronous FULL. With
the views, recorder and projector run together as in the program, without their rests, until the views have everything.
Beside them the `eventsourcing` library's projection of one view, and each part alone with the bare driver as its floor.
Read the ratios, the figures drift with the machine.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from uuid import UUID

import uvloop

from adapters.memory.store import MemoryStore
from adapters.sql.store import SqlStore
from adapters.sql.views import SqlViews
from core.kernel.commit import Entry
from core.kernel.merkle import Frontier, leaf_hash
from core.kernel.ports import Store
from core.services.positions import PositionGate
from core.services.projector import Projector
from core.services.recent import Recent
from core.services.recorder import Recorder
from entrypoints.process import tune
from projections.catalogue import VIEWS
from tests.bench.eventsourcing_peer import measured
from tests.bench.fleet import CODEC, history

BATCH = 1_000
EVENTS = 40_000
ROUNDS = 3
REACH = {"recorder": 40_000, "with_views": 20_000}


class FullLog:
    """A log that gives everything at once, in batches, and then waits."""

    def __init__(self, held: Sequence[Entry]) -> None:
        self.held = held

    async def follow(self, *, after: int, trimmed_to: int = 0) -> AsyncIterator[Sequence[Entry]]:
        for start in range(after, len(self.held), BATCH):
            yield self.held[start : start + BATCH]
        await asyncio.get_running_loop().create_future()

    async def head(self) -> int:
        return len(self.held)

    async def append(self, subject: str, commit_id: UUID, body: bytes, *, expected: int) -> int:
        raise NotImplementedError

    async def read(self, subject: str, *, after: int = 0) -> list[Entry]:
        raise NotImplementedError

    async def entry(self, position: int) -> Entry | None:
        raise NotImplementedError

    async def healthy(self) -> bool:
        return True


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def recorded(held: Sequence[Entry], store: Store) -> float:
    """Seconds until the recorder has everything in the store."""
    done = asyncio.Event()

    def on_recorded(position: int) -> None:
        if position == len(held):
            done.set()

    recorder = Recorder(FullLog(held), store, CODEC, SystemClock(), on_recorded=on_recorded)
    start = time.perf_counter()
    running = asyncio.create_task(recorder.run())
    reached = asyncio.create_task(done.wait())
    await asyncio.wait([running, reached], return_when=asyncio.FIRST_COMPLETED)
    seconds = time.perf_counter() - start
    if running.done():
        running.result()
    running.cancel()
    await asyncio.wait([running])
    return seconds


def merkle(held: Sequence[Entry]) -> float:
    """Seconds for leaves and frontier alone."""
    start = time.perf_counter()
    frontier = Frontier()
    for entry in held:
        frontier.append(leaf_hash(entry.position, entry.subject, entry.body))
    frontier.root()
    return time.perf_counter() - start


async def read_back(store: Store, count: int) -> float:
    """Seconds to read all commits in pages, as a projector does."""
    start = time.perf_counter()
    after = 0
    while after < count:
        after = (await store.read(after=after, limit=BATCH))[-1].entry.position
    return time.perf_counter() - start


async def bare_driver(held: Sequence[Entry], path: Path) -> float:
    """Seconds for the same rows by sqlite3 itself, one hop a batch, no lookups: what no store can beat."""
    await (await SqlStore.open(path)).close()
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    for pragma in ("synchronous=FULL", "wal_autocheckpoint=10000"):
        connection.execute(f"PRAGMA {pragma}")
    codec = CODEC

    def write(batch: Sequence[Entry]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        rows, commands, streams = [], [], []
        for entry in batch:
            body, stream = codec.body(entry.body), entry.position
            leaf = leaf_hash(entry.position, entry.subject, entry.body)
            rows.append(
                (entry.position, stream, body.version, UUID(body.id).bytes, None, entry.body, leaf, 1, 1, 1, None)
            )
            commands.append((UUID(body.command_id).bytes, body.fingerprint, "accepted", entry.position))
            streams.append((stream, entry.subject, body.version, entry.position))
        connection.executemany("INSERT INTO commits VALUES (?,?,?,?,?,?,?,?,?,?,?)", rows)
        connection.executemany("INSERT INTO commands VALUES (?,?,?,?)", commands)
        connection.executemany("INSERT INTO streams VALUES (?,?,?,?) ON CONFLICT DO NOTHING", streams)
        connection.execute("COMMIT")

    start = time.perf_counter()
    for offset in range(0, len(held), BATCH):
        await asyncio.to_thread(write, held[offset : offset + BATCH])
    seconds = time.perf_counter() - start
    connection.close()
    return seconds


async def single(held: Sequence[Entry], store: Store) -> float:
    """Milliseconds of one commit in a transaction of its own: the median of all."""
    log = FullLog(held)
    times: list[float] = []
    last = time.perf_counter()
    done = asyncio.Event()

    def on_recorded(position: int) -> None:
        nonlocal last
        now = time.perf_counter()
        times.append(now - last)
        last = now
        if position == len(held):
            done.set()

    recorder = Recorder(log, store, CODEC, SystemClock(), batch_max=1, on_recorded=on_recorded)
    running = asyncio.create_task(recorder.run())
    await done.wait()
    running.cancel()
    await asyncio.wait([running])
    return sorted(times)[len(times) // 2] * 1_000


async def with_views(held: Sequence[Entry], folder: Path) -> float:
    """Seconds until recorder and projector have everything in the store and in all core views."""
    store = await SqlStore.open(folder / "store.db")
    views = await SqlViews.open(folder / "views.db", VIEWS)
    gate, recent, done = PositionGate(), Recent(), asyncio.Event()

    def on_applied(position: int) -> None:
        if position == len(held):
            done.set()

    services = [
        Recorder(FullLog(held), store, CODEC, SystemClock(), on_recorded=gate.advance, recent=recent).run(),
        Projector(store, views, CODEC, gate, on_applied, recent).run(),
    ]
    start = time.perf_counter()
    running = [asyncio.create_task(service) for service in services]
    reached = asyncio.create_task(done.wait())
    await asyncio.wait([*running, reached], return_when=asyncio.FIRST_COMPLETED)
    seconds = time.perf_counter() - start
    for task in running:
        if task.done():
            task.result()
        task.cancel()
    await asyncio.wait(running)
    await views.close()
    await store.close()
    return seconds


async def a_round(held: Sequence[Entry], folder: Path) -> dict[str, float]:
    """Commits per second of each way, one after the other."""
    store = await SqlStore.open(folder / "alone.db")
    seconds = {
        "merkle": merkle(held),
        "into_memory": await recorded(held, MemoryStore()),
        "bare_driver": await bare_driver(held, folder / "bare.db"),
        "recorder": await recorded(held, store),
        "read_back": await read_back(store, len(held)),
        "with_views": await with_views(held, folder),
    }
    await store.close()
    return {name: len(held) / value for name, value in seconds.items()}


async def main(*, fast: bool) -> dict[str, object]:
    """Measure and print."""
    events = EVENTS // 4 if fast else EVENTS
    tune()
    held = history(events)
    size = sum(len(entry.body) for entry in held) / len(held)
    print(f"  {len(held):,} commits of {size:.0f} bytes, batches of {BATCH:,}", file=sys.stderr)
    rounds = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            gc.collect()
            rounds.append(
                await a_round(held, Path(folder)) | {"eventsourcing": measured(events // 4)["catch_up_per_s"]}
            )
    rates = {name: statistics.median(round_[name] for round_ in rounds) for name in rounds[0]}
    peer = rates["eventsourcing"]
    for name, rate in rates.items():
        unit = "events/s" if name == "eventsourcing" else "commits/s"
        print(f"  {name:<20}{rate:>12,.0f} {unit:<10}{rate / peer:8.1f} x eventsourcing", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        store = await SqlStore.open(Path(folder) / "single.db")
        single_ms = await single(held[:1_000], store)
        await store.close()
    return {
        **{f"{name}_per_s": round(rate) for name, rate in rates.items()},
        "recorder_ratio": round(rates["recorder"] / peer, 1),
        "with_views_ratio": round(rates["with_views"] / peer, 1),
        "recorder_of_bare_driver": round(rates["recorder"] / rates["bare_driver"], 2),
        "one_commit_ms": round(single_ms, 2),
        "reach": REACH,
    }


if __name__ == "__main__":
    print(json.dumps({"recorder": uvloop.run(main(fast="--fast" in sys.argv))}))
