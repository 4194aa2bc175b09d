"""What callers ask of tasks: submit and cancel."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta, Struct

from core.catalogue import AGENT_TYPES
from core.execution import COST_MAX, TOKENS_MAX, parameters_of
from core.kernel.answers import Unknown
from core.kernel.errors import HivebusError, Refused, TooMany, Unprocessable
from core.kernel.registry import Context, Route
from core.kernel.times import parse_rfc3339
from core.limit import Key
from core.task.budget import more_than_zero
from core.task.dependencies import Id, dependencies_of
from core.task.events import (
    Dependency,
    Retry,
    TaskBlocked,
    TaskEvent,
    TaskRef,
    TaskSubmitted,
    task,
)
from core.task.rules import cancelled, queued
from core.task.state import FINAL, Task

PRIORITIES = {"critical": 9, "high": 7, "normal": 5, "low": 3, "background": 1}

DEPENDENCIES_MAX = 100

Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$(?!\n)", max_length=100)]
Time = Annotated[str, Meta(pattern=r"^[0-9TtZz .:+-]{10,40}$(?!\n)")]
Seconds = Annotated[float, Meta(gt=0, le=366 * 86_400)]
# What documents say of a budget; one of zero is refused in our own words.
POSITIVE = {"exclusiveMinimum": 0}


class SubmitTask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Submit a task: a piece of work for an agent.

    `type` is the kind that statistics and routing go by, `parameters` is what the executor gets. Without `executor`
    the agent type's is taken. The answer comes when the command is on the log; the work runs afterwards.

    Times are RFC 3339. It is not started before `not_before`; if it waits at its `deadline`, longer than
    `queue_timeout_s` in one stay in the queue, or has not ended `total_timeout_s` after its submission, it expires. An
    attempt that says nothing for `silence_timeout_s` is timed out.

    When its attempts together say that they used more than `max_tokens` tokens or `max_cost`, it fails with the outcome
    `budget_exceeded`. What is left of the budget is all that another attempt gets. While a budget of its `project` is
    spent it waits.

    `depends_on` is what it waits for: ids of tasks, or objects {type, task, into, from, by}. In a batch an item may
    have a `ref`, and the others name it `@ref`. `parent` is the task that this one is a part of: cancelled with it.
    """

    type: Word
    parameters: dict[str, Any]
    executor: Word | None = None
    requires: Annotated[list[Word], Meta(max_length=32)] = []
    agent_type: Word | None = None
    agent_id: Id | None = None
    priority: Literal["critical", "high", "normal", "low", "background"] | Annotated[int, Meta(ge=0, le=9)] = "normal"
    timeout_s: Annotated[float, Meta(gt=0, le=86_400)] = 60.0
    retry: Retry = Retry()
    project: Word = "default"
    name: Annotated[str, Meta(max_length=200)] | None = None
    labels: Annotated[
        dict[Annotated[str, Meta(max_length=100)], Annotated[str, Meta(max_length=500)]], Meta(max_length=32)
    ] = {}
    fairness_key: Key | None = None
    concurrency_key: Key | None = None
    rate_key: Key | None = None
    routing: Literal["learned", "least_loaded"] = "learned"
    depends_on: Annotated[list[TaskRef | Dependency], Meta(max_length=DEPENDENCIES_MAX)] = []
    on_dependency_failure: Literal["cancel", "run", "fail"] = "cancel"
    parent: TaskRef | None = None
    ref: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$(?!\n)", max_length=64)] | None = None
    not_before: Time | None = None
    deadline: Time | None = None
    queue_timeout_s: Seconds | None = None
    total_timeout_s: Seconds | None = None
    silence_timeout_s: Annotated[float, Meta(ge=1, le=86_400)] | None = None
    max_tokens: Annotated[int, Meta(le=TOKENS_MAX, extra_json_schema=POSITIVE)] | None = None
    max_cost: Annotated[float, Meta(le=COST_MAX, extra_json_schema=POSITIVE)] | None = None


TASK_FAULTS: dict[str, type[HivebusError]] = {
    "executor_required": Unprocessable,
    "unknown_executor": Unprocessable,
    "unknown_agent_type": Unprocessable,
    "zero_budget": Unprocessable,
    "unknown_limit": Unprocessable,
    "deadline_passed": Unprocessable,
    "deadline_before_start": Unprocessable,
    "timeout_before_start": Unprocessable,
}


