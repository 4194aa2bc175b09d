"""What hosts say of attempts: started, got further, completed, failed. Each carries the fence."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from core.kernel.registry import Context, Scope
from core.task.events import AttemptEnded, TaskCompleted, TaskEvent, TaskProgressed, TaskStarted, task
from core.task.rules import after, hold_fence
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
    hold_fence(state, command.fence)
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
    hold_fence(state, command.fence)
    return [
        TaskCompleted(
            fence=command.fence,
            agent_id=state.agent_id or "",
            started_ms=command.started_ms,
            result=command.result,
            agent_type=state.agent_type,
            type=state.spec.type,
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
    hold_fence(state, command.fence)
    ended = AttemptEnded(
        fence=command.fence,
        agent_id=state.agent_id or "",
        outcome=command.outcome,
        error=command.error,
        started_ms=command.started_ms,
        result=command.result,
        agent_type=state.agent_type,
        type=state.spec.type,
    )
    return [ended, *after(state, ended, context, command.retryable, command.retry_after_ms)]
