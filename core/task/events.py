"""What happens to a task. The names are a storage format and never change."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from core.kernel.commit import Event
from core.kernel.registry import Aggregate

task = Aggregate("task")

AttemptOutcome = Literal[
    "failed",
    "timed_out",
    "output_limit",
    "cancelled",
    "interrupted",
    "crashed",
    "lease_expired",
    "voided",
    "budget_exceeded",
]
# What a task fails by: its last attempt, or what it waited for before there was any.
FailureOutcome = Literal[
    "failed",
    "timed_out",
    "output_limit",
    "cancelled",
    "interrupted",
    "crashed",
    "lease_expired",
    "voided",
    "dependency_failed",
    "budget_exceeded",
]

# A task's id, or `@` and the `ref` of another item of the same batch.
TaskRef = Annotated[str, Meta(pattern=r"^@?[A-Za-z0-9][A-Za-z0-9._:-]*$(?!\n)", max_length=65)]
Pointer = Annotated[str, Meta(pattern=r"^(/([^~/]|~[01])*)*$(?!\n)", max_length=500)]
Approver = Annotated[str, Meta(min_length=1, max_length=200)]


ExpiryReason = Literal["deadline", "queue_timeout", "total_timeout"]


class Retry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a failed attempt is followed by another."""

    max_attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    max_crashes: Annotated[int, Meta(ge=0, le=100)] = 5
    initial_interval_ms: Annotated[int, Meta(ge=0, le=86_400_000)] = 1_000
    backoff_multiplier: Annotated[float, Meta(ge=1, le=100)] = 2.0
    max_interval_ms: Annotated[int, Meta(ge=0, le=86_400_000)] = 60_000
    non_retryable: Annotated[list[AttemptOutcome], Meta(max_length=8)] = []
    avoid_last_agent: bool = False


class Dependency(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"source": "from"}):
    """What a task waits for before it is queued.

    `finish`: the end of another task. `data`: its end, and what stands in its result at `from` (a JSON pointer, by
    default the whole result) goes into the parameters at `into`. `approval`: the word of one of `by` (actors; empty:
    of anybody who may send commands).
    """

    type: Literal["finish", "data", "approval"] = "finish"
    task: TaskRef | None = None
    into: Pointer | None = None
    source: Pointer | None = None
    by: Annotated[list[Approver], Meta(max_length=32)] = []


class DependencyEnd(Struct, frozen=True, kw_only=True):
    """How a task that another one depends on has ended, and where. `unknown`: the log knows no such task."""

    task: str
    status: str
    position: int


