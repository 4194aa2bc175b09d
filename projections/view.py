"""How read models are laid out in tables, and read as of now or as of any position by the same query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import BigInteger, Column, ColumnElement, Select, Table, and_

from core.projection import FOREVER


def versioned() -> tuple[Column[Any], Column[Any]]:
    """The two columns that say when a row version was true: valid_from <= position < valid_to."""
    return (
        Column("valid_from", BigInteger, primary_key=True),
        Column("valid_to", BigInteger, nullable=False),
    )


class Reader(Protocol):
    """One consistent look at the views, as of a position.

    `at` is None for now; `position` is where the look stands; `now_ms` is the time that ages are measured against.
    """

    at: int | None
    position: int
    now_ms: int

    async def rows(self, statement: Select[Any]) -> Sequence[Mapping[str, Any]]:
        """The rows of a statement, within this look."""
        ...


def true_at(table: Table, at: int | None, *, selective: bool = True) -> ColumnElement[bool]:
    """The condition that picks the row versions that are true now, or were at a position.

    Not `selective` where another column picks few rows: to SQLite one equality is as good as another, and the index
    that begins with valid_to would be walked through all current rows. An expression is no index's column.
    """
    until = table.c.valid_to if selective else table.c.valid_to + 0
    return until == FOREVER if at is None else and_(table.c.valid_from <= at, until > at)
