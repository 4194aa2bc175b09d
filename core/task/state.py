"""What decisions about a task need to know, and the fold that gives it."""

from __future__ import annotations

from typing import Any, assert_never

from msgspec import Struct
from msgspec.structs import replace

from core.kernel.commit import Moment
from core.task.events import (
    AttemptEnded,
    CancelRequested,
    DependenciesEnded,
    ExpiryReason,
    TaskAnswered,
    TaskApproved,
    TaskAsked,
    TaskAssigned,
    TaskBlocked,
    TaskCancelled,
    TaskCompleted,
    TaskEvent,
    TaskExpired,
    TaskFailed,
    TaskProgressed,
    TaskQueued,
    TaskRejected,
    TaskScheduled,
    TaskStarted,
    TaskSubmitted,
    Used,
    task,
)
from core.task.usage import NOTHING, Spent

FINAL = frozenset({"completed", "failed", "cancelled", "expired"})
LOST = frozenset({"crashed", "lease_expired"})


class Answered(Struct, frozen=True):
    """A question that an attempt asked, and what it was told."""

    question: str
    answer: Any


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
    # Whether it is being stopped because it used more than its budget.
    overrun: bool = False
    assigned_ms: int = 0
    # What all attempts have told that they used, and what the last one has.
    spent: Spent = NOTHING
    told: Spent = NOTHING
    # The tasks, and the places in depends_on of the approvals, that it still waits for.
    open_tasks: frozenset[str] = frozenset()
    open_approvals: frozenset[int] = frozenset()
    inputs: dict[str, Any] = {}
    question: str | None = None
    choices: list[str] | None = None
    answers: tuple[Answered, ...] = ()

    @property
    def held(self) -> bool:
        """Whether an attempt holds a slot and a lease."""
        return self.status in ("assigned", "running")


@task.evolves
def evolve(state: Task | None, event: TaskEvent, moment: Moment) -> Task:
    """The fold of a task."""
    if isinstance(event, TaskSubmitted):
        return _submitted(event, moment)
    assert state is not None, "the first event of a task is task.submitted"
    match event:
        case TaskBlocked():
            return replace(state, status="blocked")
        case DependenciesEnded():
            return replace(
                state,
                open_tasks=state.open_tasks - {end.task for end in event.ends},
                inputs=state.inputs | (event.inputs or {}),
            )
        case TaskApproved():
            return replace(state, open_approvals=state.open_approvals.difference(event.items))
        case TaskRejected():
            return state
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
                assigned_ms=moment.time_ms,
                told=NOTHING,
            )
        case TaskStarted():
            return replace(state, status="running")
        case TaskProgressed():
            return _used(state, event.used)
        case AttemptEnded():
            failed = event.outcome not in LOST and event.outcome not in ("interrupted", "voided", "cancelled")
            return replace(
                _used(state, event.used),
                failures=state.failures + failed,
                crashes=state.crashes + (event.outcome in LOST),
                agent_id=None,
                host_id=None,
            )
        case TaskAsked():
            return replace(
                _used(state, event.used),
                status="input_required",
                question=event.question,
                choices=event.choices,
                agent_id=None,
                host_id=None,
            )
        case TaskAnswered():
            answered = Answered(event.question, event.answer)
            return replace(state, question=None, choices=None, answers=(*state.answers, answered))
        case TaskCompleted():
            return replace(_used(state, event.used), status="completed")
        case TaskFailed():
            return replace(state, status="failed")
        case CancelRequested():
            return replace(
                state,
                cancelling=True,
                cancel_reason=event.reason,
                expires=event.expires,
                overrun=event.fails is not None,
            )
        case TaskCancelled():
            return replace(state, status="cancelled")
        case TaskExpired():
            return replace(state, status="expired")
        case _:
            assert_never(event)


def _used(state: Task, used: Used | None) -> Task:
    if used is None:
        return state
    return replace(state, spent=state.spent.plus(used), told=state.told.plus(used))


def _submitted(event: TaskSubmitted, moment: Moment) -> Task:
    state = Task(status="submitted", spec=event, submitted_ms=moment.time_ms, correlation_id=moment.correlation_id)
    if event.depends_on is None:
        return state
    return replace(
        state,
        open_tasks=frozenset(item.task for item in event.depends_on if item.task is not None),
        open_approvals=frozenset(index for index, item in enumerate(event.depends_on) if item.type == "approval"),
    )
