from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given as sampled
from hypothesis import strategies as st
from msgspec import Struct

from core.kernel.commit import Event
from core.kernel.errors import Refused, Unprocessable
from core.kernel.ids import draw
from core.task import (
    FINAL,
    PRIORITIES,
    AssignTask,
    AttemptEnded,
    CancelRequested,
    CancelTask,
    CompleteTask,
    ExpireTask,
    FailTask,
    ProgressTask,
    QueueTask,
    Retry,
    Routing,
    StartTask,
    SubmitTask,
    Task,
    TaskAssigned,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskProgressed,
    TaskQueued,
    TaskScheduled,
    TaskStarted,
    backoff_ms,
)
from tests.given import CODEC, CORRELATION, NOW_MS, History, assigned, command_id, fold, given, submit, submitted

FENCE = 3  # where `assigned()` stands in each history below
QUEUED = (submitted(), TaskQueued())
ASSIGNED = (*QUEUED, assigned())
RUNNING = (*ASSIGNED, TaskStarted(fence=FENCE, agent_id="a", started_ms=NOW_MS))
COMPLETED = (*ASSIGNED, TaskCompleted(fence=FENCE, agent_id="a", started_ms=NOW_MS, result={}))
FAILED = (*ASSIGNED, TaskFailed(error="no", outcome="failed"))
CANCELLED = (*QUEUED, TaskCancelled())
SCHEDULED = (submitted(), TaskScheduled(not_before_ms=NOW_MS + 5))
CANCELLING = (*RUNNING, CancelRequested(grace_s=5.0, reason="enough"))
# Each event beside its record in logs out there: it is written and read so for ever.
GOLDEN = [
    (TaskQueued(), "task.queued/1 {}"),
    (TaskScheduled(not_before_ms=NOW_MS + 1), 'task.scheduled/1 {"not_before_ms":1800000000001}'),
    (assigned(term=3, attempt=2), 'task.assigned/1 {"agent_id":"a","host_id":"h","session":"s1","term":3,"attempt":2}'),
    (
        assigned(agent_type="shell", routing=Routing(folded=7, draw=0.25, scores={"painter": 2.5, "shell": 1.5})),
        'task.assigned/1 {"agent_id":"a","host_id":"h","session":"s1","term":1,"attempt":1,"agent_type":"shell",'
        '"routing":{"folded":7,"draw":0.25,"scores":{"painter":2.5,"shell":1.5}}}',
    ),
    (
        TaskCompleted(fence=7, agent_id="a", started_ms=5, result={}, agent_type="shell", type="greet"),
        'task.completed/1 {"fence":7,"agent_id":"a","started_ms":5,"result":{},"agent_type":"shell","type":"greet"}',
    ),
    (
        TaskStarted(fence=7, agent_id="a", started_ms=NOW_MS),
        'task.started/1 {"fence":7,"agent_id":"a","started_ms":1800000000000}',
    ),
    (
        TaskProgressed(fence=7, progress=0.25, current_step="boil", steps_completed=1, total_steps=4),
        'task.progressed/1 {"fence":7,"progress":0.25,"current_step":"boil","steps_completed":1,"total_steps":4}',
    ),
    (TaskProgressed(fence=7), 'task.progressed/1 {"fence":7}'),
    (
        AttemptEnded(
            fence=7, agent_id="a", outcome="timed_out", error="late", started_ms=NOW_MS, result={"exit_code": 1}
        ),
        'task.attempt_ended/1 {"fence":7,"agent_id":"a","outcome":"timed_out","error":"late",'
        '"started_ms":1800000000000,"result":{"exit_code":1}}',
    ),
    (
        AttemptEnded(fence=7, agent_id="a", outcome="crashed", error="gone"),
        'task.attempt_ended/1 {"fence":7,"agent_id":"a","outcome":"crashed","error":"gone"}',
    ),
    (
        TaskCompleted(
            fence=7,
            agent_id="a",
            started_ms=NOW_MS,
            result={"exit_code": 0, "stdout": "hi\n", "n": [1, 2.5, None, True]},
        ),
        'task.completed/1 {"fence":7,"agent_id":"a","started_ms":1800000000000,"result":{"exit_code":0,'
        '"stdout":"hi\\n","n":[1,2.5,null,true]}}',
    ),
    (TaskFailed(error="no more", outcome="output_limit"), 'task.failed/1 {"error":"no more","outcome":"output_limit"}'),
    (CancelRequested(grace_s=5.0, reason="enough"), 'task.cancel_requested/1 {"grace_s":5.0,"reason":"enough"}'),
    (CancelRequested(grace_s=5.0), 'task.cancel_requested/1 {"grace_s":5.0}'),
    (TaskCancelled(reason="enough"), 'task.cancelled/1 {"reason":"enough"}'),
    (TaskCancelled(), "task.cancelled/1 {}"),
]


