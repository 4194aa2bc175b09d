"""The pauses of the queue, and which of them holds a task back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from sqlalchemy import BigInteger, Column, Index, MetaData, String, Table, select

from core.kernel.answers import Time
from core.kernel.commit import Commit, Event
from core.kernel.ids import named
from core.kernel.times import rfc3339
from core.pause import PAUSES_MAX, QueuePaused, QueueResumed, What
from core.projection import Row, RowView
from projections.view import Reader, true_at, versioned

metadata = MetaData()

pauses = Table(
    "pauses",
    metadata,
    Column("id", String(36), primary_key=True),
    *versioned(),
    Column("what", String(8), nullable=False),
    Column("name", String(200), nullable=False),
    Column("reason", String(500)),
    Column("since_ms", BigInteger, nullable=False),
    Column("paused_by", String(200), nullable=False),
)
Index("pauses_now", pauses.c.valid_to, pauses.c.what, pauses.c.name)


class Pauses(RowView):
    """A row for everything that is paused."""

    name = "pauses"
    table = pauses
    nouns = frozenset({"queue"})

    def touched(self, commit: Commit, event: Event) -> Iterable[str]:
        """What is paused or resumed."""
        if isinstance(event, QueuePaused | QueueResumed):
            return (_key(event),)
        return ()

    def fold(self, row: Row | None, commit: Commit, event: Event) -> Row | None:
        """There while it is paused."""
        if not isinstance(event, QueuePaused):
            return None
        return {
            "id": _key(event),
            "what": event.what,
            "name": event.name,
            "reason": event.reason,
            "since_ms": commit.body.occurred_at,
            "paused_by": commit.body.actor,
        }


def _key(event: QueuePaused | QueueResumed) -> str:
    return named("pause", f"{event.what} {event.name}")


class Pause(TypedDict):
    """Something that is paused; all of the queue has no name."""

    what: What
    name: str | None
    reason: str | None
    since: Time | None
    paused_by: str


async def pauses_of(reader: Reader) -> list[Pause]:
    """Everything that is paused, as it is answered."""
    statement = select(pauses).where(true_at(pauses, reader.at)).order_by(pauses.c.what, pauses.c.name)
    return [
        {
            "what": row["what"],
            "name": row["name"] or None,
            "reason": row["reason"],
            "since": rfc3339(row["since_ms"]),
            "paused_by": row["paused_by"],
        }
        for row in await reader.rows(statement.limit(PAUSES_MAX + 1))
    ]


def pause_of(row: Mapping[str, Any], known: Sequence[Pause]) -> Pause | None:
    """The first of the pauses that holds a waiting task back."""
    if row["status"] not in ("queued", "scheduled", "submitted"):
        return None
    names = {"all": None, "type": row["type"], "key": row["concurrency_key"]}
    held = (pause for pause in known if pause["name"] == names[pause["what"]])
    return next(held, None)
