"""What a task waits for before it is queued: the ends of other tasks, their results, and approvals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from core.execution import parameters_of
from core.kernel.errors import Forbidden, HivebusError, Refused, Unprocessable
from core.kernel.registry import Context, Route, Scope
from core.task.events import (
    DependenciesEnded,
    Dependency,
    DependencyEnd,
    TaskApproved,
    TaskCancelled,
    TaskEvent,
    TaskFailed,
    TaskRejected,
    task,
)
from core.task.inputs import NoPlace, check_places, placed
from core.task.rules import queued
from core.task.state import FINAL, Task

Id = Annotated[str, Meta(min_length=1, max_length=64)]
Reason = Annotated[str, Meta(min_length=1, max_length=500)]

_SAID = {"completed": "completed", "failed": "failed", "cancelled": "was cancelled", "expired": "expired"}


def dependencies_of(
    items: Sequence[str | Dependency], executor: str, parameters: dict[str, Any], task_id: str
) -> list[Dependency]:
    """The items as they are stored. Raises Unprocessable with a pointer to what no task could wait for."""
    found = [Dependency(task=item) if isinstance(item, str) else item for item in items]
    places: dict[str, int] = {}
    for index, item in enumerate(found):
        _check(item, f"/depends_on/{index}", task_id)
        if item.into is not None and places.setdefault(item.into, index) != index:
            raise Unprocessable(
                f"Two results cannot go to the same place {item.into}.", pointer=f"/depends_on/{index}/into"
            )
    check_places(executor, parameters, places)
    return found


def _check(item: Dependency, pointer: str, task_id: str) -> None:
    if item.type == "approval":
        _leave_out(item, pointer, "task", "into", "source")
        return
    if item.task is None:
        raise Unprocessable(
            f"A dependency of type {item.type} names no task.", code="missing_field", pointer=f"{pointer}/task"
        )
    if item.task.startswith("@"):
        raise Unprocessable(
            f"{item.task} names an item of a batch, and this task was not submitted in one.",
            code="unknown_dependency",
            pointer=pointer,
            remedy="Give the task's id, or submit both as one batch.",
        )
    if item.task == task_id:
        raise Unprocessable("A task cannot depend on itself.", code="self_dependency", pointer=pointer)
    if item.type == "finish":
        _leave_out(item, pointer, "into", "source", "by")
        return
    _leave_out(item, pointer, "by")
    if not item.into:
        raise Unprocessable(
            "A dependency of type data says where the result goes.",
            code="missing_field",
            pointer=f"{pointer}/into",
            remedy='Add "into": a JSON pointer into the parameters, for example /arguments/text.',
        )


def _leave_out(item: Dependency, pointer: str, *fields: str) -> None:
    for field in fields:
        if getattr(item, field):
            name = "from" if field == "source" else field
            raise Unprocessable(
                f"{name} says nothing for a dependency of type {item.type}.", pointer=f"{pointer}/{name}"
            )


def unblocked(state: Task, inputs: dict[str, Any], context: Context) -> list[TaskEvent]:
    """Nothing is left to wait for: the task is queued, or fails where the results do not fit its parameters."""
    if inputs:
        try:
            parameters_of(state.spec.executor, placed(state.spec.parameters, inputs))
        except (Unprocessable, NoPlace) as error:
            where = f" ({error.pointer})" if isinstance(error, Unprocessable) and error.pointer else ""
            said = error.sentence if isinstance(error, Unprocessable) else f"{error}."
            sentence = f"The results of what it depends on do not fit its parameters: {said}{where}"
            return [TaskFailed(error=sentence, outcome="dependency_failed")]
    return queued(state.spec, context)


class SettleDependencies(Struct, frozen=True, kw_only=True):
    """Tasks that this one depends on have ended.

    `look_up` are those of which the scheduler knows only that: whoever issues the command turns them into `ends`
    first, with `inputs` from their results; `problem` says why a result cannot be used.
    """

    task_id: str
    ends: list[DependencyEnd] = []
    look_up: list[str] = []
    inputs: dict[str, Any] = {}
    problem: str | None = None


@task.decides("task.settle_dependencies", scope=Scope.INTERNAL)
def settle(command: SettleDependencies, state: Task, context: Context) -> list[TaskEvent]:
    """What a task depends on ends once; the last end, and the last approval, queue it."""
    if state.status != "blocked":
        return []
    ends = [end for end in command.ends if end.task in state.open_tasks]
    if not ends:
        return []
    bad = next((end for end in ends if end.status != "completed"), None)
    policy = state.spec.on_dependency_failure
    if bad is not None and policy != "run":
        said = _SAID.get(bad.status, "is not known")
        reason = f"Task {bad.task}, which it depends on, {said}."
        end = TaskFailed(error=reason, outcome="dependency_failed") if policy else TaskCancelled(reason=reason)
        return [DependenciesEnded(ends=ends), end]
    if command.problem is not None:
        return [DependenciesEnded(ends=ends), TaskFailed(error=command.problem, outcome="dependency_failed")]
    ended = DependenciesEnded(ends=ends, inputs=command.inputs or None)
    if state.open_approvals or not state.open_tasks.issubset(end.task for end in ends):
        return [ended]
    return [ended, *unblocked(state, state.inputs | command.inputs, context)]


class ApproveTask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Approve a task that waits for it. It is the word for every open approval that the caller may give."""

    task_id: Id
    reason: Reason


