"""A task's own budget: counted over its attempts, by what they say, and never passed on the quiet."""

from __future__ import annotations

from typing import Any

import pytest

from core.execution import Usage
from core.kernel.commit import Event
from core.kernel.errors import Unprocessable
from core.task import (
    AskTask,
    AttemptEnded,
    CancelRequested,
    CompleteTask,
    ExpireTask,
    FailTask,
    ProgressTask,
    Retry,
    Spent,
    TaskAsked,
    TaskCancelled,
    TaskCompleted,
    TaskExpired,
    TaskFailed,
    TaskProgressed,
    TaskQueued,
    TaskScheduled,
    TaskSubmitted,
    Used,
    left_of,
)
from tests.given import NOW_MS, Given, assigned, fold, given, submit, submitted, using

FENCE = 3
OVER = "It used 101 tokens; its budget is 100 (max_tokens)."
GOLDEN = [
    (
        TaskProgressed(fence=3, used=using(tokens=7, cost=0.25)),
        'task.progressed/1 {"fence":3,"used":{"project":"default","tokens":7,"cost":0.25}}',
    ),
    (
        TaskCompleted(fence=3, agent_id="a", started_ms=1, result={}, used=using(wall_ms=9, project="p")),
        'task.completed/1 {"fence":3,"agent_id":"a","started_ms":1,"result":{},"used":{"project":"p","wall_ms":9}}',
    ),
    (
        TaskAsked(fence=3, agent_id="a", question="?", used=using(tokens=0)),
        'task.asked/1 {"fence":3,"agent_id":"a","question":"?","used":{"project":"default","tokens":0}}',
    ),
    (
        AttemptEnded(fence=3, agent_id="a", outcome="budget_exceeded", error="x", used=using(tokens=1)),
        'task.attempt_ended/1 {"fence":3,"agent_id":"a","outcome":"budget_exceeded","error":"x",'
        '"used":{"project":"default","tokens":1}}',
    ),
    (
        CancelRequested(grace_s=5.0, reason="x", fails="budget_exceeded"),
        'task.cancel_requested/1 {"grace_s":5.0,"reason":"x","fails":"budget_exceeded"}',
    ),
    (TaskFailed(error="x", outcome="budget_exceeded"), 'task.failed/1 {"error":"x","outcome":"budget_exceeded"}'),
]


def running(*more: Event, **budget: Any) -> Given:
    """An attempt of a task that may use 100 tokens, or something else."""
    spec = submitted(**(budget or {"max_tokens": 100}))
    return given(spec, TaskQueued(), assigned(), *more)


def says(**usage: Any) -> ProgressTask:
    return ProgressTask(task_id="t", fence=FENCE, usage=Usage(**usage))


def completes(**usage: Any) -> CompleteTask:
    return CompleteTask(task_id="t", fence=FENCE, started_ms=NOW_MS, result={"value": 1}, usage=Usage(**usage))


def fails(usage: Usage | None = None, **changed: Any) -> FailTask:
    fields: dict[str, Any] = {"task_id": "t", "fence": FENCE, "outcome": "failed", "error": "no"}
    return FailTask(**(fields | changed), usage=usage)


def ended(outcome: Any, error: str, used: Used | None, result: Any = None, started_ms: int | None = None) -> Event:
    return AttemptEnded(
        fence=FENCE,
        agent_id="a",
        outcome=outcome,
        error=error,
        type="greet",
        used=used,
        result=result,
        started_ms=started_ms,
    )


def told(**used: Any) -> TaskProgressed:
    return TaskProgressed(fence=FENCE, used=using(**used))


def test_an_old_submission_has_no_budget_and_a_new_one_says_its_own() -> None:
    spec = (
        given().when(submit(max_tokens=100, max_cost=0.5)).then(submitted(max_tokens=100, max_cost=0.5), TaskQueued())
    )
    assert left_of(spec) == Usage(tokens=100, cost=0.5)
    assert left_of(fold("task", [submitted()])) == Usage()


@pytest.mark.parametrize("value", [0, -1, -0.5])
@pytest.mark.parametrize("field", ["max_tokens", "max_cost"])
def test_a_budget_of_nothing_is_refused_by_its_own_name(field: str, value: Any) -> None:
    error = given().when(submit(**{field: value})).then_raises(Unprocessable, code="zero_budget", pointer=f"/{field}")
    assert error.sentence == f"A budget of {value:g} is spent before anything begins."


def test_each_word_counts_what_came_on_top_of_the_last() -> None:
    said = says(tokens=30, cost=0.3)
    state = running().when(said).then(told(tokens=30, cost=0.3))
    assert state.spent == Spent(30, 300_000_000)
    more = running(told(tokens=30, cost=0.1)).when(says(tokens=50, cost=0.3)).then(told(tokens=20, cost=0.2))
    assert (more.spent, left_of(more)) == (Spent(50, 300_000_000), Usage(tokens=50))


def test_a_word_that_comes_twice_or_too_late_counts_nothing() -> None:
    state = running(told(tokens=30)).when(says(tokens=30)).then(told(tokens=0))
    running(told(tokens=30)).when(says(tokens=20)).then(told(tokens=0))
    assert state.spent.tokens == 30


def test_nothing_is_counted_of_what_nobody_tells() -> None:
    running().when(ProgressTask(task_id="t", fence=FENCE, current_step="a")).then(
        TaskProgressed(fence=FENCE, current_step="a")
    )
    running().when(says(cost=1.0)).then(told(cost=1.0))
    done = TaskCompleted(fence=FENCE, agent_id="a", started_ms=NOW_MS, result={"value": 1}, type="greet")
    running().when(CompleteTask(task_id="t", fence=FENCE, started_ms=NOW_MS, result={"value": 1})).then(done)


