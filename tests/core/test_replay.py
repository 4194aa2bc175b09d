"""A replay: a new task that asks for the same as one that ended badly."""

from __future__ import annotations

from typing import Any

import pytest

from core.kernel.errors import Refused, Unprocessable
from core.replay import Replay, ReplayStarted, StartReplay
from core.task import (
    ReplayTask,
    TaskCancelled,
    TaskCompleted,
    TaskExpired,
    TaskFailed,
    TaskQueued,
)
from tests.given import NOW_MS, assigned, given, submitted

TIMED = submitted(
    name="first", deadline_ms=NOW_MS + 5, not_before_ms=NOW_MS + 1, total_timeout_s=9.0, schedule_id="s", due_ms=7
)
GOLDEN = [
    (
        submitted(agent_type=None, parameters={}, replay_of="t", schedule_id="s", due_ms=7),
        'task.submitted/1 {"type":"greet","executor":"command","parameters":{},"requires":[],"priority":5,'
        '"timeout_s":60.0,"retry":{"max_attempts":3,"max_crashes":5,"initial_interval_ms":1000,'
        '"backoff_multiplier":2.0,"max_interval_ms":60000,"non_retryable":[],"avoid_last_agent":false},'
        '"project":"default","replay_of":"t","schedule_id":"s","due_ms":7}',
    ),
    (
        ReplayStarted(status="failed", limit=100),
        'replay.started/1 {"status":"failed","limit":100}',
    ),
    (
        ReplayStarted(
            status="expired",
            limit=1,
            type="report",
            project="p",
            agent_type="shell",
            outcome="deadline",
            with_correlation_id="c",
            since_ms=1,
            until_ms=2,
            force=True,
        ),
        'replay.started/1 {"status":"expired","limit":1,"type":"report","project":"p","agent_type":"shell",'
        '"outcome":"deadline","with_correlation_id":"c","since_ms":1,"until_ms":2,"force":true}',
    ),
]


@pytest.mark.parametrize(
    "end",
    [TaskFailed(error="no", outcome="failed"), TaskExpired(reason="deadline"), TaskCancelled()],
    ids=["failed", "expired", "cancelled"],
)
def test_what_ended_badly_is_asked_for_again_without_its_times(end: Any) -> None:
    again = submitted(name="first", total_timeout_s=9.0, replay_of="t")
    state = given(TIMED, TaskQueued(), end).when(ReplayTask(task_id="t")).then(again, TaskQueued())
    assert (state.status, state.attempt) == ("queued", 0)


@pytest.mark.parametrize(
    "history",
    [(), (assigned(),), (assigned(), TaskCompleted(fence=3, agent_id="a", started_ms=NOW_MS, result={}))],
    ids=["queued", "assigned", "completed"],
)
def test_what_has_not_ended_or_ended_well_is_not_replayed(history: tuple[Any, ...]) -> None:
    given(submitted(), TaskQueued(), *history).when(ReplayTask(task_id="t")).then_raises(Refused, code="not_replayable")


# Many at once


def test_a_replay_of_many_keeps_what_it_was_asked_and_where_it_looks() -> None:
    asked = StartReplay(status="failed", type="report", since="2027-01-15T08:00:00Z", until="2027-01-15T09:00:00Z")
    started = ReplayStarted(status="failed", limit=100, type="report", since_ms=NOW_MS, until_ms=NOW_MS + 3_600_000)
    assert given().when(asked).then(started) == Replay(started, 1)


def test_a_window_in_which_nothing_can_have_ended_is_refused() -> None:
    asked = StartReplay(status="failed", since="2027-01-15T09:00:00Z", until="2027-01-15T09:00:00Z")
    given().when(asked).then_raises(Unprocessable, code="empty_window", pointer="/until")
