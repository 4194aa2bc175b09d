"""Core statements compiled once for a dialect and run with plain tuples, many rows in one step.

Core's own executemany builds a dict and runs a processor for every value: 22k commits/s, 45k with tuples. And sqlite3
gives the interpreter lock away at every step, which in an executemany is every row: beside a busy event loop that is
7k rows/s, against 69k with 256 rows in a statement. The SQL stays Core's, for every dialect.

To Postgres the rows go as one array for each column: one statement of one text, whatever their number, and an insert
that may say what a conflict means, which COPY cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from importlib import import_module
from itertools import chain
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    Column,
    ColumnElement,
    Connection,
    Dialect,
    String,
    Table,
    Update,
    any_,
    bindparam,
    func,
    select,
)
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement

# SQLite takes 32,766 parameters in a statement and Postgres 32,767.
INSERT_ROWS_MAX = 64
ARRAY_ROWS_MAX = 1000
LOOK_UP_MAX = 1024


def _insert(dialect: Dialect, table: Table) -> Any:
    # By name: a program on files has no use for the other dialect, which is 2.5 MB of memory.
    return import_module(f"sqlalchemy.dialects.{dialect.name}").insert(table)


def plain(statement: Any) -> Any:
    """An insert that fails on a row whose key is taken."""
    return statement


def insert_rows(
    connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]], *, on_conflict: Callable[[Any], Any] = plain
) -> None:
    """Insert tuples that have a value for each column of the table, in its order.

    `on_conflict` is a module-level function that adds the clause to the dialect's insert.
    """
    if connection.dialect.name == "postgresql":
        _insert_arrays(connection, table, rows, on_conflict)
        return
    start = 0
    while start < len(rows):
        # Powers of two from the largest that fits: nine statements serve all sizes.
        size = min(INSERT_ROWS_MAX, 1 << (len(rows) - start).bit_length() - 1)
        flat = tuple(chain.from_iterable(rows[start : start + size]))
        connection.exec_driver_sql(_insert_sql(connection.dialect, table, size, on_conflict), flat)
        start += size


def _insert_arrays(
    connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]], on_conflict: Callable[[Any], Any]
) -> None:
    texts = [index for index, column in enumerate(table.columns) if isinstance(column.type, String)]
    for start in range(0, len(rows), ARRAY_ROWS_MAX):
        arrays: list[Sequence[Any]] = list(zip(*rows[start : start + ARRAY_ROWS_MAX], strict=True))
        for index in texts:
            arrays[index] = list(map(text_of(connection.dialect), arrays[index]))
        connection.exec_driver_sql(_insert_arrays_sql(connection.dialect, table, on_conflict), tuple(arrays))


def text_of(dialect: Dialect) -> Callable[[str | None], Any]:
    """How a text goes to the driver when it goes past Core."""
    return String().dialect_impl(dialect).bind_processor(dialect) or (lambda text: text)


def update_rows(
    connection: Connection, statement: Update, order: tuple[str, ...], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Run an update for each tuple of numbers and keys; `order` names its parameters as they appear in the SQL."""
    if rows:
        connection.exec_driver_sql(_update_sql(connection.dialect, statement, order), list(rows))


def look_up(connection: Connection, column: Column[Any], values: Collection[Any], *also: Column[Any]) -> list[Any]:
    """The rows whose column is among the values, as (column, *also)."""
    wanted = list(values)
    found: list[Any] = []
    for start in range(0, len(wanted), LOOK_UP_MAX):
        chunk = wanted[start : start + LOOK_UP_MAX]
        if connection.dialect.name == "postgresql":
            found += connection.execute(select(column, *also).where(among(connection, column, chunk)))
            continue
        # Filled up to a power of two with repeats, which an IN does not mind.
        size = 1 << (len(chunk) - 1).bit_length()
        chunk += chunk[-1:] * (size - len(chunk))
        found += connection.exec_driver_sql(_look_up_sql(connection.dialect, size, column, *also), tuple(chunk))
    return found


def among(connection: Connection, column: Column[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    """The condition that a column is one of the values; on Postgres one text for every number of them."""
    if connection.dialect.name == "postgresql":
        return column == any_(bindparam("among", values, type_=ARRAY(column.type)))
    return column.in_(values)


@lru_cache(maxsize=256)
def _insert_sql(dialect: Dialect, table: Table, size: int, on_conflict: Callable[[Any], Any]) -> str:
    if size > 1 and dialect.paramstyle == "qmark":
        # Core takes 60 ms to compile 256 rows of twenty columns; with nameless parameters the rows are one text.
        one = _insert_sql(dialect, table, 1, on_conflict)
        group = f"({', '.join('?' * len(table.columns))})"
        assert one.count(group) == 1, one
        return one.replace(group, ", ".join([group] * size))
    names = [[f"{column.name}_{index}" for column in table.columns] for index in range(size)]
    keys = [column.name for column in table.columns]
    rows: list[dict[str, Any]] = [dict(zip(keys, map(bindparam, row), strict=True)) for row in names]
    statement = on_conflict(_insert(dialect, table).values(rows))
    return _compile(dialect, statement, [name for row in names for name in row])


@lru_cache(maxsize=64)
def _insert_arrays_sql(dialect: Dialect, table: Table, on_conflict: Callable[[Any], Any]) -> str:
    names = [column.name for column in table.columns]
    # A JSON array would go through Core's codec for each element; as text the server parses it once, there.
    types = [String() if isinstance(column.type, JSON) else column.type for column in table.columns]
    arrays = [bindparam(name, type_=ARRAY(type_)) for name, type_ in zip(names, types, strict=True)]
    given = func.unnest(*arrays).table_valued(*names, name="given").render_derived()
    cells = [given.c[c.name].cast(c.type) if isinstance(c.type, JSON) else given.c[c.name] for c in table.columns]
    statement = _insert(dialect, table).from_select(names, select(*cells))
    return _compile(dialect, on_conflict(statement), names)


@lru_cache(maxsize=64)
def _update_sql(dialect: Dialect, statement: Update, order: tuple[str, ...]) -> str:
    return _compile(dialect, statement, order)


@lru_cache(maxsize=256)
def _look_up_sql(dialect: Dialect, size: int, column: Column[Any], *also: Column[Any]) -> str:
    names = [f"value_{index}" for index in range(size)]
    among = column.in_([bindparam(name, type_=column.type) for name in names])
    return _compile(dialect, select(column, *also).where(among), names)


def _compile(dialect: Dialect, statement: ClauseElement, order: Sequence[str]) -> str:
    compiled = statement.compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler)
    assert compiled.positiontup == list(order), "the parameters are not in the order of the tuples"
    return str(compiled)