def test_the_end_of_an_attempt_tells_how_long_it_held_its_slot() -> None:
    used = using(tokens=5, wall_ms=700, project="p")
    done = TaskCompleted(fence=FENCE, agent_id="a", started_ms=NOW_MS, result={"value": 1}, type="greet", used=used)
    state = running(project="p").when(completes(tokens=5), now_ms=NOW_MS + 700).then(done)
    assert state.spent == Spent(5, 0, 700)
    running(project="p").when(completes(tokens=5), now_ms=NOW_MS - 700).then(
        TaskCompleted(
            fence=FENCE,
            agent_id="a",
            started_ms=NOW_MS,
            result={"value": 1},
            type="greet",
            used=using(tokens=5, project="p"),
        )
    )


def test_an_attempt_that_passes_the_budget_is_stopped_and_its_task_fails() -> None:
    stop = CancelRequested(grace_s=5.0, reason=OVER, fails="budget_exceeded")
    running().when(says(tokens=100)).then(told(tokens=100))
    state = running().when(says(tokens=101)).then(told(tokens=101), stop)
    assert (state.cancelling, state.overrun) == (True, True)
    over = running(told(tokens=101), stop)
    over.when(says(tokens=102)).then(told(tokens=1))
    end = TaskFailed(error=OVER, outcome="budget_exceeded")
    over.when(fails(outcome="cancelled", error="stopped")).then(ended("budget_exceeded", OVER, None), end)
    over.when(ExpireTask(task_id="t", fence=FENCE, outcome="crashed", error="It died.")).then(
        ended("crashed", "It died.", None),
        TaskFailed(
            error="Its attempts used the 100 tokens of its budget (max_tokens). It died.", outcome="budget_exceeded"
        ),
    )
    assert over.when(AskTask(task_id="t", fence=FENCE, question="?")).then(
        ended("budget_exceeded", OVER, None), end
    ).status == ("failed")


def test_work_that_was_done_over_the_budget_fails_and_its_result_is_kept() -> None:
    used = using(tokens=101)
    end = TaskFailed(error=OVER, outcome="budget_exceeded")
    result = {"value": 1}
    running().when(completes(tokens=101)).then(ended("budget_exceeded", OVER, used, result, NOW_MS), end)
    running(max_cost=0.1).when(completes(cost=0.3)).then(
        ended("budget_exceeded", said := "It cost 0.3; its budget is 0.1 (max_cost).", using(cost=0.3), result, NOW_MS),
        TaskFailed(error=said, outcome="budget_exceeded"),
    )
    assert running().when(completes(tokens=100)).then(
        TaskCompleted(fence=FENCE, agent_id="a", started_ms=NOW_MS, result=result, type="greet", used=using(tokens=100))
    ).status == ("completed")


def test_a_budget_spans_all_attempts() -> None:
    before = (told(tokens=60), ended("failed", "no", None), TaskScheduled(not_before_ms=NOW_MS), TaskQueued())
    again = running(*before, assigned(attempt=2))
    second = {"task_id": "t", "fence": 8}
    again.when(ProgressTask(**second, usage=Usage(tokens=40))).then(TaskProgressed(fence=8, used=using(tokens=40)))
    again.when(ProgressTask(**second, usage=Usage(tokens=41))).then(
        TaskProgressed(fence=8, used=using(tokens=41)),
        CancelRequested(grace_s=5.0, reason=OVER, fails="budget_exceeded"),
    )


def test_nothing_is_tried_again_with_nothing_left() -> None:
    retry = Retry(initial_interval_ms=0)
    spec = {"max_tokens": 100, "retry": retry}
    running(**spec).when(fails(Usage(tokens=99))).then(
        ended("failed", "no", using(tokens=99)), TaskScheduled(not_before_ms=NOW_MS)
    )
    sentence = "Its attempts used the 100 tokens of its budget (max_tokens). no"
    running(**spec).when(fails(Usage(tokens=100))).then(
        ended("failed", "no", using(tokens=100)), TaskFailed(error=sentence, outcome="budget_exceeded")
    )
    running(**spec).when(fails(Usage(tokens=100), outcome="interrupted")).then(
        ended("interrupted", "no", using(tokens=100)), TaskFailed(error=sentence, outcome="budget_exceeded")
    )
    running(**spec).when(fails(Usage(tokens=100), retryable=False)).then(
        ended("failed", "no", using(tokens=100)), TaskFailed(error="no", outcome="failed")
    )
    running(max_cost=0.5).when(AskTask(task_id="t", fence=FENCE, question="?", usage=Usage(cost=0.5))).then(
        ended("budget_exceeded", said := "Its attempts used the 0.5 of its budget (max_cost).", using(cost=0.5)),
        TaskFailed(error=said, outcome="budget_exceeded"),
    )


@pytest.mark.parametrize(
    ("asked", "end"),
    [
        (CancelRequested(grace_s=5.0, reason="enough"), TaskCancelled(reason="enough")),
        (CancelRequested(grace_s=5.0, expires="total_timeout"), TaskExpired(reason="total_timeout")),
    ],
)
def test_what_is_being_stopped_already_ends_as_it_was_to_end(asked: Event, end: Event) -> None:
    stopping = running(asked)
    stopping.when(says(tokens=500)).then(told(tokens=500))
    stopping.when(fails(Usage(tokens=500), outcome="cancelled", error="stopped")).then(
        ended("cancelled", "stopped", using(tokens=500)), end
    )


def test_a_replay_has_the_same_budget_anew() -> None:
    spec: TaskSubmitted = submitted(max_tokens=100)
    state = fold("task", [spec, TaskQueued(), assigned(), told(tokens=101)])
    assert (left_of(state), left_of(fold("task", [spec]))) == (Usage(tokens=0), Usage(tokens=100))
