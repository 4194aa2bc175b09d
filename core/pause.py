"""The pauses of the queue: of all of it, of a task type, or of a concurrency key. What waits goes on waiting."""

from __future__ import annotations

from typing import Annotated, Literal, assert_never

from msgspec import Meta, Struct
from msgspec.structs import replace

from core.kernel.commit import Event, Moment
from core.kernel.errors import Refused, Unprocessable
from core.kernel.ids import named
from core.kernel.registry import Aggregate, Context, Route

queue = Aggregate("queue")

What = Literal["all", "type", "key"]
Name = Annotated[str, Meta(max_length=200)]
PAUSES_MAX = 1_000


@queue.event("queue.paused")
class QueuePaused(Event, frozen=True):
    """Nothing of this is started until it is resumed; `name` is empty for all."""

    what: What
    name: str
    reason: str | None = None


@queue.event("queue.resumed")
class QueueResumed(Event, frozen=True):
    """It goes on."""

    what: What
    name: str


class Queue(Struct, frozen=True):
    """What is paused."""

    pauses: frozenset[tuple[What, str]] = frozenset()

    @property
    def status(self) -> str:
        """Whether anything is."""
        return "paused" if self.pauses else "running"


@queue.evolves
def evolve(state: Queue | None, event: QueuePaused | QueueResumed, moment: Moment) -> Queue:
    """The fold of the pauses."""
    state = state or Queue()
    match event:
        case QueuePaused():
            return replace(state, pauses=state.pauses | {(event.what, event.name)})
        case QueueResumed():
            return replace(state, pauses=state.pauses - {(event.what, event.name)})
        case _:
            assert_never(event)


def queue_id(what: str) -> str:
    """There is one queue."""
    return named("queue", "main")


def _name(what: What, name: str | None) -> str:
    if (what == "all") == (name is not None and name != ""):
        raise Unprocessable(
            "A type or a key is paused by its name, all of the queue without one.",
            code="pause_name",
            pointer="/name",
            remedy='Such as {"what": "type", "name": "report"}, or {"what": "all"}.',
        )
    return name or ""


class PauseQueue(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pause the queue, a task type or a concurrency key: what waits is not started, what runs goes on."""

    what: What = "all"
    name: Name | None = None
    reason: Annotated[str, Meta(max_length=500)] | None = None


@queue.decides(
    "queue.pause",
    route=Route("POST", "/api/queue/pause", 202),
    upserts=True,
    target="what",
    identify=queue_id,
    faults={"pause_name": Unprocessable, "too_many_pauses": Refused},
)
def pause(command: PauseQueue, state: Queue | None, context: Context) -> list[Event]:
    """Twice is once."""
    name = _name(command.what, command.name)
    pauses = state.pauses if state is not None else frozenset()
    if (command.what, name) in pauses:
        return []
    if len(pauses) >= PAUSES_MAX:
        raise Refused(f"{PAUSES_MAX} types and keys are paused already.", code="too_many_pauses", remedy="Resume some.")
    return [QueuePaused(what=command.what, name=name, reason=command.reason)]


class ResumeQueue(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Resume what was paused. A type or a key stays paused while all of the queue is."""

    what: What = "all"
    name: Name | None = None


@queue.decides(
    "queue.resume",
    route=Route("POST", "/api/queue/resume", 202),
    upserts=True,
    target="what",
    identify=queue_id,
    faults={"pause_name": Unprocessable},
)
def resume(command: ResumeQueue, state: Queue | None, context: Context) -> list[Event]:
    """Twice is once. The very first word about the queue is kept even so: from then on there is a state to tell."""
    name = _name(command.what, command.name)
    if state is not None and (command.what, name) not in state.pauses:
        return []
    return [QueueResumed(what=command.what, name=name)]
