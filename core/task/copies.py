"""Tasks that are made of what the log holds: the run of a schedule."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from core.kernel.commit import Event
from core.kernel.ids import at_time
from core.kernel.registry import Context, Scope
from core.task.callers import SubmitTask, submit
from core.task.events import TaskSubmitted, task
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