def ended(outcome: Any, error: str = "it broke", **more: Any) -> AttemptEnded:
    return AttemptEnded(fence=FENCE, agent_id="a", outcome=outcome, error=error, type="greet", **more)


def fails(outcome: Any = "failed", **more: Any) -> FailTask:
    return FailTask(task_id="t", fence=FENCE, outcome=outcome, error="it broke", **more)


def expires(outcome: Any, error: str = "it broke") -> ExpireTask:
    return ExpireTask(task_id="t", fence=FENCE, outcome=outcome, error=error)


# Submitting


def test_a_submitted_task_is_queued_with_everything_an_attempt_needs() -> None:
    state = (
        given()
        .when(
            submit(
                requires=["gpu", "cuda", "gpu"],
                priority="high",
                labels={"team": "blue"},
                name="hello",
                agent_id="a7",
                timeout_s=3,
                retry=Retry(max_attempts=1),
                project="p",
            )
        )
        .then(
            submitted(
                requires=["cuda", "gpu"],
                priority=7,
                labels={"team": "blue"},
                name="hello",
                agent_id="a7",
                timeout_s=3,
                retry=Retry(max_attempts=1),
                project="p",
            ),
            TaskQueued(),
        )
    )
    assert (state.status, state.submitted_ms, state.correlation_id) == ("queued", NOW_MS, CORRELATION)


@pytest.mark.parametrize(("word", "number"), [*PRIORITIES.items(), (0, 0), (9, 9)])
def test_a_priority_is_a_word_or_its_number(word: Any, number: int) -> None:
    given().when(submit(priority=word)).then(submitted(priority=number), TaskQueued())


def test_the_executor_is_the_named_one_or_else_that_of_the_agent_type() -> None:
    python = {"function": "noop"}
    given().when(submit(agent_type="python", parameters=python)).then(
        submitted(executor="python", agent_type="python", parameters=python), TaskQueued()
    )
    given().when(submit(agent_type=None, executor="command")).then(submitted(agent_type=None), TaskQueued())


@pytest.mark.parametrize(
    ("agent_type", "code", "pointer"),
    [(None, "executor_required", "/executor"), ("painter", "unknown_agent_type", "/agent_type")],
)
def test_a_task_without_an_executor_is_refused_at_the_door(agent_type: str | None, code: str, pointer: str) -> None:
    error = given().when(submit(agent_type=agent_type)).then_raises(Unprocessable, code=code, pointer=pointer)
    assert "python, shell" in error.remedy


def test_parameters_that_the_executor_could_never_run_are_refused_with_a_pointer() -> None:
    given().when(submit(parameters={"argv": []})).then_raises(
        Unprocessable, code="invalid_field", pointer="/parameters/argv"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": ""},
        {"type": "-x"},
        {"priority": 10},
        {"priority": "urgent"},
        {"timeout_s": 0},
        {"retry": {"max_attempts": 0}},
        {"retry": {"attempts": 3}},
        {"requires": ["a b"]},
        {"colour": "red"},
    ],
    ids=str,
)
def test_a_submission_outside_its_bounds_does_not_decode(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"type": "greet", "parameters": {}, **wrong}, SubmitTask)


