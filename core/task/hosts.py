"""What hosts say of attempts: started, got further, completed, failed. Each carries the fence."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from core.execution import Usage
from core.kernel.registry import Context, Scope
from core.task.budget import overrun, used_at_end, used_on
from core.task.events import CancelRequested, TaskCompleted, TaskEvent, TaskProgressed, TaskStarted, task
from core.task.rules import CANCEL_GRACE_S, after, attempt_ended, hold_fence
from core.task.state import Task


class StartTask(Struct, frozen=True, kw_only=True):
    """The attempt runs."""

    task_id: str
    fence: int
    started_ms: int


@task.decides("task.start", scope=Scope.HOST)
def start(command: StartTask, state: Task, context: Context) -> list[TaskEvent]:
    """Said once per attempt."""
    hold_fence(state, command.fence)
    if state.status == "running":
        return []
    return [TaskStarted(fence=command.fence, agent_id=state.agent_id or "", started_ms=command.started_ms)]


class ProgressTask(Struct, frozen=True, kw_only=True):
    """The attempt reached a new step, or has used more: `usage` is what it used from its beginning."""

    task_id: str
    fence: int
    progress: Annotated[float, Meta(ge=0, le=1)] | None = None
    current_step: Annotated[str, Meta(max_length=256)] | None = None
    steps_completed: int | None = None
    total_steps: int | None = None
    usage: Usage | None = None


@task.decides("task.progress", scope=Scope.HOST)
def progress(command: ProgressTask, state: Task, context: Context) -> list[TaskEvent]:
    """Only from the attempt that holds the fence. One that used more than its task's budget is asked to stop."""
    hold_fence(state, command.fence)
    used = used_on(state, command.usage)
    said = TaskProgressed(
        fence=command.fence,
        progress=command.progress,
        current_step=command.current_step,
        steps_completed=command.steps_completed,
        total_steps=command.total_steps,
        used=used,
    )
    over = None if state.cancelling else overrun(state, used)
    if over is None:
        return [said]
    return [said, CancelRequested(grace_s=CANCEL_GRACE_S, reason=over, fails="budget_exceeded")]


class CompleteTask(Struct, frozen=True, kw_only=True):
    """The attempt did what was asked."""

    task_id: str
    fence: int
    started_ms: int
    result: dict[str, Any]
    usage: Usage | None = None


@task.decides("task.complete", scope=Scope.HOST)
def complete(command: CompleteTask, state: Task, context: Context) -> list[TaskEvent]:
    """A task completes once, by the attempt that holds the fence; a completion beats a cancel on its way.

    One that used more than the task's budget fails; its result stands with the attempt.
    """
    hold_fence(state, command.fence)
    used = used_at_end(state, command.usage, context.now_ms)
    over = overrun(state, used)
    if over is not None:
        ended = attempt_ended(
            state,
            "budget_exceeded",
            over,
            context,
            usage=command.usage,
            started_ms=command.started_ms,
            result=command.result,
        )
        return [ended, *after(state, ended, context, retryable=False, retry_after_ms=None)]
    return [
        TaskCompleted(
            fence=command.fence,
            agent_id=state.agent_id or "",
            started_ms=command.started_ms,
            result=command.result,
            agent_type=state.agent_type,
            type=state.spec.type,
            used=used,
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
    usage: Usage | None = None


@task.decides("task.fail", scope=Scope.HOST)
def fail(command: FailTask, state: Task, context: Context) -> list[TaskEvent]:
    """Another attempt after the back-off, or the end: also where the task's budget leaves nothing to another one."""
    hold_fence(state, command.fence)
    over = overrun(state, used_at_end(state, command.usage, context.now_ms))
    ended = attempt_ended(
        state,
        command.outcome if over is None else "budget_exceeded",
        over or command.error,
        context,
        usage=command.usage,
        started_ms=command.started_ms,
        result=command.result,
    )
    return [ended, *after(state, ended, context, command.retryable, command.retry_after_ms)]
