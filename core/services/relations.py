"""What a submission may name: tasks that it depends on, and the task that it is a part of."""

from __future__ import annotations

from core.kernel.command_bus import CommandBus
from core.kernel.errors import NotFound, Unprocessable
from core.task import FINAL, Dependency, SubmitTask, Task


async def know_relations(bus: CommandBus, command: SubmitTask, task_id: str) -> None:
    """Raises Unprocessable for a task that depends on, or is a part of, what there is not.

    What ends between this look and the commit is no matter: an end never changes, and the scheduler looks it up.
    """
    for index, said in enumerate(command.depends_on):
        other = said.task if isinstance(said, Dependency) else said
        # What names an item of a batch, or the task itself, is the decision's to refuse.
        known = other is None or other.startswith("@") or other == task_id
        if not known and not await bus.position_of("task", str(other)):
            raise Unprocessable(
                f"There is no task {other} to depend on.",
                code="unknown_dependency",
                pointer=f"/depends_on/{index}",
                remedy="Submit it first, or both in one batch, where `@ref` names another item.",
            )
    if command.parent is not None and not command.parent.startswith("@"):
        await _know_parent(bus, command.parent)


async def _know_parent(bus: CommandBus, parent_id: str) -> None:
    try:
        parent: Task = await bus.load("task", parent_id)
    except NotFound:
        raise Unprocessable(
            f"There is no task {parent_id} to be a part of.", code="unknown_parent", pointer="/parent"
        ) from None
    if parent.status in FINAL or parent.cancelling:
        raise Unprocessable(
            f"Task {parent_id} takes no more parts: it is {parent.status}"
            f"{' and being cancelled' if parent.cancelling else ''}.",
            code="parent_ended",
            pointer="/parent",
            remedy="Submit it without a parent, or as a part of a task that has not ended.",
        )
