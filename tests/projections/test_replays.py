"""What a replay is of, as of any position."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.replay import Picked, ReplayStarted
from core.task import AttemptEnded, TaskFailed, TaskQueued
from projections.catalogue import VIEWS
from projections.queue import ShowQueue, show_queue
from projections.replays import pick
from projections.task_queries import ShowTask, show_task
from tests.given import History, ask, assigned, projected, submitted

pytestmark = pytest.mark.usefixtures("each_database")

FAILED = (AttemptEnded(fence=2, agent_id="a", outcome="failed", error="x"), TaskFailed(error="x", outcome="failed"))


def failed_and_replayed() -> History:
    """`a` and `b` fail (3 and 6), then `a` is replayed twice (7 and 8)."""
    history = History()
    for id_ in ("a", "b"):
        history.commit("task", id_, submitted(), TaskQueued())
        history.commit("task", id_, assigned())
        history.commit("task", id_, *FAILED)
    for id_ in ("a1", "a2"):
        history.commit("task", id_, submitted(replay_of="a"), TaskQueued())
    return history


@pytest.mark.parametrize(
    ("at", "picked", "forced", "dead"),
    [
        (2, [], [], 0),
        (3, ["a"], ["a"], 1),
        (6, ["a", "b"], ["a", "b"], 2),
        (7, ["b"], ["a", "b"], 1),
        (None, ["b"], ["a", "b"], 1),
    ],
    ids=str,
)
async def test_what_failed_is_picked_unless_it_was_replayed(
    tmp_path: Path, at: int | None, picked: list[str], forced: list[str], dead: int
) -> None:
    asked = ReplayStarted(status="failed", limit=10)
    async with projected(tmp_path, VIEWS, failed_and_replayed()) as views:
        found = await ask(views, pick, asked, at)
        assert found == Picked(len(forced), len(forced) - len(picked), picked)
        found = await ask(views, pick, ReplayStarted(status="failed", limit=10, force=True), at)
        assert found.tasks == forced
        assert (await ask(views, show_queue, ShowQueue(), at))["dead_lettered"] == dead


async def test_a_task_tells_its_replays_the_newest_first(tmp_path: Path) -> None:
    async with projected(tmp_path, VIEWS, failed_and_replayed()) as views:
        told = [(await ask(views, show_task, ShowTask(task_id="a"), at))["replayed_by"] for at in (6, 7, None)]
        assert told == [[], ["a1"], ["a2", "a1"]]
