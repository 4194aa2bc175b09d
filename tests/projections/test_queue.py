from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.kernel.commit import Event
from core.task import (
    AttemptEnded,
    TaskAsked,
    TaskBlocked,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskQueued,
    TaskScheduled,
    TaskStarted,
)
from projections import queue as q
from projections.catalogue import VIEWS
from tests.given import NOW_MS, History, ask, assigned, projected, row_of, submitted

pytestmark = pytest.mark.usefixtures("each_database")

ENDED = AttemptEnded(fence=2, agent_id="a", outcome="failed", error="x")
COMPLETED = TaskCompleted(fence=2, agent_id="a", started_ms=NOW_MS, result={})


@pytest.mark.parametrize(
    ("commits", "state", "since_ms"),
    [
        ([], "queued", NOW_MS),
        ([(assigned(),)], "held", NOW_MS + 10),
        ([(assigned(),), (TaskStarted(fence=2, agent_id="a", started_ms=NOW_MS),)], "held", NOW_MS + 10),
        ([(assigned(),), (ENDED, TaskScheduled(not_before_ms=NOW_MS))], "scheduled", NOW_MS + 20),
        ([(assigned(),), (ENDED, TaskQueued())], "queued", NOW_MS + 20),
        ([(assigned(),), (ENDED, TaskFailed(error="x", outcome="failed"))], "dead_lettered", NOW_MS + 20),
        ([(assigned(),), (COMPLETED,)], None, 0),
        ([(TaskCancelled(),)], None, 0),
        ([(TaskBlocked(),)], "blocked", NOW_MS + 10),
        ([(assigned(),), (TaskAsked(fence=2, agent_id="a", question="?"),)], "input_required", NOW_MS + 20),
    ],
    ids=[
        "queued",
        "assigned",
        "running",
        "in back-off",
        "again",
        "failed",
        "completed",
        "cancelled",
        "blocked",
        "asking",
    ],
)
def test_a_task_stands_in_the_queue_until_it_ends_well(
    commits: list[tuple[Event, ...]], state: str | None, since_ms: int
) -> None:
    history = History()
    history.commit("task", "t", submitted(priority=7), TaskQueued())
    for events in commits:
        history.now_ms += 10
        history.commit("task", "t", *events)
    row = {"id": "t", "state": state, "type": "greet", "priority": 7, "since_ms": since_ms} if state else None
    assert row_of(q.Queue(), history, "t") == row


def a_morning() -> History:
    """Given six tasks, one a second: three wait, one is in back-off, one has failed, one is completed."""
    history = History()
    for number, (priority, kind) in enumerate([(5, "x"), (5, "y"), (9, "x"), (1, "x"), (1, "x"), (1, "x")]):
        history.now_ms += 1_000
        history.commit("task", f"t{number}", submitted(priority=priority, type=kind), TaskQueued())  # 1-6
    for number in (3, 4, 5):
        history.commit("task", f"t{number}", assigned())  # 7-9
    history.now_ms += 1_000
    history.commit("task", "t3", ENDED, TaskScheduled(not_before_ms=history.now_ms))  # 10
    history.commit("task", "t4", ENDED, TaskFailed(error="x", outcome="failed"))  # 11
    history.commit("task", "t5", COMPLETED)  # 12
    return history


async def shown(path: Path, *, at: int | None = None, now_ms: int) -> Any:
    async with projected(path, VIEWS, a_morning()) as views:
        return await ask(views, q.show_queue, q.ShowQueue(), at, now_ms)


async def test_the_queue_is_counted_by_priority_type_and_age(tmp_path: Path) -> None:
    assert await shown(tmp_path, now_ms=NOW_MS + 10_000) == {
        "depth": 3,
        "by_priority": {"5": 2, "9": 1},
        "by_type": {"x": 2, "y": 1},
        "oldest_age_s": 9.0,
        "throughput_per_minute": 1,
        "blocked": 0,
        "scheduled": 1,
        "input_required": 0,
        "dead_lettered": 1,
        "pauses": [],
        "unknown": {},
        "position": 12,
    }


async def test_throughput_counts_the_last_minute_only(tmp_path: Path) -> None:
    done_ms = NOW_MS + 7_000
    assert (await shown(tmp_path, now_ms=done_ms + 59_999))["throughput_per_minute"] == 1
    assert (await shown(tmp_path, now_ms=done_ms + 60_000))["throughput_per_minute"] == 0


async def test_the_queue_as_of_a_position_is_what_it_was_then(tmp_path: Path) -> None:
    then = await shown(tmp_path, at=6, now_ms=NOW_MS + 6_000)
    assert (then["depth"], then["by_priority"], then["oldest_age_s"]) == (6, {"5": 2, "9": 1, "1": 3}, 5.0)
    assert (then["scheduled"], then["dead_lettered"], then["throughput_per_minute"], then["position"]) == (0, 0, 0, 6)


async def test_an_empty_queue_has_no_age_and_says_why(tmp_path: Path) -> None:
    then = await shown(tmp_path, at=0, now_ms=NOW_MS)
    assert (then["depth"], then["oldest_age_s"], then["unknown"]) == (0, None, {"oldest_age_s": "nothing is queued"})
