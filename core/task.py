"""The task: what somebody wants done, its attempts, and its one end.

    submitted -> scheduled (back-off) -> queued -> assigned -> running -> completed | failed | cancelled

The fence of an attempt is the position of its `task.assigned`. Whatever a host says carries the fence; a stale one is
refused, so completion and expiry race on one expected position and exactly one wins.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, assert_never

from msgspec import Meta, Struct
from msgspec.structs import replace

from core.catalogue import AGENT_TYPES
from core.execution import parameters_of
from core.kernel.commit import Event, Moment
from core.kernel.errors import Refused, Unprocessable
from core.kernel.registry import Aggregate, Context, Route, Scope

task = Aggregate("task")

PRIORITIES = {"critical": 9, "high": 7, "normal": 5, "low": 3, "background": 1}
CANCEL_GRACE_S = 5.0
FINAL = frozenset({"completed", "failed", "cancelled", "expired"})

Id = Annotated[str, Meta(min_length=1, max_length=64)]
Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*\Z", max_length=100)]
AttemptOutcome = Literal[
    "failed", "timed_out", "output_limit", "cancelled", "interrupted", "crashed", "lease_expired", "voided"
]
LOST = frozenset({"crashed", "lease_expired"})


# --- events -----------------------------------------------------------------------------------------------------------


class Retry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a failed attempt is followed by another."""

    max_attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    max_crashes: Annotated[int, Meta(ge=0, le=100)] = 5
    initial_interval_ms: Annotated[int, Meta(ge=0, le=86_400_000)] = 1_000
    backoff_multiplier: Annotated[float, Meta(ge=1, le=100)] = 2.0
    max_interval_ms: Annotated[int, Meta(ge=0, le=86_400_000)] = 60_000
    non_retryable: Annotated[list[AttemptOutcome], Meta(max_length=8)] = []
    avoid_last_agent: bool = False


@task.event("task.submitted")
class TaskSubmitted(Event, frozen=True):
    """Somebody asked for a piece of work; everything an attempt needs is in here."""

    type: str
    executor: str
    parameters: dict[str, Any]
    requires: list[str]
    priority: int
    timeout_s: float
    retry: Retry
    project: str
    agent_type: str | None = None
    agent_id: str | None = None
    name: str | None = None
    labels: dict[str, str] | None = None


@task.event("task.queued")
class TaskQueued(Event, frozen=True):
    """The task waits for an agent."""


@task.event("task.scheduled")
class TaskScheduled(Event, frozen=True):
    """The task waits for a time: the back-off after a failed attempt."""

    not_before_ms: int


@task.event("task.assigned")
class TaskAssigned(Event, frozen=True):
    """The scheduler of this term gave the task to an agent; this event's position is the attempt's fence."""

    agent_id: str
    host_id: str
    session: str
    term: int
    attempt: int


@task.event("task.started")
class TaskStarted(Event, frozen=True):
    """The attempt still ran after 250 ms; a shorter one tells its start when it ends."""

    fence: int
    agent_id: str
    started_ms: int


@task.event("task.progressed")
class TaskProgressed(Event, frozen=True):
    """The attempt reached a new step."""

    fence: int
    progress: float | None = None
    current_step: str | None = None
    steps_completed: int | None = None
    total_steps: int | None = None


@task.event("task.attempt_ended")
class AttemptEnded(Event, frozen=True):
    """An attempt ended without completing the task."""

    fence: int
    agent_id: str
    outcome: AttemptOutcome
    error: str
    started_ms: int | None = None
    result: dict[str, Any] | None = None


@task.event("task.completed")
class TaskCompleted(Event, frozen=True):
    """The attempt did what was asked; `result` is what its executor really got."""

    fence: int
    agent_id: str
    started_ms: int
    result: dict[str, Any]


@task.event("task.failed")
class TaskFailed(Event, frozen=True):
    """No attempt is left: the task lies in the dead letters."""

    error: str
    outcome: AttemptOutcome


@task.event("task.cancel_requested")
class CancelRequested(Event, frozen=True):
    """The attempt is asked to stop, and made to after the grace."""

    grace_s: float
    reason: str | None = None


@task.event("task.cancelled")
class TaskCancelled(Event, frozen=True):
    """The task ended because somebody did not want it any more."""

    reason: str | None = None


TaskEvent = (
    TaskSubmitted
    | TaskQueued
    | TaskScheduled
    | TaskAssigned
    | TaskStarted
    | TaskProgressed
    | AttemptEnded
    | TaskCompleted
    | TaskFailed
    | CancelRequested
    | TaskCancelled
)


