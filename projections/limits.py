"""The limits: what was set for each key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypedDict

from msgspec import Meta, Struct
from sqlalchemy import BigInteger, Column, Float, Index, Integer, MetaData, String, Table, select

from core.kernel.answers import Position, Time
from core.kernel.commit import Commit, Event
from core.kernel.errors import NotFound
from core.kernel.registry import QuerySpec, Route, doc_of
from core.kernel.times import rfc3339
from core.limit import Key, LimitChanged, limit_id
from core.projection import Row, RowView
from projections.pages import Pagination, page_of
from projections.view import Reader, true_at, versioned

metadata = MetaData()

limits = Table(
    "limits",
    metadata,
    Column("id", String(36), primary_key=True),
    *versioned(),
    Column("key", String(200), nullable=False),
    Column("concurrency", Integer),
    Column("rate_per_s", Float),
    Column("burst", Integer),
    Column("weight", Float),
    Column("set_ms", BigInteger, nullable=False),
    Column("set_by", String(200), nullable=False),
)
Index("limits_now", limits.c.valid_to, limits.c.key)


class Limits(RowView):
    """A row per key that a limit was set for."""

    name = "limits"
    table = limits
    nouns = frozenset({"limit"})

    def touched(self, commit: Commit, event: Event) -> Iterable[str]:
        """The limit itself."""
        return (commit.aggregate_id,)

    def fold(self, row: Row | None, commit: Commit, event: Event) -> Row | None:
        """The last one counts."""
        if not isinstance(event, LimitChanged):
            return row
        return {
            "id": commit.aggregate_id,
            "key": event.key,
            "concurrency": event.concurrency,
            "rate_per_s": event.rate_per_s,
            "burst": event.burst,
            "weight": event.weight,
            "set_ms": commit.body.occurred_at,
            "set_by": commit.body.actor,
        }


class ListLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List the limits that were set, by key."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 50
    offset: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class LimitSummary(TypedDict):
    """The limit of a key; null is not limited."""

    key: str
    concurrency: int | None
    rate_per_s: float | None
    burst: int | None
    weight: float | None
    set_at: Time | None
    set_by: str


class LimitPage(TypedDict):
    """A page of limits, by key."""

    limits: list[LimitSummary]
    pagination: Pagination
    position: Position


class LimitDetails(LimitSummary):
    """The limit of a key, as of a position."""

    position: Position


async def list_limits(query: ListLimits, reader: Reader) -> LimitPage:
    """One page of them."""
    rows, pagination = await page_of(limits, [true_at(limits, reader.at)], [limits.c.key], query, reader)
    return {
        "limits": [_document(row) for row in rows],
        "pagination": pagination,
        "position": reader.position,
    }


class ShowLimit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show the limit of a key."""

    key: Key


async def show_limit(query: ShowLimit, reader: Reader) -> LimitDetails:
    """The limit; NotFound where none was set."""
    rows = await reader.rows(
        select(limits).where(limits.c.id == limit_id(query.key), true_at(limits, reader.at, selective=False))
    )
    if not rows:
        raise NotFound(
            f"No limit is set for the key {query.key[:100]!r}.",
            code="unknown_limit",
            remedy="Set one: PUT /api/limits/{key}, or `hivebus limit set`.",
        )
    return {**_document(rows[0]), "position": reader.position}


def _document(row: Mapping[str, Any]) -> LimitSummary:
    return {
        "key": row["key"],
        "concurrency": row["concurrency"],
        "rate_per_s": row["rate_per_s"],
        "burst": row["burst"],
        "weight": row["weight"],
        "set_at": rfc3339(row["set_ms"]),
        "set_by": row["set_by"],
    }


QUERIES = (
    QuerySpec("limit.list", ListLimits, list_limits, Route("GET", "/api/limits"), doc_of(ListLimits)),
    QuerySpec("limit.show", ShowLimit, show_limit, Route("GET", "/api/limits/{key}"), doc_of(ShowLimit)),
)