# Cancelling


@pytest.mark.parametrize("history", [QUEUED, SCHEDULED, (submitted(),)], ids=["queued", "scheduled", "submitted"])
def test_a_waiting_task_is_cancelled_at_once(history: tuple[Event, ...]) -> None:
    state = given(*history).when(CancelTask(task_id="t", reason="enough")).then(TaskCancelled(reason="enough"))
    assert state.status == "cancelled"


@pytest.mark.parametrize("history", [ASSIGNED, RUNNING], ids=["assigned", "running"])
def test_a_held_task_is_asked_to_stop_and_keeps_its_status_until_it_has(history: tuple[Event, ...]) -> None:
    before = fold("task", history)
    after = (
        given(*history)
        .when(CancelTask(task_id="t", reason="enough"))
        .then(CancelRequested(grace_s=5.0, reason="enough"))
    )
    assert after == msgspec.structs.replace(before, cancelling=True, cancel_reason="enough")


@pytest.mark.parametrize("history", [CANCELLED, CANCELLING], ids=["cancelled", "cancelling"])
def test_cancelling_twice_is_cancelling_once(history: tuple[Event, ...]) -> None:
    given(*history).when(CancelTask(task_id="t")).then()


@pytest.mark.parametrize("history", [COMPLETED, FAILED], ids=["completed", "failed"])
def test_what_has_ended_otherwise_cannot_be_cancelled(history: tuple[Event, ...]) -> None:
    given(*history).when(CancelTask(task_id="t")).then_raises(Refused, code="illegal_transition")


@pytest.mark.parametrize("outcome", ["failed", "timed_out", "cancelled", "interrupted", "crashed"])
def test_however_a_cancelled_attempt_ends_the_task_is_cancelled_for_the_first_reason(outcome: str) -> None:
    given(*CANCELLING).when(fails(outcome)).then(ended(outcome), TaskCancelled(reason="enough"))


def test_a_lost_attempt_of_a_cancelled_task_is_not_tried_again() -> None:
    given(*CANCELLING).when(expires("crashed")).then(ended("crashed"), TaskCancelled(reason="enough"))


def test_a_completion_beats_a_cancel_on_its_way() -> None:
    state = (
        given(*CANCELLING)
        .when(CompleteTask(task_id="t", fence=FENCE, started_ms=NOW_MS, result={"x": 1}))
        .then(TaskCompleted(fence=FENCE, agent_id="a", started_ms=NOW_MS, result={"x": 1}, type="greet"))
    )
    assert state.status == "completed"


# Assigning


ASSIGN = AssignTask(task_id="t", agent_id="b", host_id="h2", session="s2", term=7)


def test_a_queued_task_is_assigned_and_the_position_is_its_fence() -> None:
    state = given(*QUEUED).when(ASSIGN).then(TaskAssigned(agent_id="b", host_id="h2", session="s2", term=7, attempt=1))
    assert state == Task(
        status="assigned",
        spec=submitted(),
        submitted_ms=NOW_MS,
        correlation_id=CORRELATION,
        attempt=1,
        fence=3,
        term=7,
        agent_id="b",
        host_id="h2",
        assigned_ms=NOW_MS,
    )


@pytest.mark.parametrize(
    "history",
    [(submitted(),), SCHEDULED, ASSIGNED, RUNNING, COMPLETED, FAILED, CANCELLED],
    ids=["submitted", "scheduled", "assigned", "running", "completed", "failed", "cancelled"],
)
def test_only_a_queued_task_is_assigned(history: tuple[Event, ...]) -> None:
    given(*history).when(ASSIGN).then_raises(Refused, code="not_queued")


def test_an_older_term_assigns_nothing_once_a_newer_one_has() -> None:
    history = (*QUEUED, assigned(term=8), ended("crashed"), TaskQueued())
    given(*history).when(ASSIGN).then_raises(Refused, code="stale_term")
    given(*history).when(msgspec.structs.replace(ASSIGN, term=8)).then(
        TaskAssigned(agent_id="b", host_id="h2", session="s2", term=8, attempt=2)
    )


