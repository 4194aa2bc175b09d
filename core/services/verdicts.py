"""What a host reports of an attempt that has ended."""

from __future__ import annotations

from typing import Literal

from core.execution import Outcome, Usage
from core.kernel.errors import HivebusError
from core.services.link import Run
from core.services.silence import SILENT
from core.task import AskTask, CompleteTask, FailTask


def unacceptable(run: Run, error: HivebusError, started_ms: int, usage: Usage | None) -> FailTask:
    """The report of work that was done and whose result the log will never take."""
    return FailTask(
        task_id=run.task_id,
        fence=run.fence,
        outcome="failed",
        error=f"The work was done, and its result cannot be kept: {error.sentence}",
        retryable=False,
        started_ms=started_ms,
        usage=usage,
    )


def verdict(
    run: Run, outcome: Outcome, started_ms: int, stopped_for: str | None, usage: Usage | None
) -> CompleteTask | FailTask | AskTask:
    """The report of an outcome; `stopped_for` is why the host cancelled the attempt, if it did."""
    if outcome.outcome == "input_required":
        return AskTask(
            task_id=run.task_id,
            fence=run.fence,
            question=outcome.question or "",
            choices=outcome.choices,
            started_ms=started_ms,
            usage=usage,
        )
    if outcome.outcome == "completed":
        result = outcome.result or {}
        return CompleteTask(task_id=run.task_id, fence=run.fence, started_ms=started_ms, result=result, usage=usage)
    kind: Literal["failed", "timed_out", "output_limit", "cancelled", "interrupted", "crashed"] = outcome.outcome
    if kind == "cancelled" and stopped_for == "interrupted":
        kind = "interrupted"
    error = outcome.error or f"The attempt was {kind}."
    if kind == "cancelled" and stopped_for == SILENT:
        kind = "timed_out"
        error = f"It said nothing for {run.silence_timeout_s:g} s (silence_timeout_s) and was stopped."
    return FailTask(
        task_id=run.task_id,
        fence=run.fence,
        outcome=kind,
        error=error,
        retryable=outcome.retryable,
        started_ms=started_ms,
        retry_after_ms=outcome.retry_after_ms,
        result=outcome.result,
        usage=usage,
    )
