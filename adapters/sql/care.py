"""Signed heads and trims on SQL."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Executable, func, select

from adapters.sql import schema
from adapters.sql.statements import insert_rows, look_up
from core.kernel.ports import LastCommit, SignedHead, Trim

Rows = Callable[[Executable], Awaitable[Sequence[Any]]]
# Both take `work(connection, ...)`: on a connection that only reads, and in a transaction.
Work = Callable[..., Awaitable[Any]]

_heads = schema.heads.c
_NEWEST = select(schema.heads).order_by(_heads.size.desc()).limit(1)
_TRIMMED_TO = select(func.coalesce(func.max(schema.trims.c.trimmed_to), 0))


class SqlCare:
    """CareStore on the store's database. It writes rarely, each time a short transaction of its own."""

    def __init__(self, rows: Rows, read: Work, transact: Work) -> None:
        self._rows = rows
        self._read = read
        self._transact = transact

    async def newest_head(self) -> SignedHead | None:
        """See CareStore."""
        rows = await self._rows(_NEWEST)
        return SignedHead(*rows[0]) if rows else None

    async def add_head(self, head: SignedHead) -> None:
        """See CareStore."""
        await self._transact(_insert_head, head)

    async def trimmed_to(self) -> int:
        """See CareStore."""
        position: int = (await self._rows(_TRIMMED_TO))[0][0]
        return position

    async def add_trim(self, trim: Trim) -> None:
        """See CareStore."""
        await self._transact(_insert_trim, trim)

    async def last_commits(self, subjects: Sequence[str]) -> list[LastCommit]:
        """See CareStore."""
        found: list[LastCommit] = await self._read(_last_commits, subjects)
        return found


def _insert_head(connection: Connection, head: SignedHead) -> None:
    row = (head.size, head.root, head.signed_ms, head.signature, head.key_id)
    insert_rows(connection, schema.heads, [row], on_conflict=_keep_head)


def _keep_head(insert: Any) -> Any:
    return insert.on_conflict_do_nothing(index_elements=[schema.heads.c.size])


def _insert_trim(connection: Connection, trim: Trim) -> None:
    insert_rows(connection, schema.trims, [(trim.at_ms, trim.trimmed_to, trim.actor)])


def _last_commits(connection: Connection, subjects: Sequence[str]) -> list[LastCommit]:
    streams, commits = schema.streams.c, schema.commits.c
    last = {position: name for name, position in look_up(connection, streams.name, subjects, streams.last_position)}
    rows = look_up(connection, commits.position, list(last), commits.body, commits.parked)
    return [LastCommit(last[position], position, None if parked else body) for position, body, parked in rows]