def test_a_scheduled_task_becomes_queued_and_any_other_stays_what_it_is() -> None:
    assert given(*SCHEDULED).when(QueueTask(task_id="t")).then(TaskQueued()).status == "queued"
    for history in (QUEUED, RUNNING, COMPLETED):
        given(*history).when(QueueTask(task_id="t")).then()


# The fence


REQUEUED = (*ASSIGNED, ended("crashed"), TaskQueued())
REASSIGNED = (*REQUEUED, assigned(attempt=2))
WITH_FENCE: tuple[Struct, ...] = (
    StartTask(task_id="t", fence=FENCE, started_ms=NOW_MS),
    ProgressTask(task_id="t", fence=FENCE, progress=0.5),
    CompleteTask(task_id="t", fence=FENCE, started_ms=NOW_MS, result={}),
    fails(),
    expires("lease_expired"),
)


@pytest.mark.parametrize("command", WITH_FENCE, ids=lambda command: type(command).__name__)
@pytest.mark.parametrize(
    "history",
    [REQUEUED, REASSIGNED, COMPLETED, FAILED, CANCELLED],
    ids=["queued again", "assigned again", "completed", "failed", "cancelled"],
)
def test_an_attempt_that_lost_its_fence_changes_nothing(history: tuple[Event, ...], command: Struct) -> None:
    given(*history).when(command).then_raises(Refused, code="stale_fence")


def test_a_fence_of_the_future_is_stale_too() -> None:
    given(*ASSIGNED).when(msgspec.structs.replace(fails(), fence=FENCE + 1)).then_raises(Refused, code="stale_fence")


def test_an_attempt_says_once_that_it_started() -> None:
    start = StartTask(task_id="t", fence=FENCE, started_ms=NOW_MS)
    given(*ASSIGNED).when(start).then(TaskStarted(fence=FENCE, agent_id="a", started_ms=NOW_MS))
    given(*RUNNING).when(start).then()


def test_progress_is_kept_as_it_was_said_and_changes_no_decision() -> None:
    said = {"progress": 0.5, "current_step": "boil", "steps_completed": 1, "total_steps": 2}
    state = (
        given(*RUNNING)
        .when(ProgressTask(task_id="t", fence=FENCE, **said))  # type: ignore[arg-type]
        .then(TaskProgressed(fence=FENCE, **said))  # type: ignore[arg-type]
    )
    assert state == fold("task", RUNNING)


# Trying again


def with_retry(*more: Event, **retry: Any) -> tuple[Event, ...]:
    return (submitted(retry=Retry(**retry)), TaskQueued(), assigned(), *more)


def test_a_failed_attempt_is_followed_by_another_after_a_drawn_back_off() -> None:
    delay_ms = int(1_000 * draw(command_id(5)))
    state = (
        given(*RUNNING)
        .when(fails(started_ms=NOW_MS - 9, result={"exit_code": 1}), number=5)
        .then(
            ended("failed", started_ms=NOW_MS - 9, result={"exit_code": 1}),
            TaskScheduled(not_before_ms=NOW_MS + delay_ms),
        )
    )
    assert (state.status, state.failures, state.crashes, state.agent_id) == ("scheduled", 1, 0, None)
    assert 0 < delay_ms < 1_000


def test_what_the_far_side_wished_replaces_the_back_off() -> None:
    given(*RUNNING).when(fails(retry_after_ms=77)).then(ended("failed"), TaskScheduled(not_before_ms=NOW_MS + 77))
    given(*RUNNING).when(fails(retry_after_ms=0)).then(ended("failed"), TaskScheduled(not_before_ms=NOW_MS))


