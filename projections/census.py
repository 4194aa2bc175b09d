"""How many there are of what, counted from the views: tasks and agents by status, the queue by priority."""

from __future__ import annotations

from msgspec import Struct
from sqlalchemy import func, select

from projections.agents import STATUSES as AGENT_STATUSES
from projections.agents import agents
from projections.queue import queue
from projections.tasks import STATUSES as TASK_STATUSES
from projections.tasks import tasks
from projections.view import Reader, true_at

PRIORITIES = tuple(map(str, range(10)))


class Census(Struct, frozen=True):
    """Counts by status and by priority; nothing that could be there is left out. No age while nothing is queued."""

    tasks: dict[str, int]
    agents: dict[str, int]
    queued: dict[str, int]
    oldest_age_s: float | None


async def taken(reader: Reader) -> Census:
    """As of the reader's position."""
    by_status = select(tasks.c.status, func.count().label("n")).where(true_at(tasks, reader.at))
    counted = dict.fromkeys(TASK_STATUSES, 0)
    counted |= {row["status"]: row["n"] for row in await reader.rows(by_status.group_by(tasks.c.status))}
    working = (agents.c.busy_slots > 0).label("working")
    lives = select(agents.c.life, working, func.count().label("n")).where(true_at(agents, reader.at))
    known = dict.fromkeys(AGENT_STATUSES, 0)
    for row in await reader.rows(lives.group_by(agents.c.life, working)):
        # Busy and idle are one life, with and without work.
        known["busy" if row["life"] == "idle" and row["working"] else row["life"]] += row["n"]
    waiting = select(queue.c.priority, func.count().label("n"), func.min(queue.c.since_ms).label("oldest"))
    waiting = waiting.where(true_at(queue, reader.at), queue.c.state == "queued").group_by(queue.c.priority)
    rows = await reader.rows(waiting)
    oldest_ms = min((row["oldest"] for row in rows), default=None)
    return Census(
        tasks=counted,
        agents=known,
        queued=dict.fromkeys(PRIORITIES, 0) | {str(row["priority"]): row["n"] for row in rows},
        oldest_age_s=None if oldest_ms is None else max(0, reader.now_ms - oldest_ms) / 1000,
    )
