"""What time alone does to a task: it begins, it expires, its silence ends an attempt."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from core.execution import SIGN_OF_LIFE, Progress
from core.kernel.errors import Refused, Unprocessable
from core.kernel.times import rfc3339
from core.scheduling.policy import Decision, next_due_ms
from core.scheduling.timers import enter
from core.task import (
    AttemptEnded,
    CancelRequested,
    CancelTask,
    CompleteTask,
    EndOverdueTask,
    FailTask,
    QueueTask,
    SubmitTask,
    TaskCancelled,
    TaskCompleted,
    TaskExpired,
    TaskQueued,
    TaskScheduled,
    TaskStarted,
)
from tests.core.test_agent_host import World, failed, living
from tests.given import CORRELATION, NOW_MS, assigned, given, quiet, submit, submitted
from tests.scene import Scene, names

GOLDEN = [
    (TaskExpired(reason="deadline"), 'task.expired/1 {"reason":"deadline"}'),
    (
        CancelRequested(grace_s=5.0, expires="total_timeout"),
        'task.cancel_requested/1 {"grace_s":5.0,"expires":"total_timeout"}',
    ),
]
TIMES = {"not_before": NOW_MS + 1_000, "deadline": NOW_MS + 2_000}
QUEUED = (submitted(), TaskQueued())
ASSIGNED = (*QUEUED, assigned())
TOTAL_OVER = CancelRequested(grace_s=5.0, reason="its total_timeout_s is over", expires="total_timeout")


def said(ms: int) -> str:
    return str(rfc3339(ms))


def overdue(task: str, cause: int, reason: Any, attempt: int = 0) -> Decision:
    return Decision(task, EndOverdueTask(task_id=task, attempt=attempt, reason=reason), CORRELATION, cause)


def ends(attempt: int = 0, reason: Any = "deadline") -> EndOverdueTask:
    return EndOverdueTask(task_id="t", attempt=attempt, reason=reason)


# What a submission may say


def test_a_task_with_a_later_beginning_is_scheduled_until_then() -> None:
    spec = submitted(
        not_before_ms=NOW_MS + 1_000,
        deadline_ms=NOW_MS + 2_000,
        queue_timeout_s=3.0,
        total_timeout_s=9.0,
        silence_timeout_s=4.0,
    )
    times = {name: said(ms) for name, ms in TIMES.items()}
    state = (
        given()
        .when(submit(**times, queue_timeout_s=3.0, total_timeout_s=9.0, silence_timeout_s=4.0))
        .then(spec, TaskScheduled(not_before_ms=NOW_MS + 1_000))
    )
    assert (state.status, state.not_before_ms) == ("scheduled", NOW_MS + 1_000)


def test_a_beginning_that_has_passed_says_nothing() -> None:
    given().when(submit(not_before=said(NOW_MS))).then(submitted(), TaskQueued())


@pytest.mark.parametrize(
    ("fields", "code", "pointer"),
    [
        ({"deadline": said(NOW_MS)}, "deadline_passed", "/deadline"),
        (
            {"deadline": said(NOW_MS + 1_000), "not_before": said(NOW_MS + 1_000)},
            "deadline_before_start",
            "/deadline",
        ),
        (
            {"total_timeout_s": 1.0, "not_before": said(NOW_MS + 1_000)},
            "timeout_before_start",
            "/total_timeout_s",
        ),
        ({"deadline": "2030-13-01T00:00:00Z"}, "invalid_field", "/deadline"),
        ({"not_before": "2030-01-01"}, "invalid_field", "/not_before"),
    ],
    ids=["passed", "before its beginning", "over before it begins", "no such month", "no time of day"],
)
def test_times_at_which_nothing_could_ever_start_are_refused_each_with_its_own_error(
    fields: dict[str, Any], code: str, pointer: str
) -> None:
    given().when(submit(**fields)).then_raises(Unprocessable, code=code, pointer=pointer)


@pytest.mark.parametrize("field", ["queue_timeout_s", "total_timeout_s", "silence_timeout_s"])
def test_a_timeout_of_zero_does_not_decode(field: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert({"type": "x", "parameters": {}, field: 0}, SubmitTask)


# What the end of its time does to a task


@pytest.mark.parametrize("reason", ["deadline", "queue_timeout", "total_timeout"])
def test_a_task_that_waits_ends_when_its_time_is_up(reason: Any) -> None:
    assert given(*QUEUED).when(ends(reason=reason)).then(TaskExpired(reason=reason)).status == "expired"


def test_an_attempt_is_asked_to_stop_and_then_the_task_has_expired() -> None:
    given(*ASSIGNED).when(ends(1, "total_timeout")).then(TOTAL_OVER)
    asked = given(*ASSIGNED, TOTAL_OVER)
    stopped = AttemptEnded(fence=3, agent_id="a", outcome="cancelled", error="stopped", type=QUEUED[0].type)
    asked.when(FailTask(task_id="t", fence=3, outcome="cancelled", error="stopped")).then(
        stopped, TaskExpired(reason="total_timeout")
    )
    done = TaskCompleted(fence=3, agent_id="a", started_ms=NOW_MS, result={}, type=QUEUED[0].type)
    asked.when(CompleteTask(task_id="t", fence=3, started_ms=NOW_MS, result={})).then(done)
    asked.when(ends(1, "total_timeout")).then()
    asked.when(CancelTask(task_id="t")).then()


@pytest.mark.parametrize("reason", ["deadline", "queue_timeout"])
def test_what_has_begun_is_not_ended_for_having_waited(reason: Any) -> None:
    given(*ASSIGNED).when(ends(1, reason)).then_raises(Refused, code="not_overdue")


def test_whoever_has_not_seen_the_last_attempt_ends_nothing() -> None:
    back = AttemptEnded(fence=3, agent_id="a", outcome="crashed", error="x")
    given(*ASSIGNED, back, TaskQueued()).when(ends(0, "queue_timeout")).then_raises(Refused, code="not_overdue")


def test_what_has_ended_stays_as_it_ended() -> None:
    given(*QUEUED, TaskCancelled()).when(ends()).then()
    given(*QUEUED, TaskExpired(reason="deadline")).when(ends()).then()
    given(*QUEUED, TaskExpired(reason="deadline")).when(CancelTask(task_id="t")).then_raises(
        Refused, code="illegal_transition"
    )


# When the scheduler says so


def test_at_its_deadline_a_task_that_waits_expires_and_is_given_to_nobody() -> None:
    scene = Scene().host().agent().task(deadline_ms=NOW_MS + 50)
    assert next_due_ms(scene.fleet) is None
    assert names(scene.decides(now_ms=NOW_MS + 49, limit=0)) == []
    assert next_due_ms(scene.fleet) == NOW_MS + 50
    assert scene.decides(now_ms=NOW_MS + 50) == [overdue("t", 3, "deadline")]


def test_a_task_that_has_begun_goes_on_after_its_deadline_and_is_not_begun_again() -> None:
    scene = Scene().host().agent().task(deadline_ms=NOW_MS + 50).has("task", "t", assigned())
    assert scene.decides(now_ms=NOW_MS + 60) == []
    scene.has("task", "t", AttemptEnded(fence=4, agent_id="a", outcome="crashed", error="x"), TaskQueued())
    assert scene.decides(now_ms=NOW_MS + 60) == [overdue("t", 5, "deadline", attempt=1)]


def test_each_stay_in_the_queue_may_last_for_the_queue_timeout() -> None:
    scene = Scene().host().task(queue_timeout_s=1.0).has("task", "t", assigned(), after_ms=900)
    scene.has(
        "task", "t", AttemptEnded(fence=3, agent_id="a", outcome="crashed", error="x"), TaskQueued(), after_ms=900
    )
    assert scene.decides(now_ms=NOW_MS + 1_800 + 999) == []
    assert scene.decides(now_ms=NOW_MS + 1_800 + 1_000) == [overdue("t", 4, "queue_timeout", attempt=1)]


def test_the_time_before_a_task_is_queued_is_no_stay() -> None:
    scene = Scene()
    spec = submitted(queue_timeout_s=1.0, not_before_ms=NOW_MS + 5_000)
    scene.has("task", "t", spec, TaskScheduled(not_before_ms=NOW_MS + 5_000))
    assert scene.decides(now_ms=NOW_MS + 5_000) == [Decision("t", QueueTask(task_id="t"), CORRELATION, 1)]


def test_the_total_timeout_ends_whatever_it_finds() -> None:
    waits = Scene().host().task(total_timeout_s=2.0)
    assert waits.decides(now_ms=NOW_MS + 1_999) == []
    assert waits.decides(now_ms=NOW_MS + 2_000) == [overdue("t", 2, "total_timeout")]
    runs = Scene().host().task(total_timeout_s=2.0).has("task", "t", assigned())
    runs.has("task", "t", TaskStarted(fence=3, agent_id="a", started_ms=NOW_MS))
    assert runs.decides(now_ms=NOW_MS + 2_000) == [overdue("t", 4, "total_timeout", attempt=1)]
    runs.has("task", "t", TOTAL_OVER)
    assert runs.decides(now_ms=NOW_MS + 2_000) == []


def test_an_overdue_task_whose_command_was_refused_is_looked_at_again() -> None:
    scene = Scene().host().task(deadline_ms=NOW_MS + 50)
    for _ in range(3):
        assert scene.decides(now_ms=NOW_MS + 50) == [overdue("t", 2, "deadline")]
        scene.overlay.hold("t")
        assert scene.decides(now_ms=NOW_MS + 50) == []
        scene.overlay.settle("t", scene.fleet.position)
        scene.overlay.sweep(scene.fleet)


def test_a_clock_that_jumps_makes_timers_late_or_early_and_loses_none() -> None:
    scene = Scene().host().task(deadline_ms=NOW_MS + 50)
    assert scene.decides(now_ms=NOW_MS - 3_600_000) == []
    assert scene.decides(now_ms=NOW_MS + 3_600_000) == [overdue("t", 2, "deadline")]


def test_the_timers_of_tasks_that_have_ended_do_not_pile_up() -> None:
    scene = Scene().host()
    for number in range(500):
        name = f"t{number}"
        scene.has(
            "task",
            name,
            submitted(deadline_ms=NOW_MS + 10_000_000, not_before_ms=NOW_MS + 9_000_000),
            TaskScheduled(not_before_ms=NOW_MS + 9_000_000),
        )
        scene.has("task", name, TaskCancelled())
    assert scene.decides() == []
    assert max(len(scene.fleet.clocks.timers), len(scene.fleet.clocks.expiries)) < 100


def test_a_lazy_heap_keeps_what_counts_and_its_order() -> None:
    heap: list[tuple[int]] = []
    for number in range(1_000):
        enter(heap, ((number * 7919) % 1_000,), 10, lambda item: item[0] < 10)
    assert len(heap) <= 2 * 10 + 64 + 1
    assert sorted(item for item in heap if item[0] < 10) == [(number,) for number in range(10)]
    assert heap[0] == (0,)


# Silence


async def test_an_attempt_that_says_nothing_for_too_long_is_timed_out() -> None:
    async with living() as world:
        going = await world.begun(silence_timeout_s=4.0)
        for word in (SIGN_OF_LIFE, Progress(progress=0.5, current_step="boil"), SIGN_OF_LIFE):
            world.clock.advance(3.9)
            await quiet()
            assert going.token.reason is None
            going.report(word)
        world.clock.advance(3.9)
        await quiet()
        assert going.token.reason is None
        world.clock.advance(0.1)
        await quiet()
        assert verdict_of(world) == failed("timed_out", "It said nothing for 4 s (silence_timeout_s) and was stopped.")


def verdict_of(world: World) -> Any:
    return next(said for said in world.control.verdicts() if isinstance(said, FailTask))