@pytest.mark.parametrize(
    ("history", "command"),
    [
        (with_retry(max_attempts=1), fails()),
        (with_retry(), fails(retryable=False)),
        (with_retry(non_retryable=["timed_out"]), fails("timed_out")),
        (with_retry(max_attempts=1), expires("timed_out")),
    ],
    ids=["no attempt left", "not retryable", "an outcome that is not retryable", "ended by the scheduler"],
)
def test_without_another_attempt_the_task_fails(history: tuple[Event, ...], command: FailTask | ExpireTask) -> None:
    state = (
        given(*history)
        .when(command)
        .then(ended(command.outcome), TaskFailed(error="it broke", outcome=command.outcome))
    )
    assert state.status == "failed"


def test_max_attempts_counts_failures_over_all_attempts() -> None:
    history = with_retry(ended("failed"), TaskQueued(), assigned(attempt=2), max_attempts=2)
    command = FailTask(task_id="t", fence=6, outcome="failed", error="again")
    given(*history).when(command).then(
        AttemptEnded(fence=6, agent_id="a", outcome="failed", error="again", type="greet"),
        TaskFailed(error="again", outcome="failed"),
    )


@pytest.mark.parametrize("outcome", ["interrupted", "voided"])
def test_an_attempt_that_was_called_off_costs_nothing(outcome: str) -> None:
    command = fails(outcome) if outcome == "interrupted" else expires(outcome)
    state = given(*with_retry(max_attempts=1, max_crashes=0)).when(command).then(ended(outcome), TaskQueued())
    assert (state.status, state.failures, state.crashes) == ("queued", 0, 0)


@pytest.mark.parametrize("outcome", ["crashed", "lease_expired"])
def test_a_lost_attempt_is_queued_at_once_and_counts_as_a_crash(outcome: str) -> None:
    state = given(*with_retry(max_attempts=1, max_crashes=1)).when(expires(outcome)).then(ended(outcome), TaskQueued())
    assert (state.status, state.failures, state.crashes) == ("queued", 0, 1)


def test_a_task_that_keeps_killing_its_hosts_fails() -> None:
    history = with_retry(ended("crashed"), TaskQueued(), assigned(attempt=2), max_crashes=1)
    command = ExpireTask(task_id="t", fence=6, outcome="lease_expired", error="Silence.")
    given(*history).when(command).then(
        AttemptEnded(fence=6, agent_id="a", outcome="lease_expired", error="Silence.", type="greet"),
        TaskFailed(error="Lost 2 attempts with their host. Silence.", outcome="crashed"),
    )


@sampled(
    st.builds(
        Retry,
        initial_interval_ms=st.integers(0, 86_400_000),
        backoff_multiplier=st.floats(1, 100),
        max_interval_ms=st.integers(0, 86_400_000),
    ),
    st.integers(0, 10_000),
    st.floats(0, 1, exclude_max=True),
)
def test_the_back_off_lies_below_its_cap_and_the_cap_below_the_maximum(
    policy: Retry, failures: int, number: float
) -> None:
    cap_ms = min(policy.max_interval_ms, policy.initial_interval_ms * policy.backoff_multiplier ** min(failures, 64))
    delay_ms = backoff_ms(policy, failures, number)
    assert 0 <= delay_ms <= cap_ms <= policy.max_interval_ms
    assert backoff_ms(policy, failures, 0.0) == 0
    assert backoff_ms(policy, failures, number) == delay_ms
    assert backoff_ms(policy, failures + 1, number) >= delay_ms


def test_the_cap_of_the_back_off_doubles_up_to_its_maximum() -> None:
    policy = Retry(initial_interval_ms=100, backoff_multiplier=2.0, max_interval_ms=500)
    assert [backoff_ms(policy, failures, 0.5) for failures in range(5)] == [50, 100, 200, 250, 250]


# Laws: random commands of everybody about one task, decided and folded as the bus does


RETRIES = st.builds(
    Retry, max_attempts=st.integers(1, 3), max_crashes=st.integers(0, 2), initial_interval_ms=st.just(10)
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["assign", "start", "progress", "complete", "fail", "expire", "cancel", "queue"]),
        st.sampled_from(["failed", "timed_out", "cancelled", "interrupted", "crashed"]),
        st.sampled_from(["crashed", "lease_expired", "timed_out", "voided"]),
        st.integers(-1, 1),
        st.booleans(),
    ),
    max_size=30,
)


