"""Tasks that are made of what the log holds: the run of a schedule, the replay of what ended badly."""

from __future__ import annotations

from typing import Any, TypedDict
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from core.kernel.commit import Event
from core.kernel.errors import Refused, TooMany
from core.kernel.ids import at_time
from core.kernel.registry import Context, Route, Scope
from core.task.callers import SubmitTask, submit
from core.task.dependencies import Id
from core.task.events import TaskBlocked, TaskQueued, TaskSubmitted, task
from core.task.state import Task


class RunScheduled(Struct, frozen=True, kw_only=True):
    """Submit the run of a schedule that is due at this time. `task` holds the fields of a submission."""

    schedule_id: str
    due_ms: int
    task: dict[str, Any]


def run_id(schedule_id: str, due_ms: int) -> UUID:
    """The id of the command that submits a run: whoever sends it again, it is the same run."""
    return at_time(due_ms, f"run {schedule_id} {due_ms}")


@task.decides("task.run_scheduled", scope=Scope.INTERNAL, creates=True)
def run_scheduled(command: RunScheduled, state: Task | None, context: Context) -> list[Event]:
    """A task like any other, that knows its schedule and its time."""
    asked = submit(msgspec.convert(command.task, SubmitTask), None, context)
    submitted = asked[0]
    assert isinstance(submitted, TaskSubmitted)
    return [replace(submitted, schedule_id=command.schedule_id, due_ms=command.due_ms), *asked[1:]]


REPLAYABLE = frozenset({"failed", "expired", "cancelled"})


class ReplayTask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Replay a task that failed, expired or was cancelled: a new task that asks for the same, with `replay_of`.

    Its not_before, deadline and parent were about the first one: they are left out. What it depends on counts again.
    """

    task_id: Id


class Replaying(TypedDict):
    """Which task is asked for again."""

    replay_of: str


def _replay_answer(command: ReplayTask, accepted: Any) -> Replaying:
    return {"replay_of": command.task_id}


@task.decides(
    "task.replay",
    route=Route("POST", "/api/tasks/{task_id}/replay", 202),
    creates=True,
    copies="task_id",
    answer=_replay_answer,
    faults={"not_replayable": Refused, "too_many_tasks": TooMany},
)
def replay(command: ReplayTask, state: Task, context: Context) -> list[Event]:
    """The old task stays as it ended."""
    if state.status not in REPLAYABLE:
        raise Refused(
            f"The task is {state.status}: there is nothing to make up for.",
            code="not_replayable",
            remedy="Replay what failed, expired or was cancelled; submit the same again for another result.",
        )
    spec = replace(
        state.spec,
        replay_of=command.task_id,
        not_before_ms=None,
        deadline_ms=None,
        schedule_id=None,
        due_ms=None,
        parent=None,
    )
    return [spec, TaskBlocked() if spec.depends_on else TaskQueued()]
