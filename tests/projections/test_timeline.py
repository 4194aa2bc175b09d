from __future__ import annotations

from pathlib import Path

import pytest

from core.kernel.outcomes import RefusalsSuppressed
from core.task import TaskCancelled, TaskQueued
from projections.catalogue import VIEWS
from projections.timeline import Timeline, history_of, timeline
from tests.given import CORRELATION, NOW_MS, History, command_id, projected, rows_of, spawned, submitted

pytestmark = pytest.mark.usefixtures("each_database")


def a_history() -> History:
    history = History()
    history.commit("task", "t", submitted(), TaskQueued(), command="task.submit")
    history.now_ms += 10
    history.commit("agent", "a", spawned(), command="agent.spawn", actor="grace")
    history.commit("task", "t", TaskCancelled(), command="task.cancel", actor="grace")
    history.commit("refusal", "r", RefusalsSuppressed(count=2), command="refusals.suppress")
    return history


def row(position: int, index: int, type_: str, noun: str, id_: str, actor: str, command: str) -> dict[str, object]:
    return {
        "position": position,
        "index": index,
        "time_ms": NOW_MS if position == 1 else NOW_MS + 10,
        "type": type_,
        "noun": noun,
        "aggregate_id": id_,
        "actor": actor,
        "command": command,
        "correlation_id": CORRELATION,
        "causation_id": str(command_id(position)),
    }


ROWS = [
    row(1, 0, "task.submitted", "task", "t", "ada", "task.submit"),
    row(1, 1, "task.queued", "task", "t", "ada", "task.submit"),
    row(2, 0, "agent.spawned", "agent", "a", "grace", "agent.spawn"),
    row(3, 0, "task.cancelled", "task", "t", "grace", "task.cancel"),
    row(4, 0, "refusals.suppressed", "refusal", "r", "ada", "refusals.suppress"),
]


def test_every_event_of_every_noun_is_a_row() -> None:
    assert [row for commit in a_history().commits for row in Timeline().rows(commit)] == ROWS


async def test_the_table_holds_the_rows_in_order(tmp_path: Path) -> None:
    async with projected(tmp_path, VIEWS, a_history()) as views:
        assert await rows_of(views, timeline.select().order_by(timeline.c.position, timeline.c.index)) == ROWS


async def test_the_history_of_an_aggregate_is_its_own_and_ends_at_the_position(tmp_path: Path) -> None:
    async with projected(tmp_path, VIEWS, a_history()) as views:
        seen = {}
        for at in (None, 2):
            async with views.reader(at=at, now_ms=NOW_MS) as reader:
                found = await history_of(reader, "task", "t")
                seen[at] = [(event["position"], event["type"], event["actor"]) for event in found]
                assert await history_of(reader, "agent", "t") == []
    first = [(1, "task.submitted", "ada"), (1, "task.queued", "ada")]
    assert seen == {None: [*first, (3, "task.cancelled", "grace")], 2: first}