def command_of(step: tuple[str, str, str, int, bool], state: Task) -> Struct:
    kind, failure, loss, drift, retryable = step
    fence = state.fence + (drift if drift == -1 else 0)
    match kind:
        case "assign":
            return AssignTask(task_id="t", agent_id="a", host_id="h", session="s1", term=max(0, state.term + drift))
        case "start":
            return StartTask(task_id="t", fence=fence, started_ms=NOW_MS)
        case "progress":
            return ProgressTask(task_id="t", fence=fence, progress=0.5)
        case "complete":
            return CompleteTask(task_id="t", fence=fence, started_ms=NOW_MS, result={})
        case "fail":
            return msgspec.structs.replace(fails(failure), fence=fence, retryable=retryable)
        case "expire":
            return msgspec.structs.replace(expires(loss), fence=fence)
        case "cancel":
            return CancelTask(task_id="t")
        case _:
            return QueueTask(task_id="t")


def lived(retry: Retry, steps: list[tuple[str, str, str, int, bool]]) -> tuple[History, list[Task]]:
    """A history of one task, and its state after each commit."""
    history = History()
    history.commit("task", "t", submitted(retry=retry), TaskQueued())
    states = [history.states["task", "t"]]
    for step in steps:
        try:
            history.execute(command_of(step, states[-1]))
        except Refused:
            continue
        states.append(history.states["task", "t"])
    return history, states


@sampled(RETRIES, STEPS)
def test_an_end_is_for_ever_and_comes_once(retry: Retry, steps: list[tuple[str, str, str, int, bool]]) -> None:
    history, states = lived(retry, steps)
    ends = [state.status for state in states if state.status in FINAL]
    assert len(set(ends)) <= 1
    assert all(state.status in FINAL for state in states[len(states) - len(ends) :])
    events = [event for commit in history.commits for event in commit.events]
    assert sum(isinstance(event, TaskCompleted | TaskFailed | TaskCancelled) for event in events) == (1 if ends else 0)


@sampled(RETRIES, STEPS)
def test_attempts_stay_within_the_policy(retry: Retry, steps: list[tuple[str, str, str, int, bool]]) -> None:
    _, states = lived(retry, steps)
    assert all(state.failures <= retry.max_attempts and state.crashes <= retry.max_crashes + 1 for state in states)
    waiting = [state for state in states if state.status in ("queued", "scheduled")]
    assert all(state.failures < retry.max_attempts and state.crashes <= retry.max_crashes for state in waiting)
    assert all(not state.cancelling or state.held or state.status in FINAL for state in states)


def outcome_of(history: History, command: Struct) -> Any:
    """The commit, None for nothing, or the code of the refusal."""
    try:
        return history.execute(command)
    except Refused as refusal:
        return refusal.code


@sampled(RETRIES, STEPS)
def test_a_command_said_again_decides_nothing_more(retry: Retry, steps: list[tuple[str, str, str, int, bool]]) -> None:
    history = History()
    history.commit("task", "t", submitted(retry=retry), TaskQueued())
    for step in steps:
        command = command_of(step, history.states["task", "t"])
        try:
            history.execute(command)
        except Refused:
            continue
        if isinstance(command, ProgressTask):
            continue  # progress is told as often as it is made
        assert outcome_of(history, command) in (None, "stale_fence", "not_queued")


@sampled(RETRIES, STEPS)
def test_folding_what_was_stored_gives_the_state_that_decided(
    retry: Retry, steps: list[tuple[str, str, str, int, bool]]
) -> None:
    history, states = lived(retry, steps)
    for _ in range(2):
        replayed = None
        for entry in history.entries:
            commit = CODEC.decode(entry)
            for event in commit.events:
                replayed = fold("task", [event], after=replayed, position=commit.position - 1)
        assert replayed == states[-1]
