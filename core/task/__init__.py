"""The task: what somebody wants done, its attempts, and its one end.

    submitted -> scheduled (not_before, back-off) -> queued -> assigned -> running
              -> completed | failed | cancelled | expired

The fence of an attempt is the position of its `task.assigned`. Whatever a host says carries the fence; a stale one is
refused, so completion and expiry race on one expected position and exactly one wins.

Read events, state, then the commands with their decisions by who issues them: callers, scheduler, hosts.
"""

from __future__ import annotations

from core.task.callers import (
    NOT_AVAILABLE,
    PRIORITIES,
    TASK_FAULTS,
    CancelTask,
    Id,
    SubmitTask,
    Time,
    Word,
    cancel,
    submit,
)
from core.task.copies import ReplayTask, RunScheduled, replay, run_id, run_scheduled
from core.task.events import (
    AttemptEnded,
    AttemptOutcome,
    CancelRequested,
    ExpiryReason,
    Retry,
    Routing,
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
from core.task.hosts import CompleteTask, FailTask, ProgressTask, StartTask, complete, fail, progress, start
from core.task.rules import CANCEL_GRACE_S, backoff_ms
from core.task.scheduler import AssignTask, EndOverdueTask, ExpireTask, QueueTask, assign, end_overdue, expire, queue
from core.task.state import FINAL, LOST, Task, evolve

__all__ = [
    "CANCEL_GRACE_S",
    "FINAL",
    "LOST",
    "NOT_AVAILABLE",
    "PRIORITIES",
    "TASK_FAULTS",
    "AssignTask",
    "AttemptEnded",
    "AttemptOutcome",
    "CancelRequested",
    "CancelTask",
    "CompleteTask",
    "EndOverdueTask",
    "ExpireTask",
    "ExpiryReason",
    "FailTask",
    "Id",
    "ProgressTask",
    "QueueTask",
    "ReplayTask",
    "Retry",
    "Routing",
    "RunScheduled",
    "StartTask",
    "SubmitTask",
    "Task",
    "TaskAssigned",
    "TaskCancelled",
    "TaskCompleted",
    "TaskEvent",
    "TaskExpired",
    "TaskFailed",
    "TaskProgressed",
    "TaskQueued",
    "TaskScheduled",
    "TaskStarted",
    "TaskSubmitted",
    "Time",
    "Word",
    "assign",
    "backoff_ms",
    "cancel",
    "complete",
    "end_overdue",
    "evolve",
    "expire",
    "fail",
    "progress",
    "queue",
    "replay",
    "run_id",
    "run_scheduled",
    "start",
    "submit",
    "task",
]