# --- state ------------------------------------------------------------------------------------------------------------


class Task(Struct, frozen=True, kw_only=True):
    """What decisions about a task need to know."""

    status: str
    spec: TaskSubmitted
    submitted_ms: int
    correlation_id: str
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    fence: int = 0
    term: int = 0
    agent_id: str | None = None
    host_id: str | None = None
    not_before_ms: int = 0
    cancelling: bool = False
    cancel_reason: str | None = None

    @property
    def held(self) -> bool:
        """Whether an attempt holds a slot and a lease."""
        return self.status in ("assigned", "running")


@task.evolves
def evolve(state: Task | None, event: TaskEvent, moment: Moment) -> Task:
    """The fold of a task."""
    if isinstance(event, TaskSubmitted):
        return Task(status="submitted", spec=event, submitted_ms=moment.time_ms, correlation_id=moment.correlation_id)
    assert state is not None, "the first event of a task is task.submitted"
    match event:
        case TaskQueued():
            return replace(state, status="queued")
        case TaskScheduled():
            return replace(state, status="scheduled", not_before_ms=event.not_before_ms)
        case TaskAssigned():
            return replace(
                state,
                status="assigned",
                fence=moment.position,
                term=event.term,
                attempt=event.attempt,
                agent_id=event.agent_id,
                host_id=event.host_id,
            )
        case TaskStarted():
            return replace(state, status="running")
        case TaskProgressed():
            return state
        case AttemptEnded():
            failed = event.outcome not in LOST and event.outcome not in ("interrupted", "voided", "cancelled")
            return replace(
                state,
                failures=state.failures + failed,
                crashes=state.crashes + (event.outcome in LOST),
                agent_id=None,
                host_id=None,
            )
        case TaskCompleted():
            return replace(state, status="completed")
        case TaskFailed():
            return replace(state, status="failed")
        case CancelRequested():
            return replace(state, cancelling=True, cancel_reason=event.reason)
        case TaskCancelled():
            return replace(state, status="cancelled")
        case _:
            assert_never(event)


# --- commands of callers ----------------------------------------------------------------------------------------------


class SubmitTask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Submit a task: a piece of work for an agent.

    `type` is the kind that statistics and routing go by, `parameters` is what the executor gets. Without `executor`
    the agent type's is taken. The answer comes when the command is on the log; the work runs afterwards.
    """

    type: Word
    parameters: dict[str, Any]
    executor: Word | None = None
    requires: Annotated[list[Word], Meta(max_length=32)] = []
    agent_type: Word | None = None
    agent_id: Id | None = None
    priority: Literal["critical", "high", "normal", "low", "background"] | Annotated[int, Meta(ge=0, le=9)] = "normal"
    timeout_s: Annotated[float, Meta(gt=0, le=86_400)] = 60.0
    retry: Retry = Retry()
    project: Word = "default"
    name: Annotated[str, Meta(max_length=200)] | None = None
    labels: Annotated[
        dict[Annotated[str, Meta(max_length=100)], Annotated[str, Meta(max_length=500)]], Meta(max_length=32)
    ] = {}
    depends_on: list[Any] = []
    on_dependency_failure: str | None = None
    fairness_key: str | None = None
    concurrency_key: str | None = None
    rate_key: str | None = None
    not_before: str | None = None
    deadline: str | None = None
    queue_timeout_s: float | None = None
    total_timeout_s: float | None = None
    silence_timeout_s: float | None = None
    max_tokens: int | None = None
    max_cost: float | None = None


NOT_AVAILABLE = (
    "depends_on",
    "on_dependency_failure",
    "fairness_key",
    "concurrency_key",
    "rate_key",
    "not_before",
    "deadline",
    "queue_timeout_s",
    "total_timeout_s",
    "silence_timeout_s",
    "max_tokens",
    "max_cost",
)


@task.decides("task.submit", route=Route("POST", "/api/tasks", 202), creates=True)
def submit(command: SubmitTask, state: Task | None, context: Context) -> list[TaskEvent]:
    """A valid task is accepted and queued."""
    for field in NOT_AVAILABLE:
        if getattr(command, field) not in (None, "", []):
            raise Unprocessable(
                f"{field} is not available in this version.",
                code="not_available",
                pointer=f"/{field}",
                remedy=f"Leave {field} out or null.",
            )
    executor = _executor_of(command)
    parameters_of(executor, command.parameters)
    priority = command.priority
    submitted = TaskSubmitted(
        type=command.type,
        executor=executor,
        parameters=command.parameters,
        requires=sorted(set(command.requires)),
        priority=PRIORITIES[priority] if isinstance(priority, str) else priority,
        timeout_s=command.timeout_s,
        retry=command.retry,
        project=command.project,
        agent_type=command.agent_type,
        agent_id=command.agent_id,
        name=command.name,
        labels=command.labels or None,
    )
    return [submitted, TaskQueued()]


def _executor_of(command: SubmitTask) -> str:
    if command.executor is not None:
        return command.executor
    known = AGENT_TYPES.get(command.agent_type or "")
    if known is not None:
        return known.executor
    raise Unprocessable(
        "The task names neither an executor nor an agent type that has one.",
        code="executor_required",
        pointer="/executor",
        remedy=f'Add "executor": "command" (or python), or an agent_type: {", ".join(sorted(AGENT_TYPES))}.',
    )


class CancelTask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Cancel a task. A waiting one ends at once; a running one is asked to stop and killed after the grace (5 s)."""

    task_id: Id
    reason: Annotated[str, Meta(max_length=500)] | None = None