class Used(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What an attempt used since it was last told: what it says itself (null: nothing), and the time it held its slot.

    The time is told at the attempt's end. `project` is the task's, so that a budget need not know the task.
    """

    project: str
    tokens: int | None = None
    cost: float | None = None
    wall_ms: int | None = None


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
    fairness_key: str | None = None
    concurrency_key: str | None = None
    rate_key: str | None = None
    not_before_ms: int | None = None
    deadline_ms: int | None = None
    queue_timeout_s: float | None = None
    total_timeout_s: float | None = None
    silence_timeout_s: float | None = None
    replay_of: str | None = None
    schedule_id: str | None = None
    due_ms: int | None = None
    routing: str | None = None
    depends_on: list[Dependency] | None = None
    on_dependency_failure: Literal["run", "fail"] | None = None
    parent: str | None = None
    max_tokens: int | None = None
    max_cost: float | None = None


@task.event("task.blocked")
class TaskBlocked(Event, frozen=True):
    """The task waits for what it depends on."""


@task.event("task.dependencies_ended")
class DependenciesEnded(Event, frozen=True):
    """Tasks that it depends on have ended. `inputs` is what of their results goes where in the parameters."""

    ends: list[DependencyEnd]
    inputs: dict[str, Any] | None = None


@task.event("task.approved")
class TaskApproved(Event, frozen=True):
    """Somebody who may approve did; `items` are the places in depends_on that this is the word for."""

    by: str
    reason: str
    items: list[int]


@task.event("task.rejected")
class TaskRejected(Event, frozen=True):
    """Somebody who may approve does not want it to run."""

    by: str
    reason: str


@task.event("task.queued")
class TaskQueued(Event, frozen=True):
    """The task waits for an agent."""


@task.event("task.scheduled")
class TaskScheduled(Event, frozen=True):
    """The task waits for a time: its own `not_before`, or the back-off after a failed attempt."""

    not_before_ms: int


class Routing(Struct, frozen=True, kw_only=True):
    """How an agent type was chosen: for each candidate the milliseconds per success that were drawn, the least wins.

    `folded` is the position that the scheduler had read to, `draw` the random number in [0, 1) that all else follows
    from.
    """

    folded: int
    draw: float
    scores: dict[str, float]


@task.event("task.assigned")
class TaskAssigned(Event, frozen=True):
    """The scheduler of this term gave the task to an agent; this event's position is the attempt's fence."""

    agent_id: str
    host_id: str
    session: str
    term: int
    attempt: int
    agent_type: str | None = None
    routing: Routing | None = None


@task.event("task.started")
class TaskStarted(Event, frozen=True):
    """The attempt still ran after 250 ms; a shorter one tells its start when it ends."""

    fence: int
    agent_id: str
    started_ms: int


@task.event("task.progressed")
class TaskProgressed(Event, frozen=True):
    """The attempt reached a new step, or used more."""

    fence: int
    progress: float | None = None
    current_step: str | None = None
    steps_completed: int | None = None
    total_steps: int | None = None
    used: Used | None = None


@task.event("task.attempt_ended")
class AttemptEnded(Event, frozen=True):
    """An attempt ended without completing the task."""

    fence: int
    agent_id: str
    outcome: AttemptOutcome
    error: str
    started_ms: int | None = None
    result: dict[str, Any] | None = None
    agent_type: str | None = None
    type: str | None = None
    used: Used | None = None


@task.event("task.asked")
class TaskAsked(Event, frozen=True):
    """The attempt ended with a question; the next one begins when it is answered."""

    fence: int
    agent_id: str
    question: str
    choices: list[str] | None = None
    started_ms: int | None = None
    used: Used | None = None


@task.event("task.answered")
class TaskAnswered(Event, frozen=True):
    """Somebody answered what the task asked."""

    question: str
    answer: Any


@task.event("task.completed", final=True)
class TaskCompleted(Event, frozen=True):
    """The attempt did what was asked; `result` is what its executor really got."""

    fence: int
    agent_id: str
    started_ms: int
    result: dict[str, Any]
    agent_type: str | None = None
    type: str | None = None
    used: Used | None = None


@task.event("task.failed", final=True)
class TaskFailed(Event, frozen=True):
    """No attempt is left: the task lies in the dead letters."""

    error: str
    outcome: FailureOutcome


@task.event("task.cancel_requested")
class CancelRequested(Event, frozen=True):
    """The attempt is asked to stop, and made to after the grace.

    `expires` where it is time that ends the task, `fails` where it is its budget.
    """

    grace_s: float
    reason: str | None = None
    expires: ExpiryReason | None = None
    fails: Literal["budget_exceeded"] | None = None


@task.event("task.cancelled", final=True)
class TaskCancelled(Event, frozen=True):
    """The task ended because somebody did not want it any more."""

    reason: str | None = None


@task.event("task.expired", final=True)
class TaskExpired(Event, frozen=True):
    """The task ended because its time was up."""

    reason: ExpiryReason


TaskEvent = (
    TaskSubmitted
    | TaskBlocked
    | DependenciesEnded
    | TaskApproved
    | TaskRejected
    | TaskQueued
    | TaskScheduled
    | TaskAssigned
    | TaskStarted
    | TaskProgressed
    | AttemptEnded
    | TaskAsked
    | TaskAnswered
    | TaskCompleted
    | TaskFailed
    | CancelRequested
    | TaskCancelled
    | TaskExpired
)
