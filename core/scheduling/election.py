"""The election of a scheduler: the position of `scheduler.elected` is its term."""

from __future__ import annotations

from msgspec import Struct

from core.kernel.commit import Event, Moment
from core.kernel.registry import Aggregate, Context, Scope

election = Aggregate("scheduler")

SCHEDULER_ID = "main"


@election.event("scheduler.elected")
class SchedulerElected(Event, frozen=True):
    """A scheduler leads from here on; assignments of an older term that come later are void."""

    leader: str


class Election(Struct, frozen=True):
    """The newest term and who leads in it."""

    leader: str
    term: int


@election.evolves
def evolve(state: Election | None, event: SchedulerElected, moment: Moment) -> Election:
    """The last election counts."""
    return Election(event.leader, moment.position)


class ElectScheduler(Struct, frozen=True, kw_only=True):
    """Begin a term."""

    scheduler_id: str
    leader: str


@election.decides("scheduler.elect", scope=Scope.INTERNAL, upserts=True)
def elect(command: ElectScheduler, state: Election | None, context: Context) -> list[SchedulerElected]:
    """Whoever holds the role's lock may begin a term."""
    return [SchedulerElected(leader=command.leader)]