def _cancel_answer(command: CancelTask, accepted: Any) -> dict[str, Any]:
    ended = accepted.state.status == "cancelled"
    return {
        "message": "The task is cancelled." if ended else "The running attempt is being stopped.",
        "previous_status": accepted.before.status if accepted.before else None,
        "status": accepted.state.status,
    } | ({} if accepted.before else {"unknown": {"previous_status": "this is the answer to a repeat"}})


@task.decides("task.cancel", route=Route("DELETE", "/api/tasks/{task_id}", 202), answer=_cancel_answer)
def cancel(command: CancelTask, state: Task, context: Context) -> list[TaskEvent]:
    """Whatever has not ended can be cancelled; twice is once."""
    if state.status == "cancelled" or state.cancelling:
        return []
    if state.status in FINAL:
        raise Refused(
            f"The task has ended already: it is {state.status}.",
            remedy="Only a task that has not ended can be cancelled.",
        )
    if state.held:
        return [CancelRequested(grace_s=CANCEL_GRACE_S, reason=command.reason)]
    return [TaskCancelled(reason=command.reason)]


# --- commands of the scheduler ----------------------------------------------------------------------------------------


class AssignTask(Struct, frozen=True, kw_only=True):
    """Give a queued task to an agent. `term` is the position of the scheduler's election."""

    task_id: str
    agent_id: str
    host_id: str
    session: str
    term: int


@task.decides("task.assign", scope=Scope.INTERNAL)
def assign(command: AssignTask, state: Task, context: Context) -> list[TaskEvent]:
    """Only a queued task, and never by an older term."""
    if state.status != "queued":
        raise Refused(f"The task is {state.status}, not queued.", code="not_queued")
    if command.term < state.term:
        raise Refused(f"Term {command.term} ended when term {state.term} began.", code="stale_term")
    return [
        TaskAssigned(
            agent_id=command.agent_id,
            host_id=command.host_id,
            session=command.session,
            term=command.term,
            attempt=state.attempt + 1,
        )
    ]


class QueueTask(Struct, frozen=True, kw_only=True):
    """The back-off of a scheduled task is over."""

    task_id: str


@task.decides("task.queue", scope=Scope.INTERNAL)
def queue(command: QueueTask, state: Task, context: Context) -> list[TaskEvent]:
    """Only what is scheduled becomes queued."""
    return [TaskQueued()] if state.status == "scheduled" else []


class ExpireTask(Struct, frozen=True, kw_only=True):
    """End an attempt whose host, session or lease is gone."""

    task_id: str
    fence: int
    outcome: Literal["crashed", "lease_expired", "timed_out", "voided"]
    error: str


@task.decides("task.expire", scope=Scope.INTERNAL)
def expire(command: ExpireTask, state: Task, context: Context) -> list[TaskEvent]:
    """The attempt counts as lost; the task goes back to the queue at once, until it has lost too many."""
    _hold_fence(state, command.fence)
    ended = AttemptEnded(
        fence=command.fence, agent_id=state.agent_id or "", outcome=command.outcome, error=command.error
    )
    return [ended, *_after(state, ended, context, retryable=True, retry_after_ms=None)]


# --- commands of hosts ------------------------------------------------------------------------------------------------


class StartTask(Struct, frozen=True, kw_only=True):
    """The attempt runs."""

    task_id: str
    fence: int
    started_ms: int


