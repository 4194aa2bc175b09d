"""What every end of an attempt obeys: the fence, the retry policy, the back-off."""

from __future__ import annotations

from typing import Any

from core.execution import Usage
from core.kernel.errors import Refused
from core.kernel.registry import Context
from core.task.budget import nothing_left, used_at_end
from core.task.events import (
    AttemptEnded,
    AttemptOutcome,
    CancelRequested,
    Retry,
    TaskCancelled,
    TaskEvent,
    TaskExpired,
    TaskFailed,
    TaskQueued,
    TaskScheduled,
    TaskSubmitted,
)
from core.task.state import LOST, Task

CANCEL_GRACE_S = 5.0


def queued(spec: TaskSubmitted, context: Context) -> list[TaskEvent]:
    """What follows when nothing holds a task back: it was submitted, unblocked or answered. Its time may yet come."""
    begin_ms = spec.not_before_ms
    if begin_ms is not None and begin_ms > context.now_ms:
        return [TaskScheduled(not_before_ms=begin_ms)]
    return [TaskQueued()]


def cancelled(state: Task, reason: str | None) -> list[TaskEvent]:
    """An attempt is asked to stop; what none works on ends at once."""
    if state.held:
        return [CancelRequested(grace_s=CANCEL_GRACE_S, reason=reason)]
    return [TaskCancelled(reason=reason)]


def hold_fence(state: Task, fence: int) -> None:
    """Raises Refused for an attempt that does not hold the task any more."""
    if not state.held or state.fence != fence:
        raise Refused(
            f"Fence {fence} does not hold this task any more: it is {state.status} with fence {state.fence}.",
            code="stale_fence",
            remedy="Stop the attempt; what it did is not accepted.",
        )


def attempt_ended(
    state: Task,
    outcome: AttemptOutcome,
    error: str,
    context: Context,
    *,
    usage: Usage | None = None,
    started_ms: int | None = None,
    result: dict[str, Any] | None = None,
) -> AttemptEnded:
    """The end of the attempt that holds a task, with what it used."""
    return AttemptEnded(
        fence=state.fence,
        agent_id=state.agent_id or "",
        outcome=outcome,
        error=error,
        started_ms=started_ms,
        result=result,
        agent_type=state.agent_type,
        type=state.spec.type,
        used=used_at_end(state, usage, context.now_ms),
    )


def after(
    state: Task, ended: AttemptEnded, context: Context, retryable: bool, retry_after_ms: int | None
) -> list[TaskEvent]:
    """What follows the end of an attempt: expired, cancelled, queued again, scheduled after a back-off, or failed."""
    if state.expires is not None:
        return [TaskExpired(reason=state.expires)]
    if (state.cancelling and not state.overrun) or ended.outcome == "cancelled":
        return [TaskCancelled(reason=state.cancel_reason)]
    if ended.outcome == "budget_exceeded":
        return [TaskFailed(error=ended.error, outcome="budget_exceeded")]
    follows = _next(state, ended, context, retryable, retry_after_ms)
    spent = None if isinstance(follows, TaskFailed) else nothing_left(state, ended.used)
    return [follows] if spent is None else [TaskFailed(error=f"{spent} {ended.error}", outcome="budget_exceeded")]


def _next(
    state: Task, ended: AttemptEnded, context: Context, retryable: bool, retry_after_ms: int | None
) -> TaskQueued | TaskScheduled | TaskFailed:
    """Another attempt, by the retry policy, or the end."""
    policy = state.spec.retry
    if ended.outcome in ("interrupted", "voided"):
        return TaskQueued()
    if ended.outcome in LOST:
        if state.crashes < policy.max_crashes:
            return TaskQueued()
        return TaskFailed(error=f"Lost {state.crashes + 1} attempts with their host. {ended.error}", outcome="crashed")
    if not retryable or ended.outcome in policy.non_retryable or state.failures + 1 >= policy.max_attempts:
        return TaskFailed(error=ended.error, outcome=ended.outcome)
    delay_ms = retry_after_ms if retry_after_ms is not None else backoff_ms(policy, state.failures, context.draw)
    return TaskScheduled(not_before_ms=context.now_ms + delay_ms)


def backoff_ms(policy: Retry, failures_before: int, draw: float) -> int:
    """Exponential back-off with full jitter: uniform in [0, cap), cap doubling up to the policy's maximum.

    Full jitter spreads retries best (AWS Architecture Blog, "Exponential Backoff and Jitter", 2015).
    """
    exponent = min(failures_before, 64)
    cap = min(policy.max_interval_ms, policy.initial_interval_ms * policy.backoff_multiplier**exponent)
    return int(cap * draw)
