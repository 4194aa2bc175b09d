"""What every end of an attempt obeys: the fence, the retry policy, the back-off."""

from __future__ import annotations

from core.kernel.errors import Refused
from core.kernel.registry import Context
from core.task.events import (
    AttemptEnded,
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


def after(
    state: Task, ended: AttemptEnded, context: Context, retryable: bool, retry_after_ms: int | None
) -> list[TaskEvent]:
    """What follows the end of an attempt: expired, cancelled, queued again, scheduled after a back-off, or failed."""
    policy = state.spec.retry
    if state.expires is not None:
        return [TaskExpired(reason=state.expires)]
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
