"""The store read in bulk: a page of commits as one row, which the database makes without the interpreter.

sqlite3 gives the interpreter's lock back at each row, and a body decoded alone costs half as much again as one among
many. So the bodies of a page, each a JSON object, come as one JSON array.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from msgspec import Struct
from sqlalchemy import Connection, LargeBinary, bindparam, cast, func, literal_column, select

from adapters.sql import schema
from core.kernel.codec import Codec, Undecodable
from core.kernel.commit import Commit

logger = logging.getLogger("hivebus.rebuild")

PAGE_COMMITS_MAX = 500

_commits = schema.commits.c
_rows = (
    select(_commits.position, schema.streams.c.name, _commits.body)
    .join_from(schema.commits, schema.streams, _commits.stream_id == schema.streams.c.id)
    .where(_commits.position > bindparam("after"), _commits.position <= bindparam("until"), _commits.parked.is_(None))
    .order_by(_commits.position)
)
_page = _rows.subquery("page")
# In what order an aggregate gets its rows, SQLite does not promise: the positions come along, and tell.
_whole = select(
    func.group_concat(_page.c.position),
    func.group_concat(_page.c.name, literal_column("' '")),
    cast(func.group_concat(_page.c.body, literal_column("','")), LargeBinary),
)


class Page(Struct, frozen=True):
    """The commits up to a position, those that decode; `size` is the bytes of their bodies."""

    commits: Sequence[Commit]
    position: int
    size: int


def read_page(connection: Connection, codec: Codec, after: int, end: int) -> Page:
    """The commits after a position, of at most 500 positions, none beyond `end`. Positions of a store are dense."""
    span = {"after": after, "until": min(after + PAGE_COMMITS_MAX, end)}
    positions, subjects, bodies = connection.execute(_whole, span).one()
    if positions is None:
        return Page([], span["until"], 0)
    numbers = list(map(int, positions.split(",")))
    try:
        if numbers != sorted(numbers):
            raise Undecodable("the page is not in order")
        commits = codec.commits(numbers, subjects.split(" "), b"[%b]" % bodies)
    except Undecodable:
        # Something in it is older, newer or broken: one by one they show what.
        commits = _one_by_one(connection, codec, span)
    return Page(commits, span["until"], len(bodies))


def _one_by_one(connection: Connection, codec: Codec, span: dict[str, int]) -> list[Commit]:
    commits = []
    for position, subject, body in connection.execute(_rows, span):
        try:
            commits.append(codec.commit(position, subject, body))
        except Undecodable as error:
            logger.warning("Position %d: its events do not decode; no view shows it: %s", position, error)
    return commits
