"""The task: what somebody wants done, its attempts, and its one end.

    submitted -> scheduled (back-off) -> queued -> assigned -> running -> completed | failed | cancelled

The fence of an attempt is the position of its `task.assigned`. Whatever a host says carries the fence; a stale one is
refused, so completion and expiry race on one expected position and exactly one wins.

Read events, state, then the commands with their decisions by who issues them: callers, scheduler, hosts.
"""

from __future__ import annotations

from core.task.callers import (
    CANCEL_GRACE_S,
    NOT_AVAILABLE,
    PRIORITIES,
    CancelTask,
    Id,
    SubmitTask,
    Word,
    cancel,
    submit,
)
from core.task.events import (
    AttemptEnded,
    AttemptOutcome,
    CancelRequested,
    Retry,
    Routing,
    TaskAssigned,
    TaskCancelled,
    TaskCompleted,
    TaskEvent,
    TaskFailed,
    TaskProgressed,
    TaskQueued,
    TaskScheduled,
    TaskStarted,
    TaskSubmitted,
    task,
)
from core.task.hosts import CompleteTask, FailTask, ProgressTask, StartTask, complete, fail, progress, start
from core.task.rules import backoff_ms
from core.task.scheduler import AssignTask, ExpireTask, QueueTask, assign, expire, queue
from core.task.state import FINAL, LOST, Task, evolve

__all__ = [
    "CANCEL_GRACE_S",
    "FINAL",
    "LOST",
    "NOT_AVAILABLE",
    "PRIORITIES",
    "AssignTask",
    "AttemptEnded",
    "AttemptOutcome",
    "CancelRequested",
    "CancelTask",
    "CompleteTask",
    "ExpireTask",
    "FailTask",
    "Id",
    "ProgressTask",
    "QueueTask",
    "Retry",
    "Routing",
    "StartTask",
    "SubmitTask",
    "Task",
    "TaskAssigned",
    "TaskCancelled",
    "TaskCompleted",
    "TaskEvent",
    "TaskFailed",
    "TaskProgressed",
    "TaskQueued",
    "TaskScheduled",
    "TaskStarted",
    "TaskSubmitted",
    "Word",
    "assign",
    "backoff_ms",
    "cancel",
    "complete",
    "evolve",
    "expire",
    "fail",
    "progress",
    "queue",
    "start",
    "submit",
    "task",
]
