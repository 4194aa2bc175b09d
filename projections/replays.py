"""What a replay is of: the tasks that ended badly, and which of them were replayed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Select, func, or_, select

from core.replay import Picked, ReplayStarted
from projections.agents import agents
from projections.tasks import specs, tasks
from projections.view import Reader, true_at

REPLAYS_SHOWN_MAX = 10


async def pick(asked: ReplayStarted, reader: Reader) -> Picked:
    """The oldest that fit, as of the reader's position."""
    of_spec = specs.c.id == tasks.c.id
    again = replayed(reader, tasks.c.id)
    matching = select(tasks.c.id).join(specs, of_spec).where(*_filters(asked, reader))
    figures: list[Any] = [func.count().label("matched"), func.count().filter(again).label("replayed")]
    counting = select(*figures).select_from(tasks).join(specs, of_spec).where(*_filters(asked, reader))
    counts = await reader.rows(counting)
    picks = matching if asked.force else matching.where(~again)
    rows = await reader.rows(picks.order_by(tasks.c.created).limit(asked.limit))
    return Picked(counts[0]["matched"], counts[0]["replayed"], [row["id"] for row in rows])


async def replays_of(reader: Reader, task_id: str) -> list[str]:
    """The tasks that are replays of one, the newest first, at most ten."""
    statement = select(specs.c.id).where(specs.c.replay_of == task_id, true_at(specs, reader.at, selective=False))
    rows = await reader.rows(statement.order_by(specs.c.valid_from.desc()).limit(REPLAYS_SHOWN_MAX))
    return [row["id"] for row in rows]


def replayed_ids(reader: Reader) -> Select[Any]:
    """The ids of all tasks of which there is a replay."""
    return select(specs.c.replay_of).where(specs.c.replay_of.is_not(None), specs.c.valid_from <= reader.position)


def replayed(reader: Reader, task_id: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether there is a replay of a task."""
    later = specs.alias("later")
    # A specification is written once: no version of it ends.
    return select(later.c.id).where(later.c.replay_of == task_id, later.c.valid_from <= reader.position).exists()


def _filters(asked: ReplayStarted, reader: Reader) -> Iterable[ColumnElement[bool]]:
    # What has ended never changes: its newest version is the one of any later position, and the index has it.
    yield true_at(tasks, None)
    yield tasks.c.valid_from <= reader.position
    yield tasks.c.status == asked.status
    for column, value in (
        (tasks.c.type, asked.type),
        (tasks.c.outcome, asked.outcome),
        (tasks.c.correlation_id, asked.with_correlation_id),
        (specs.c.project, asked.project),
    ):
        if value is not None:
            yield column == value
    if asked.agent_type is not None:
        ran_on = select(agents.c.id).where(
            agents.c.id == tasks.c.agent_id,
            true_at(agents, reader.at, selective=False),
            agents.c.type == asked.agent_type,
        )
        yield or_(specs.c.agent_type == asked.agent_type, ran_on.exists())
    if asked.since_ms is not None:
        yield tasks.c.completed_ms >= asked.since_ms
    if asked.until_ms is not None:
        yield tasks.c.completed_ms < asked.until_ms
