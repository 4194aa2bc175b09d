"""What the bus itself leaves on the log: commands that changed nothing and commands that were refused."""

from __future__ import annotations

from typing import Any

from core.kernel.commit import Event, Moment
from core.kernel.registry import Aggregate

outcomes = Aggregate("refusal")


@outcomes.event("command.unchanged")
class CommandUnchanged(Event, frozen=True):
    """An accepted command found its wish already fulfilled. Stands on the aggregate's own subject."""


@outcomes.event("command.refused", final=True)
class CommandRefused(Event, frozen=True):
    """A decision said no. Never holds the payload. Stands on a subject of its own."""

    command: str
    target: str
    code: str
    sentence: str
    pointer: str | None = None


@outcomes.event("refusals.suppressed", final=True)
class RefusalsSuppressed(Event, frozen=True):
    """More refusals of one actor than the log takes; only their number is kept."""

    count: int


@outcomes.evolves
def evolve(state: Any, event: Any, moment: Moment) -> Any:
    """Refusals build no state."""
    return state
