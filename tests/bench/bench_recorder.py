"""Commits per second of the recorder alone: `python -m tests.bench.bench_recorder [commits] [folder]`.

Bodies of 400 bytes, three commits for each of the tasks, batches of 1000, into a SQLite file with synchronous FULL.
Prints each part alone beside the whole, and the bare driver in one hop as the yardstick: read the ratios, the figures
drift with the machine.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from uuid import UUID

import msgspec

from adapters.memory.store import MemoryStore
from adapters.sql.store import SqlStore
from core.kernel.codec import Codec
from core.kernel.commit import Entry, commit_id_of, subject_of
from core.kernel.ids import uuid7
from core.kernel.merkle import Frontier, leaf_hash
from core.kernel.ports import Store
from core.kernel.registry import Registry
from core.services.recorder import Recorder

BATCH = 1_000
BODY_BYTES = 400


def entries(count: int) -> list[Entry]:
    """Commits as the log gives them: create, start and complete of one task after the other, 300 tasks at a time."""
    tasks: list[UUID] = []
    made = []
    for position in range(1, count + 1):
        step, slot = divmod((position - 1) % 900, 300)
        if step == 0 and slot == 0:
            tasks = [uuid7() for _ in range(300)]
        command_id = uuid7()
        made.append(_entry(position, tasks[slot], command_id, step + 1))
    return made


def _entry(position: int, task: UUID, command_id: UUID, version: int) -> Entry:
    subject = subject_of("task", str(task))
    commit_id = commit_id_of(command_id, subject)
    envelope = {
        "id": commit_id,
        "command": ("task.submit", "task.start", "task.complete")[version - 1],
        "command_id": str(command_id),
        "fingerprint": "0123456789abcdef0123456789abcdef",
        "actor": f"agent-{position % 20}",
        "correlation_id": str(task),
        "causation_id": str(command_id),
        "occurred_at": time.time_ns() // 1_000_000,
        "version": version,
        "events": [{"type": "task.changed", "schema": 1, "data": {"text": ""}}],
    }
    missing = BODY_BYTES - len(msgspec.json.encode(envelope))
    envelope["events"] = [{"type": "task.changed", "schema": 1, "data": {"text": "x" * max(0, missing)}}]
    return Entry(position, subject_of("task", str(task)), commit_id, msgspec.json.encode(envelope))


class FullLog:
    """A log that gives everything at once, in batches, and then waits."""

    def __init__(self, held: Sequence[Entry]) -> None:
        self.held = held

    async def follow(self, *, after: int) -> AsyncIterator[Sequence[Entry]]:
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

    recorder = Recorder(FullLog(held), store, Codec(Registry([])), SystemClock(), on_recorded=on_recorded)
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
    codec = Codec(Registry([]))

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

    recorder = Recorder(log, store, Codec(Registry([])), SystemClock(), batch_max=1, on_recorded=on_recorded)
    running = asyncio.create_task(recorder.run())
    await done.wait()
    running.cancel()
    await asyncio.wait([running])
    return sorted(times)[len(times) // 2] * 1_000


async def timed(name: str, count: int, run: Callable[[], Awaitable[float]]) -> float:
    """The rate of the middle of three runs, printed."""
    rates = sorted([count / await run() for _ in range(3)])
    print(f"{name:<44}{rates[1]:>12,.0f}/s   ({rates[0]:,.0f} to {rates[2]:,.0f})")
    return rates[1]


async def main(count: int, folder: Path) -> None:
    """Measure and print."""
    held = entries(count)
    print(f"{count:,} commits, bodies of {sum(len(e.body) for e in held) / count:.0f} bytes, batches of {BATCH:,}")
    runs = iter(range(1_000))

    async def into_sqlite() -> float:
        store = await SqlStore.open(folder / f"store-{next(runs)}.db")
        seconds = await recorded(held, store)
        await store.close()
        return seconds

    async def hashes() -> float:
        return merkle(held)

    await timed("Merkle leaf and frontier", count, hashes)
    await timed("recorder into memory", count, lambda: recorded(held, MemoryStore()))
    rate = await timed("recorder into SQLite", count, into_sqlite)
    bare = await timed(
        "bare driver, one hop, no lookups", count, lambda: bare_driver(held, folder / f"b{next(runs)}.db")
    )
    store = await SqlStore.open(folder / f"store-{next(runs)}.db")
    await recorded(held, store)
    await timed("read back in pages", count, lambda: read_back(store, count))
    await store.close()
    store = await SqlStore.open(folder / f"store-{next(runs)}.db")
    print(f"{'one commit, one transaction, median':<44}{await single(held[:1_000], store):>12.2f} ms")
    await store.close()
    print(f"recorder / bare driver{rate / bare:>34.2f}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory(dir=arguments[1] if len(arguments) > 1 else None) as scratch:
        asyncio.run(main(int(arguments[0]) if arguments else 50_000, Path(scratch)))
