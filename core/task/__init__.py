"""The task: what somebody wants done, its attempts, and its one end.

    submitted -> blocked (dependencies) | scheduled (back-off) -> queued -> assigned -> running
              -> completed | failed | cancelled; running -> input_required -> queued

The fence of an attempt is the position of its `task.assigned`. Whatever a host says carries the fence; a stale one is
refused, so completion and expiry race on one expected position and exactly one wins.

Read events, state, then the commands with their decisions by who issues them: callers, scheduler, hosts; and what a
task waits for: dependencies, questions.
"""

from __future__ import annotations

from core.task.callers import (
    DEPENDENCIES_MAX,
    NOT_AVAILABLE,
    PRIORITIES,
    CancelTask,
    SubmitTask,
    Word,
    cancel,
    submit,
)
from core.task.dependencies import (
    ApproveTask,
    Id,
    RejectTask,
    SettleDependencies,
    approve,
    reject,
    settle,
)
from core.task.events import (
    AttemptEnded,
    AttemptOutcome,
    CancelRequested,
    DependenciesEnded,
    Dependency,
    DependencyEnd,
    Retry,
    Routing,
    TaskAnswered,
    TaskApproved,
    TaskAsked,
    TaskAssigned,
    TaskBlocked,
    TaskCancelled,
    TaskCompleted,
    TaskEvent,
    TaskFailed,
    TaskProgressed,
    TaskQueued,
    TaskRejected,
    TaskScheduled,
    TaskStarted,
    TaskSubmitted,
    task,
)
from core.task.hosts import CompleteTask, FailTask, ProgressTask, StartTask, complete, fail, progress, start
from core.task.inputs import INPUTS_MAX_BYTES, placed
from core.task.questions import ANSWER_MAX_BYTES, QUESTIONS_MAX, AnswerTask, AskTask, answer, ask
from core.task.rules import CANCEL_GRACE_S, backoff_ms
from core.task.scheduler import AssignTask, CancelChild, ExpireTask, QueueTask, assign, cancel_child, expire, queue
from core.task.state import FINAL, LOST, Answered, Task, evolve

__all__ = [
    "ANSWER_MAX_BYTES",
    "CANCEL_GRACE_S",
    "DEPENDENCIES_MAX",
    "FINAL",
    "INPUTS_MAX_BYTES",
    "LOST",
    "NOT_AVAILABLE",
    "PRIORITIES",
    "QUESTIONS_MAX",
    "AnswerTask",
    "Answered",
    "ApproveTask",
    "AskTask",
    "AssignTask",
    "AttemptEnded",
    "AttemptOutcome",
    "CancelChild",
    "CancelRequested",
    "CancelTask",
    "CompleteTask",
    "DependenciesEnded",
    "Dependency",
    "DependencyEnd",
    "ExpireTask",
    "FailTask",
    "Id",
    "ProgressTask",
    "QueueTask",
    "RejectTask",
    "Retry",
    "Routing",
    "SettleDependencies",
    "StartTask",
    "SubmitTask",
    "Task",
    "TaskAnswered",
    "TaskApproved",
    "TaskAsked",
    "TaskAssigned",
    "TaskBlocked",
    "TaskCancelled",
    "TaskCompleted",
    "TaskEvent",
    "TaskFailed",
    "TaskProgressed",
    "TaskQueued",
    "TaskRejected",
    "TaskScheduled",
    "TaskStarted",
    "TaskSubmitted",
    "Word",
    "answer",
    "approve",
    "ask",
    "assign",
    "backoff_ms",
    "cancel",
    "cancel_child",
    "complete",
    "evolve",
    "expire",
    "fail",
    "placed",
    "progress",
    "queue",
    "reject",
    "settle",
    "start",
    "submit",
    "task",
]
