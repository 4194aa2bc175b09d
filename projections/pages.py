"""What the lists of rows share: one page of them, where it lies among all, and filters of several words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypedDict

from sqlalchemy import ColumnElement, Table, func, select

from core.kernel.errors import Unprocessable
from projections.view import Reader


class Pagination(TypedDict):
    """Where a page lies among all."""

    total: int
    limit: int
    offset: int
    has_more: bool


class Paged(Protocol):
    """A query for a page."""

    @property
    def limit(self) -> int:
        """At most so many rows."""
        ...

    @property
    def offset(self) -> int:
        """The first ones that are left out."""
        ...


async def page_of(
    table: Table,
    where: Sequence[ColumnElement[bool]],
    order: Sequence[ColumnElement[Any]],
    query: Paged,
    reader: Reader,
) -> tuple[Sequence[Mapping[str, Any]], Pagination]:
    """The rows of a page, and where it lies. Two reads of one moment."""
    statement = select(table).where(*where).order_by(*order).limit(query.limit).offset(query.offset)
    rows = await reader.rows(statement)
    counted = await reader.rows(select(func.count().label("n")).select_from(table).where(*where))
    total = counted[0]["n"]
    more = query.offset + len(rows) < total
    return rows, {"total": total, "limit": query.limit, "offset": query.offset, "has_more": more}


def check_word(field: str, value: str | None, words: Sequence[str], what: str) -> None:
    """Raises Unprocessable for a value that is none of the words; None is not said.

    An enumeration that may be null would take the text `null` of a query string for null, and list everything: so the
    words are declared as text with an enumeration in its schema, and checked here.
    """
    if value is not None and value not in words:
        remedy = f"One of {', '.join(words)}."
        raise Unprocessable(f"{value!r} is no {field} of {what}.", pointer=f"/{field}", remedy=remedy)
