"""Questions of attempts: the task waits without a slot until somebody answers, and the next attempt knows."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from core.kernel.errors import Refused, Unprocessable
from core.kernel.registry import Context, Route, Scope
from core.task.events import (
    AttemptEnded,
    AttemptOutcome,
    TaskAnswered,
    TaskAsked,
    TaskCancelled,
    TaskEvent,
    TaskFailed,
    task,
)
from core.task.rules import hold_fence, queued
from core.task.state import Task

QUESTIONS_MAX = 20
ANSWER_MAX_BYTES = 8 * 1024

Question = Annotated[str, Meta(min_length=1, max_length=4000)]
Choices = Annotated[list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(min_length=1, max_length=32)]


class AskTask(Struct, frozen=True, kw_only=True):
    """The attempt cannot go on without an answer."""

    task_id: str
    fence: int
    question: Question
    choices: Choices | None = None
    started_ms: int | None = None


@task.decides("task.ask", scope=Scope.HOST)
def ask(command: AskTask, state: Task, context: Context) -> list[TaskEvent]:
    """The attempt ends with its question; whoever asks without end fails."""
    hold_fence(state, command.fence)
    if state.cancelling:
        error = "It was cancelled while it asked."
        return [_ended(state, "cancelled", error), TaskCancelled(reason=state.cancel_reason)]
    if len(state.answers) >= QUESTIONS_MAX:
        error = f"It asked more than {QUESTIONS_MAX} questions."
        return [_ended(state, "failed", error), TaskFailed(error=error, outcome="failed")]
    return [
        TaskAsked(
            fence=command.fence,
            agent_id=state.agent_id or "",
            question=command.question,
            choices=command.choices,
            started_ms=command.started_ms,
        )
    ]


def _ended(state: Task, outcome: AttemptOutcome, error: str) -> AttemptEnded:
    return AttemptEnded(
        fence=state.fence,
        agent_id=state.agent_id or "",
        outcome=outcome,
        error=error,
        agent_type=state.agent_type,
        type=state.spec.type,
    )


class AnswerTask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answer what a task asks: it is queued again, and its next attempt knows the answer."""

    task_id: Annotated[str, Meta(min_length=1, max_length=64)]
    answer: Any


@task.decides(
    "task.answer",
    route=Route("POST", "/api/tasks/{task_id}/answer", 202),
    faults={"nothing_asked": Refused, "not_a_choice": Unprocessable},
)
def answer(command: AnswerTask, state: Task, context: Context) -> list[TaskEvent]:
    """Only an open question is answered, once, and by one of its choices where it has any."""
    if state.status != "input_required" or state.question is None:
        raise Refused(f"The task asks nothing: it is {state.status}.", code="nothing_asked")
    if state.choices is not None and command.answer not in state.choices:
        raise Unprocessable(
            "This is none of the choices.",
            code="not_a_choice",
            pointer="/answer",
            remedy=f"One of: {', '.join(state.choices)}.",
        )
    if len(msgspec.json.encode(command.answer)) > ANSWER_MAX_BYTES:
        raise Unprocessable(
            f"An answer takes {ANSWER_MAX_BYTES} bytes of JSON.",
            pointer="/answer",
            remedy="Store it with PUT /api/blobs/{sha256} and answer with its hash.",
        )
    return [TaskAnswered(question=state.question, answer=command.answer), *queued(state.spec, context)]
