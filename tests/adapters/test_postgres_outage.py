"""A real Postgres that is killed, restarted, or cut off at a COMMIT: no position is lost or written twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec import Struct

from adapters.clock import SystemClock
from adapters.memory.log import MemoryLog
from adapters.sql.postgres import Postgres, connect_to
from adapters.sql.store import SqlStore
from adapters.sql.verify import verify
from adapters.sql.views import SqlViews
from core.kernel.errors import Unavailable
from core.kernel.ports import CheckpointMoved
from core.services.positions import PositionGate
from core.services.projector import Projector
from core.services.recorder import Recorder
from core.task import TaskQueued
from projections.catalogue import VIEWS
from projections.queue import ShowQueue, show_queue
from tests.cut import wire_to
from tests.given import CODEC, History, ask, running, submitted, until
from tests.places import schema_for
from tests.postgres import PostgresCluster

pytestmark = [pytest.mark.peers, pytest.mark.timeout(120)]

TASKS = 400
CATCH_UP_S = 60.0
SEED = 7


@pytest.fixture
def own() -> Iterator[PostgresCluster]:
    """A server that this test may kill."""
    with PostgresCluster() as cluster:
        yield cluster


class World(Struct):
    """A log that is written to, and a store and views that follow it."""

    log: MemoryLog
    store: SqlStore
    views: SqlViews
    recorder: Recorder
    projector: Projector
    recorded: PositionGate
    applied: PositionGate


@asynccontextmanager
async def following(store_at: Postgres, views_at: Postgres) -> AsyncIterator[World]:
    store = await SqlStore.open(store_at)
    views = await SqlViews.open(views_at, VIEWS)
    log, clock, recorded, applied = MemoryLog(), SystemClock(), PositionGate(), PositionGate()
    recorder = Recorder(log, store, CODEC, clock, batch_max=20, on_recorded=recorded.advance)
    projector = Projector(store, views, CODEC, recorded, applied.advance)
    try:
        async with running(recorder.run(), projector.run()):
            yield World(log, store, views, recorder, projector, recorded, applied)
    finally:
        await views.close()
        await store.close()


def a_history() -> History:
    history = History()
    for number in range(TASKS):
        history.commit("task", f"t{number}", submitted(), TaskQueued())
    return history


async def write(log: MemoryLog, history: History) -> None:
    for entry in history.entries:
        await log.append(entry.subject, entry.commit_id, entry.body, expected=0)
        await asyncio.sleep(0)


async def everything_is_there_once(world: World, history: History, store_at: Postgres, views_at: Postgres) -> None:
    assert await world.applied.wait_for(history.head, CATCH_UP_S)
    assert [stored.entry for stored in await world.store.read(after=0, limit=10_000)] == history.entries
    assert (await ask(world.views, show_queue, ShowQueue()))["depth"] == TASKS
    report = await asyncio.to_thread(verify, store_at, views_at, VIEWS, CODEC, lambda position, end: None)
    assert (report.difference, report.position) == (None, history.head)
    assert (world.recorder.trouble, world.projector.trouble) == (None, None)


async def test_a_database_killed_again_and_again_under_writes_ends_with_every_position_once(
    own: PostgresCluster, tmp_path: Path
) -> None:
    places = schema_for(own.url, tmp_path / "store"), schema_for(own.url, tmp_path / "views")
    history, chance = a_history(), random.Random(SEED)
    async with following(*places) as world:
        writing = asyncio.create_task(write(world.log, history))
        for _ in range(4):
            seen = world.recorded.position
            await world.recorded.wait_for(min(history.head, seen + chance.randrange(20, 60)), CATCH_UP_S)
            await asyncio.to_thread(own.kill)
            with pytest.raises(Unavailable) as refused:
                await ask(world.views, show_queue, ShowQueue())
            assert refused.value.code == "database_unavailable"
            await asyncio.to_thread(own.start)
        await writing
        await everything_is_there_once(world, history, *places)


async def test_a_server_that_is_shut_down_and_started_again_is_waited_for(own: PostgresCluster, tmp_path: Path) -> None:
    places = schema_for(own.url, tmp_path / "store"), schema_for(own.url, tmp_path / "views")
    history = a_history()
    async with following(*places) as world:
        await asyncio.to_thread(own.stop)
        await write(world.log, history)
        await until(lambda: world.recorder.trouble is not None, "the recorder to notice")
        assert world.recorder.trouble is not None
        assert f"127.0.0.1:{own.port}/postgres" in world.recorder.trouble
        assert "tests" not in world.recorder.trouble, "the password is nobody's to see"
        await asyncio.to_thread(own.start)
        await everything_is_there_once(world, history, *places)


@pytest.mark.parametrize("how", ["lost", "unanswered"])
async def test_a_connection_that_breaks_at_a_commit_is_resolved_by_the_checkpoint(
    postgres: PostgresCluster, tmp_path: Path, how: str
) -> None:
    history = a_history()
    async with wire_to(postgres.port) as wire:
        url = postgres.url.replace(str(postgres.port), str(wire.port))
        places = schema_for(url, tmp_path / "store"), schema_for(url, tmp_path / "views")
        async with following(*places) as world:
            wire.cuts = [how] * 8
            await write(world.log, history)
            await everything_is_there_once(world, history, *places)
            assert wire.struck == 8


@pytest.fixture
async def rivals(postgres: PostgresCluster, tmp_path: Path) -> AsyncIterator[tuple[SqlViews, SqlViews]]:
    """Two programs on one schema."""
    at = schema_for(postgres.url, tmp_path)
    first, second = await asyncio.gather(SqlViews.open(at, VIEWS), SqlViews.open(at, VIEWS))
    yield first, second
    await first.close()
    await second.close()


async def test_of_two_projectors_the_one_that_is_behind_stops(rivals: tuple[SqlViews, SqlViews]) -> None:
    first, second = rivals
    await first.apply([], 2)
    with pytest.raises(CheckpointMoved, match="no longer stands at 0"):
        await second.apply([], 3)
    await second.refresh()
    await second.apply(a_history().commits[:3], 3)
    assert second.position == 3


async def test_a_refresh_waits_for_the_transaction_whose_connection_was_lost(
    rivals: tuple[SqlViews, SqlViews], postgres: PostgresCluster, tmp_path: Path
) -> None:
    views, _ = rivals
    lost = await connect_to(schema_for(postgres.url, tmp_path), {}, None)
    await lost.execute("BEGIN; UPDATE view_state SET position = 9")
    refreshing = asyncio.create_task(views.refresh())
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with asyncio.timeout(CATCH_UP_S):
        while not await lost.fetchval(waiting):
            assert not refreshing.done()
            await asyncio.sleep(0.01)
    await lost.execute("COMMIT")
    await refreshing
    assert views.position == 9
    await lost.close()
