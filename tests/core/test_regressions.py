"""Defects that were found once: each of these failed before it was mended."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import SQLAlchemyError

from adapters.memory.log import MemoryLog
from adapters.sql.verify import verify
from adapters.sql.views import SqlViews
from core.agent import AgentDraining, RemoveAgent
from core.kernel.codec import Undecodable
from core.kernel.errors import HivebusError
from core.kernel.outcomes import CommandRefused, RefusalsSuppressed
from core.kernel.refusals import PER_SECOND_MAX, RefusalLedger
from core.task import TaskQueued
from projections.catalogue import VIEWS
from projections.timeline import Timeline
from tests.core.test_codec import entry, written
from tests.core.test_dispatch import World as Door
from tests.core.test_refusals import events_of, refuse
from tests.given import CODEC, History, ManualClock, Simulation, submitted
from tests.projections.test_row_versions import POISON, SPAWN, Boxes, agents
from tests.projections.test_verify import made
from tests.scene import Scene, claim, names


def test_a_draining_agent_does_not_retire_while_an_assignment_to_it_is_under_way() -> None:
    scene = Scene().host().agent().task()
    assert names(scene.decides()) == [("t", "a")]
    scene.overlay.hold("t", claim())
    scene.has("agent", "a", AgentDraining())
    assert [d.command for d in scene.decides() if isinstance(d.command, RemoveAgent)] == []


def test_a_part_that_is_being_cancelled_is_not_called_again_when_its_parent_is_cancelled() -> None:
    # It was called without end, as often as the loop turned, until its grace was over.
    steps = [("submit", 2), ("part", 5), ("rest", 7), ("cancel", 4), ("clock", 2), ("cancel", 7)]
    simulation = Simulation.after(steps)
    simulation.arrive()
    assert simulation.fleet.children.recalled == {}
    simulation.rest()


class Slow(MemoryLog):
    """An append takes a turn of the loop, as on a wire."""

    async def append(self, subject: str, commit_id: str, body: bytes, *, expected: int) -> int:
        for _ in range(3):
            await asyncio.sleep(0)
        return await super().append(subject, commit_id, body, expected=expected)


async def test_refusals_that_come_while_their_count_is_written_are_counted() -> None:
    log, clock = Slow(), ManualClock()
    ledger = RefusalLedger(log, CODEC, clock)
    await refuse(ledger, PER_SECOND_MAX + 3)
    clock.advance(1.0)
    flushing = asyncio.create_task(ledger.flush())
    await asyncio.sleep(0)
    await refuse(ledger, 4)
    await flushing
    clock.advance(1.0)
    await ledger.flush()
    events = [event for _, event in await events_of(log)]
    counted = sum(event.count for event in events if isinstance(event, RefusalsSuppressed))
    written = sum(isinstance(event, CommandRefused) for event in events)
    assert counted + written == PER_SECOND_MAX + 3 + 4


def test_an_event_older_than_any_upcaster_is_undecodable_and_nothing_else_is_raised() -> None:
    with pytest.raises(Undecodable):
        CODEC.decode(entry(written({"type": "task.queued", "schema": 0, "data": {}})))


@pytest.mark.parametrize("at", ["²", "9" * 5000], ids=["a superscript", "five thousand digits"])
async def test_digits_that_are_no_number_are_refused_with_a_pointer(at: str) -> None:
    with pytest.raises(HivebusError):
        await Door().asks("t", at=at)


def test_verify_names_a_json_cell_that_is_no_json(tmp_path: Path) -> None:
    history = History()
    history.commit("task", "t", submitted(), TaskQueued())
    asyncio.run(made(tmp_path, history))
    with sqlite3.connect(tmp_path / "views.db") as connection:
        connection.execute("UPDATE tasks SET attempts = '['")
    report = verify(tmp_path / "store.db", tmp_path / "views.db", VIEWS, CODEC, lambda p, e: None)
    assert report.difference is not None
    assert (report.difference.view, report.difference.column) == ("tasks", "attempts")


def test_verify_tells_true_from_one_in_a_json_cell(tmp_path: Path) -> None:
    history = History()
    history.commit("task", "t", submitted(parameters={"n": 1}), TaskQueued())
    asyncio.run(made(tmp_path, history))
    with sqlite3.connect(tmp_path / "views.db") as connection:
        connection.execute("""UPDATE task_specs SET parameters = '{"n":true}'""")
    report = verify(tmp_path / "store.db", tmp_path / "views.db", VIEWS, CODEC, lambda p, e: None)
    assert report.difference is not None


async def test_a_parking_that_was_rolled_back_is_not_remembered(tmp_path: Path) -> None:
    """A later view's table fails (as a full disk would): the transaction is undone, and so must be the parking."""
    history = agents(("a", [SPAWN]), ("a", [POISON]))
    views = await SqlViews.open(tmp_path / "views.db", [Boxes(), Timeline()])
    try:

        def break_it(connection: Any) -> None:
            connection.exec_driver_sql("ALTER TABLE timeline RENAME TO hidden")

        await views._engines.thread.transact(break_it)
        with pytest.raises(SQLAlchemyError):
            await views.apply(history.commits, 2)
        assert (views.position, views.parked) == (0, 0)
    finally:
        await views.close()