# What approving and rejecting have in common.
_FAULTS: dict[str, type[HivebusError]] = {
    "illegal_transition": Refused,
    "no_approval_asked": Refused,
    "not_an_approver": Forbidden,
}


@task.decides("task.approve", route=Route("POST", "/api/tasks/{task_id}/approve", 202), faults=_FAULTS)
def approve(command: ApproveTask, state: Task, context: Context) -> list[TaskEvent]:
    """Only who is named may approve; with the last approval, and nothing else open, the task is queued."""
    items = _approvals_for(state, context.actor)
    if not items:
        return []
    approved = TaskApproved(by=context.actor, reason=command.reason, items=items)
    if state.open_tasks or state.open_approvals.difference(items):
        return [approved]
    return [approved, *unblocked(state, state.inputs, context)]


class RejectTask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reject a task that waits for approval: it is cancelled, for the reason that is given."""

    task_id: Id
    reason: Reason


@task.decides("task.reject", route=Route("POST", "/api/tasks/{task_id}/reject", 202), finishes=True, faults=_FAULTS)
def reject(command: RejectTask, state: Task, context: Context) -> list[TaskEvent]:
    """Only who may approve may reject; one word is enough."""
    if not _approvals_for(state, context.actor):
        raise Refused("This caller's approval is not open any more.", remedy="Cancel the task instead.")
    reason = f"Rejected by {context.actor}: {command.reason}"
    return [TaskRejected(by=context.actor, reason=command.reason), TaskCancelled(reason=reason)]


def _approvals_for(state: Task, actor: str) -> list[int]:
    """The open approvals that an actor may give; none where all that are theirs were given.

    Raises Refused for a task that waits for no approval, Forbidden for who may give none.
    """
    if state.status in FINAL:
        raise Refused(f"The task has ended already: it is {state.status}.")
    items = state.spec.depends_on or []
    approvals = [index for index, item in enumerate(items) if item.type == "approval"]
    if not approvals:
        raise Refused("This task asks for no approval.", code="no_approval_asked")
    theirs = [index for index in approvals if not items[index].by or actor in items[index].by]
    if not theirs:
        named = sorted({name for index in approvals for name in items[index].by})
        raise Forbidden(
            f"{actor} may not approve this task.", code="not_an_approver", remedy=f"Ask one of: {', '.join(named)}."
        )
    return [index for index in theirs if index in state.open_approvals]
