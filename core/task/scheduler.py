"""What the scheduler does with tasks: assign, queue, expire an attempt, end what is overdue or was a part."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from core.kernel.errors import Refused
from core.kernel.registry import Context, Scope
from core.task.events import (
    CancelRequested,
    ExpiryReason,
    Routing,
    TaskAssigned,
    TaskEvent,
    TaskExpired,
    TaskQueued,
    task,
)
from core.task.rules import CANCEL_GRACE_S, after, attempt_ended, cancelled, hold_fence
from core.task.state import FINAL, Task


class AssignTask(Struct, frozen=True, kw_only=True):
    """Give a queued task to an agent. `term` is the position of the scheduler's election."""

    task_id: str
    agent_id: str
    host_id: str
    session: str
    term: int
    agent_type: str | None = None
    routing: Routing | None = None


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
            agent_type=command.agent_type,
            routing=command.routing,
        )
    ]


class QueueTask(Struct, frozen=True, kw_only=True):
    """The time that a scheduled task waits for has come."""

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
    hold_fence(state, command.fence)
    ended = attempt_ended(state, command.outcome, command.error, context)
    return [ended, *after(state, ended, context, retryable=True, retry_after_ms=None)]


class EndOverdueTask(Struct, frozen=True, kw_only=True):
    """The time of a task is up. `attempt` is the number of its last attempt, as folded by whoever says so."""

    task_id: str
    attempt: int
    reason: ExpiryReason


@task.decides("task.end_overdue", scope=Scope.INTERNAL)
def end_overdue(command: EndOverdueTask, state: Task, context: Context) -> list[TaskEvent]:
    """What waits ends at once; an attempt is asked to stop where it is the whole task whose time is up."""
    if state.status in FINAL or state.cancelling:
        return []
    if state.attempt != command.attempt:
        raise Refused(f"Attempt {state.attempt} came after {command.attempt}.", code="not_overdue")
    if not state.held:
        return [TaskExpired(reason=command.reason)]
    if command.reason != "total_timeout":
        raise Refused(f"An attempt holds the task: it is {state.status}.", code="not_overdue")
    return [CancelRequested(grace_s=CANCEL_GRACE_S, reason="its total_timeout_s is over", expires=command.reason)]


class CancelChild(Struct, frozen=True, kw_only=True):
    """Cancel a task because the one that it is a part of was cancelled.

    `look_up`: a parent of which the scheduler knows only that it has ended; whoever issues the command looks how.
    """

    task_id: str
    reason: str
    look_up: str | None = None


@task.decides("task.cancel_child", scope=Scope.INTERNAL)
def cancel_child(command: CancelChild, state: Task, context: Context) -> list[TaskEvent]:
    """Whatever has ended, or is being cancelled already, stays as it is."""
    return [] if state.status in FINAL or state.cancelling else cancelled(state, command.reason)
