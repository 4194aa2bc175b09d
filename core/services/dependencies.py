"""What a command needs to know of tasks that have ended, read where it stands: on the log, or in the store."""

from __future__ import annotations

from msgspec import Struct

from core.kernel.command_bus import CommandBus
from core.kernel.errors import Unavailable
from core.process_managers.children import confirmed
from core.process_managers.dependencies import Settlement
from core.task import CancelChild, SettleDependencies


async def looked_up(bus: CommandBus, command: Struct) -> Struct | None:
    """The command with what became of all tasks that it says are to be looked up; None where nothing follows from it.

    Raises Unavailable where none of them has ended: the log is read behind the fold, which says that they have.
    """
    if isinstance(command, CancelChild) and command.look_up is not None:
        parent, child = await bus.commits("task", command.look_up), await bus.commits("task", command.task_id)
        return confirmed(command, parent, child)
    if not isinstance(command, SettleDependencies) or not command.look_up:
        return command
    settlement = Settlement(command, await bus.load("task", command.task_id))
    for task_id in command.look_up:
        settlement.add(task_id, await bus.commits("task", task_id))
    settled = settlement.command()
    if not settled.ends:
        raise Unavailable(f"What task {command.task_id} depends on has not ended as far as the log can be read.")
    return settled
