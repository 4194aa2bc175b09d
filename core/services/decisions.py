"""Carrying out a decision of the scheduler: as whom, with which id, and what becomes of a run that is refused."""

from __future__ import annotations

from core.kernel.command_bus import Accepted, Caller, CommandBus
from core.kernel.commit import cause_of
from core.kernel.errors import Invalid
from core.schedule import FireSchedule, SkipRuns
from core.scheduling.policy import Decision
from core.services.dependencies import looked_up
from core.task import RunScheduled

ACTOR = "system:scheduler"


async def carry_out(bus: CommandBus, decision: Decision) -> Accepted | None:
    """Issue the command; None where nothing follows from what it wants looked up. Raises what the bus raises.

    A run that this program would not accept any more is skipped instead, and its schedule says so.
    """
    command = await looked_up(bus, decision.command)
    if command is None:
        return None
    caller = Caller(
        actor=ACTOR,
        command_id=decision.command_id,
        correlation_id=decision.correlation_id,
        causation_id=cause_of(decision.cause),
        on_behalf_of=decision.on_behalf_of,
    )
    try:
        accepted = await bus.execute(command, caller)
        if isinstance(command, RunScheduled) and accepted.repeated:
            # It ran, and its schedule was not told: where a trim took the task, no fold can say so.
            fired = FireSchedule(schedule_id=command.schedule_id, due_ms=command.due_ms, task_id=accepted.aggregate_id)
            return await bus.execute(fired, Caller(actor=ACTOR))
        return accepted
    except Invalid as error:
        if not isinstance(command, RunScheduled):
            raise
        id_, due_ms = command.schedule_id, command.due_ms
        skipped = SkipRuns(schedule_id=id_, due_ms=due_ms, reason="refused", error=error.sentence)
        return await bus.execute(skipped, Caller(actor=ACTOR))