@task.decides(
    "task.submit",
    route=Route("POST", "/api/tasks", 202),
    creates=True,
    faults=TASK_FAULTS
    | {
        "too_many_tasks": TooMany,
        "unknown_dependency": Unprocessable,
        "self_dependency": Unprocessable,
        "bad_pointer": Unprocessable,
        "unknown_parent": Unprocessable,
        "parent_ended": Unprocessable,
        "not_in_a_batch": Unprocessable,
        "duplicate_ref": Unprocessable,
        "dependency_cycle": Unprocessable,
        "dependency_refused": Unprocessable,
    },
)
def submit(command: SubmitTask, state: Task | None, context: Context) -> list[TaskEvent]:
    """A valid task is accepted, and queued unless it waits for something."""
    more_than_zero(command.max_tokens, "/max_tokens")
    more_than_zero(command.max_cost, "/max_cost")
    executor = _executor_of(command)
    depends_on: list[Dependency] | None = None
    if command.depends_on:
        depends_on = dependencies_of(command.depends_on, executor, command.parameters, context.aggregate_id)
    else:
        parameters_of(executor, command.parameters)
    if command.ref is not None or (command.parent or "").startswith("@"):
        _refuse_reference(command)
    policy = command.on_dependency_failure
    priority = command.priority
    not_before_ms, deadline_ms = _times(command, context.now_ms)
    submitted = TaskSubmitted(
        type=command.type,
        executor=executor,
        parameters=command.parameters,
        requires=sorted(set(command.requires)),
        priority=PRIORITIES[priority] if isinstance(priority, str) else priority,
        timeout_s=command.timeout_s,
        retry=command.retry,
        project=command.project,
        agent_type=command.agent_type,
        agent_id=command.agent_id,
        name=command.name,
        labels=command.labels or None,
        fairness_key=command.fairness_key,
        concurrency_key=command.concurrency_key,
        rate_key=command.rate_key,
        not_before_ms=not_before_ms,
        deadline_ms=deadline_ms,
        queue_timeout_s=command.queue_timeout_s,
        total_timeout_s=command.total_timeout_s,
        silence_timeout_s=command.silence_timeout_s,
        routing=None if command.routing == "learned" else command.routing,
        depends_on=depends_on,
        on_dependency_failure=None if policy == "cancel" or depends_on is None else policy,
        parent=command.parent,
        max_tokens=command.max_tokens,
        max_cost=command.max_cost,
    )
    return [submitted, TaskBlocked()] if depends_on else [submitted, *queued(submitted, context)]


def _refuse_reference(command: SubmitTask) -> None:
    """A batch is taken apart before its items come here; what still names one is in none."""
    pointer = "/ref" if command.ref is not None else "/parent"
    raise Unprocessable(
        "Only the items of a batch can name each other.",
        code="not_in_a_batch",
        pointer=pointer,
        remedy="Submit them as one JSON array or file, or use the task's id.",
    )


def _times(command: SubmitTask, now_ms: int) -> tuple[int | None, int | None]:
    """not_before and deadline in milliseconds; a not_before that has passed says nothing. Raises Unprocessable."""
    begin_ms = None if command.not_before is None else parse_rfc3339(command.not_before, "/not_before")
    deadline_ms = None if command.deadline is None else parse_rfc3339(command.deadline, "/deadline")
    begin_ms = None if begin_ms is None or begin_ms <= now_ms else begin_ms
    if deadline_ms is not None and deadline_ms <= now_ms:
        raise Unprocessable(
            f"The deadline {command.deadline} has passed: the task could never start.",
            code="deadline_passed",
            pointer="/deadline",
            remedy="Give a time in the future, or leave deadline out.",
        )
    if begin_ms is not None and deadline_ms is not None and deadline_ms <= begin_ms:
        raise Unprocessable(
            f"The deadline {command.deadline} is not after not_before {command.not_before}: it could never start.",
            code="deadline_before_start",
            pointer="/deadline",
            remedy="Give a deadline after not_before.",
        )
    total_s = command.total_timeout_s
    if begin_ms is not None and total_s is not None and now_ms + int(total_s * 1000) <= begin_ms:
        raise Unprocessable(
            f"{total_s:g} s after its submission not_before has not come: it could never start.",
            code="timeout_before_start",
            pointer="/total_timeout_s",
            remedy="total_timeout_s counts from the submission: give more, or an earlier not_before.",
        )
    return begin_ms, deadline_ms


def _executor_of(command: SubmitTask) -> str:
    if command.executor is not None:
        return command.executor
    known = AGENT_TYPES.get(command.agent_type or "")
    if known is not None:
        return known.executor
    if command.agent_type is not None:
        raise Unprocessable(
            f"{command.agent_type} is no built-in agent type, and the task does not say which executor runs it.",
            code="unknown_agent_type",
            pointer="/agent_type",
            remedy=f'One of {", ".join(sorted(AGENT_TYPES))}; or add the "executor" of the agents of your own type.',
        )
    raise Unprocessable(
        "The task names neither an executor nor an agent type that has one.",
        code="executor_required",
        pointer="/executor",
        remedy=f'Add "executor": "command" (or python), or an agent_type: {", ".join(sorted(AGENT_TYPES))}.',
    )


class CancelTask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Cancel a task. A waiting one ends at once; a running one is asked to stop and killed after the grace (5 s)."""

    task_id: Id
    reason: Annotated[str, Meta(max_length=500)] | None = None


class Cancelling(TypedDict):
    """What a cancel did to the task."""

    message: str
    previous_status: str | None
    unknown: NotRequired[Unknown]


def _cancel_answer(command: CancelTask, accepted: Any) -> Cancelling:
    ended = accepted.state.status == "cancelled"
    answer: Cancelling = {
        "message": "The task is cancelled." if ended else "The running attempt is being stopped.",
        "previous_status": accepted.before.status if accepted.before else None,
    }
    if accepted.before is None:
        answer["unknown"] = {"previous_status": "this is the answer to a repeat"}
    return answer


@task.decides(
    "task.cancel",
    route=Route("DELETE", "/api/tasks/{task_id}", 202),
    answer=_cancel_answer,
    finishes=True,
    faults={"illegal_transition": Refused},
)
def cancel(command: CancelTask, state: Task, context: Context) -> list[TaskEvent]:
    """Whatever has not ended can be cancelled; twice is once."""
    if state.status == "cancelled" or state.cancelling:
        return []
    if state.status in FINAL:
        raise Refused(
            f"The task has ended already: it is {state.status}.",
            remedy="Only a task that has not ended can be cancelled.",
        )
    return cancelled(state, command.reason)