@task.decides("task.start", scope=Scope.HOST)
def start(command: StartTask, state: Task, context: Context) -> list[TaskEvent]:
    """Said once per attempt."""
    _hold_fence(state, command.fence)
    if state.status == "running":
        return []
    return [TaskStarted(fence=command.fence, agent_id=state.agent_id or "", started_ms=command.started_ms)]


class ProgressTask(Struct, frozen=True, kw_only=True):
    """The attempt reached a new step."""

    task_id: str
    fence: int
    progress: Annotated[float, Meta(ge=0, le=1)] | None = None
    current_step: Annotated[str, Meta(max_length=256)] | None = None
    steps_completed: int | None = None
    total_steps: int | None = None


@task.decides("task.progress", scope=Scope.HOST)
def progress(command: ProgressTask, state: Task, context: Context) -> list[TaskEvent]:
    """Only from the attempt that holds the fence."""
    _hold_fence(state, command.fence)
    return [
        TaskProgressed(
            fence=command.fence,
            progress=command.progress,
            current_step=command.current_step,
            steps_completed=command.steps_completed,
            total_steps=command.total_steps,
        )
    ]


class CompleteTask(Struct, frozen=True, kw_only=True):
    """The attempt did what was asked."""

    task_id: str
    fence: int
    started_ms: int
    result: dict[str, Any]


@task.decides("task.complete", scope=Scope.HOST)
def complete(command: CompleteTask, state: Task, context: Context) -> list[TaskEvent]:
    """A task completes once, by the attempt that holds the fence; a completion beats a cancel on its way."""
    _hold_fence(state, command.fence)
    return [
        TaskCompleted(
            fence=command.fence,
            agent_id=state.agent_id or "",
            started_ms=command.started_ms,
            result=command.result,
        )
    ]


class FailTask(Struct, frozen=True, kw_only=True):
    """The attempt ended without doing what was asked."""

    task_id: str
    fence: int
    outcome: Literal["failed", "timed_out", "output_limit", "cancelled", "interrupted", "crashed"]
    error: str
    retryable: bool = True
    started_ms: int | None = None
    retry_after_ms: int | None = None
    result: dict[str, Any] | None = None


@task.decides("task.fail", scope=Scope.HOST)
def fail(command: FailTask, state: Task, context: Context) -> list[TaskEvent]:
    """Another attempt after the back-off, or the end."""
    _hold_fence(state, command.fence)
    ended = AttemptEnded(
        fence=command.fence,
        agent_id=state.agent_id or "",
        outcome=command.outcome,
        error=command.error,
        started_ms=command.started_ms,
        result=command.result,
    )
    return [ended, *_after(state, ended, context, command.retryable, command.retry_after_ms)]


# --- rules ------------------------------------------------------------------------------------------------------------


def _hold_fence(state: Task, fence: int) -> None:
    if not state.held or state.fence != fence:
        raise Refused(
            f"Fence {fence} does not hold this task any more: it is {state.status} with fence {state.fence}.",
            code="stale_fence",
            remedy="Stop the attempt; what it did is not accepted.",
        )


def _after(
    state: Task, ended: AttemptEnded, context: Context, retryable: bool, retry_after_ms: int | None
) -> list[TaskEvent]:
    """What follows the end of an attempt: cancelled, queued again, scheduled after a back-off, or failed."""
    policy = state.spec.retry
    if state.cancelling or ended.outcome == "cancelled":
        return [TaskCancelled(reason=state.cancel_reason)]
    if ended.outcome in ("interrupted", "voided"):
        return [TaskQueued()]
    if ended.outcome in LOST:
        if state.crashes < policy.max_crashes:
            return [TaskQueued()]
        return [
            TaskFailed(error=f"Lost {state.crashes + 1} attempts with their host. {ended.error}", outcome="crashed")
        ]
    if not retryable or ended.outcome in policy.non_retryable or state.failures + 1 >= policy.max_attempts:
        return [TaskFailed(error=ended.error, outcome=ended.outcome)]
    delay_ms = retry_after_ms if retry_after_ms is not None else backoff_ms(policy, state.failures, context.draw)
    return [TaskScheduled(not_before_ms=context.now_ms + delay_ms)]


def backoff_ms(policy: Retry, failures_before: int, draw: float) -> int:
    """Exponential back-off with full jitter: uniform in [0, cap), cap doubling up to the policy's maximum.

    Full jitter spreads retries best (AWS Architecture Blog, "Exponential Backoff and Jitter", 2015).
    """
    exponent = min(failures_before, 64)
    cap = min(policy.max_interval_ms, policy.initial_interval_ms * policy.backoff_multiplier**exponent)
    return int(cap * draw)
