"""What happens to a task. The names are a storage format and never change."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from core.kernel.commit import Event
from core.kernel.registry import Aggregate

task = Aggregate("task")

AttemptOutcome = Literal[
    "failed", "timed_out", "output_limit", "cancelled", "interrupted", "crashed", "lease_expired", "voided"
]


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
    agent_type: str | None = None
    type: str | None = None


@task.event("task.completed", final=True)
class TaskCompleted(Event, frozen=True):
    """The attempt did what was asked; `result` is what its executor really got."""

    fence: int
    agent_id: str
    started_ms: int
    result: dict[str, Any]
    agent_type: str | None = None
    type: str | None = None


@task.event("task.failed", final=True)
class TaskFailed(Event, frozen=True):
    """No attempt is left: the task lies in the dead letters."""

    error: str
    outcome: AttemptOutcome


@task.event("task.cancel_requested")
class CancelRequested(Event, frozen=True):
    """The attempt is asked to stop, and made to after the grace. `expires` where it is time that ends the task."""

    grace_s: float
    reason: str | None = None
    expires: ExpiryReason | None = None


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
    | TaskExpired
)
