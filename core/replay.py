"""The replay of many: everything that ended badly and fits a filter is asked for again.

What it picks is not in its event: it is what the views hold as of the event's own position, so whoever looks again,
under the same key or after a crash, picks the same. Each pick becomes a task by the command `task.replay`, whose id
follows from the old task's: whoever replays it in bulk, and however often, there is one new task.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict
from uuid import UUID

from msgspec import Meta, Struct

from core.kernel.answers import Position
from core.kernel.commit import Event, Moment
from core.kernel.errors import Unprocessable
from core.kernel.ids import derive
from core.kernel.registry import Aggregate, Context, Route
from core.kernel.times import parse_rfc3339
from core.task import Time, Word

REPLAY_MAX = 1_000

Ended = Literal["failed", "expired", "cancelled"]

replay = Aggregate("replay")


@replay.event("replay.started", final=True)
class ReplayStarted(Event, frozen=True):
    """What ended so, and fits, is replayed: as of this position, the oldest first, at most `limit` of them."""

    status: Ended
    limit: int
    type: str | None = None
    project: str | None = None
    agent_type: str | None = None
    outcome: str | None = None
    with_correlation_id: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    force: bool | None = None


class Replay(Struct, frozen=True):
    """What was asked for, and as of which position."""

    spec: ReplayStarted
    position: int
    status: str = "started"


@replay.evolves
def evolve(state: Replay | None, event: ReplayStarted, moment: Moment) -> Replay:
    """There is one event."""
    return Replay(event, moment.position)


class Picked(Struct, frozen=True):
    """What fits: how many, how many of them were replayed before, and the ids that are replayed now."""

    matched: int
    replayed: int
    tasks: list[str]


class StartReplay(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Replay all tasks that ended badly and fit: each becomes a new task that asks for the same, with `replay_of`.

    The oldest first, at most `limit` of them; what was replayed before is left out unless `force` is set. `since` and
    `until` bound the time of the end; `agent_type` is what a task asked for or ran on last, `outcome` that of its last
    attempt (failed, timed_out, crashed), or why it expired. With `dry_run` it is counted and nothing is done.
    """

    status: Ended
    type: Annotated[Word | None, Meta(description="Only tasks of this type.")] = None
    project: Annotated[Word | None, Meta(description="Only tasks of this project.")] = None
    agent_type: Annotated[Word | None, Meta(description="Only what asked for such an agent, or ran on one last.")] = (
        None
    )
    outcome: Annotated[
        Word | None, Meta(description="Only with this outcome: failed, timed_out, crashed, deadline.")
    ] = None
    with_correlation_id: Annotated[
        Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]+$(?!\n)", max_length=64)] | None,
        Meta(description="Only what was submitted together."),
    ] = None
    since: Annotated[Time | None, Meta(description="Only what ended at this time (RFC 3339) or later.")] = None
    until: Annotated[Time | None, Meta(description="Only what ended before this time.")] = None
    limit: Annotated[int, Meta(ge=1, le=REPLAY_MAX, description="At most so many, the oldest.")] = 100
    force: Annotated[bool, Meta(description="What was replayed before, too.")] = False
    dry_run: Annotated[bool, Meta(description="Count, and do nothing.")] = False


class ReplayAnswer(TypedDict):
    """What fits, and what became of each task that was picked, under its index.

    Each has `replay_of` and what `task.replay` answers, with `repeated` where that task was replayed already; or
    its problem document as `error`.
    """

    replay_id: Annotated[str | None, Meta(description="Null for a dry run, of which the log holds nothing.")]
    dry_run: bool
    matched: Annotated[int, Meta(ge=0, description="Tasks that fit.")]
    already_replayed: Annotated[int, Meta(ge=0, description="Those of them that were replayed before.")]
    remaining: Annotated[int, Meta(ge=0, description="Those that were left for another call: `limit` was reached.")]
    tasks: list[dict[str, Any]]
    replayed: Annotated[int, Meta(ge=0, description="How many have their replay now, by this call or an earlier one.")]
    errors: Annotated[int, Meta(ge=0, description="How many were refused.")]
    correlation_id: Annotated[str | None, Meta(description="Of all the new tasks; null for a dry run.")]
    position: Position
    repeated: NotRequired[Annotated[bool, Meta(description="The log held this very command already.")]]


class Carried(Struct, frozen=True, kw_only=True):
    """How far a replay was carried out. `replay_id` is None for a dry run."""

    picked: Picked
    tasks: list[dict[str, Any]]
    position: int
    replay_id: str | None = None
    correlation_id: str | None = None
    repeated: bool = False


def _answer(command: StartReplay, done: Carried) -> ReplayAnswer:
    errors = sum("error" in task for task in done.tasks)
    picked = done.picked
    answer: ReplayAnswer = {
        "replay_id": done.replay_id,
        "dry_run": command.dry_run,
        "matched": picked.matched,
        "already_replayed": picked.replayed,
        "remaining": picked.matched - len(picked.tasks) - (0 if command.force else picked.replayed),
        "tasks": done.tasks,
        "replayed": 0 if command.dry_run else len(done.tasks) - errors,
        "errors": errors,
        "correlation_id": done.correlation_id,
        "position": done.position,
    }
    if done.repeated:
        answer["repeated"] = True
    return answer


@replay.decides(
    "replay.start",
    route=Route("POST", "/api/replays", 202),
    creates=True,
    bulk=True,
    answer=_answer,
    faults={"empty_window": Unprocessable},
)
def start(command: StartReplay, state: Replay | None, context: Context) -> list[Event]:
    """What it picks is picked once its position is known."""
    return [asked(command)]


def asked(command: StartReplay) -> ReplayStarted:
    """The filter as it is kept. Raises Unprocessable for times that leave nothing between them."""
    since_ms = None if command.since is None else parse_rfc3339(command.since, "/since")
    until_ms = None if command.until is None else parse_rfc3339(command.until, "/until")
    if since_ms is not None and until_ms is not None and until_ms <= since_ms:
        raise Unprocessable(
            f"Nothing ended from {command.since} until {command.until}.",
            code="empty_window",
            pointer="/until",
            remedy="`until` lies after `since`; leave one out for a window that is open there.",
        )
    return ReplayStarted(
        status=command.status,
        limit=command.limit,
        type=command.type,
        project=command.project,
        agent_type=command.agent_type,
        outcome=command.outcome,
        with_correlation_id=command.with_correlation_id,
        since_ms=since_ms,
        until_ms=until_ms,
        force=command.force or None,
    )


def command_id_of(task_id: str, replay_id: UUID, *, force: bool) -> UUID:
    """The id of the command that replays a task: this replay's own if it is forced, else one for all replays."""
    return derive(replay_id, task_id) if force else derive(UUID(task_id), "replay")
