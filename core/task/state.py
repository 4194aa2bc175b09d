"""What decisions about a task need to know, and the fold that gives it."""

from __future__ import annotations

from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from core.kernel.commit import Moment
from core.task.events import (
    AttemptEnded,
    CancelRequested,
    ExpiryReason,
    TaskAssigned,
    TaskCancelled,
    TaskCompleted,
    TaskEvent,
    TaskExpired,
    TaskFailed,
    TaskProgressed,
    TaskQueued,
    TaskScheduled,
    TaskStarted,
    TaskSubmitted,
    task,
)

FINAL = frozenset({"completed", "failed", "cancelled", "expired"})
LOST = frozenset({"crashed", "lease_expired"})


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
    agent_type: str | None = None
    not_before_ms: int = 0
    cancelling: bool = False
    cancel_reason: str | None = None
    expires: ExpiryReason | None = None

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
                agent_type=event.agent_type,
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
            return replace(state, cancelling=True, cancel_reason=event.reason, expires=event.expires)
        case TaskCancelled():
            return replace(state, status="cancelled")
        case TaskExpired():
            return replace(state, status="expired")
        case _:
            assert_never(event)
