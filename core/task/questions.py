"""Questions of attempts: the task waits without a slot until somebody answers, and the next attempt knows."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from core.execution import Usage
from core.kernel.errors import Refused, Unprocessable
from core.kernel.registry import Context, Route, Scope
from core.task.budget import nothing_left, overrun, used_at_end
from core.task.events import (
    AttemptOutcome,
    TaskAnswered,
    TaskAsked,
    TaskEvent,
    task,
)
from core.task.rules import after, attempt_ended, hold_fence, queued
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
    usage: Usage | None = None


@task.decides("task.ask", scope=Scope.HOST)
def ask(command: AskTask, state: Task, context: Context) -> list[TaskEvent]:
    """The attempt ends with its question; whoever asks without end, or has nothing left to go on with, fails."""
    hold_fence(state, command.fence)
    if state.cancelling and not state.overrun:
        return _end_with(state, command, context, "cancelled", "It was cancelled while it asked.")
    used = used_at_end(state, command.usage, context.now_ms)
    spent = overrun(state, used) or nothing_left(state, used)
    if spent is not None:
        return _end_with(state, command, context, "budget_exceeded", spent)
    if len(state.answers) >= QUESTIONS_MAX:
        return _end_with(state, command, context, "failed", f"It asked more than {QUESTIONS_MAX} questions.")
    return [
        TaskAsked(
            fence=command.fence,
            agent_id=state.agent_id or "",
            question=command.question,
            choices=command.choices,
            started_ms=command.started_ms,
            used=used,
        )
    ]


def _end_with(state: Task, command: AskTask, context: Context, outcome: AttemptOutcome, error: str) -> list[TaskEvent]:
    """The attempt and its task end instead of asking."""
    ended = attempt_ended(state, outcome, error, context, usage=command.usage)
    return [ended, *after(state, ended, context, retryable=False, retry_after_ms=None)]


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
