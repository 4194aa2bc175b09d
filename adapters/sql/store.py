"""The system of record on SQL."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from sqlalchemy import Executable, Row, Select, bindparam, select

from adapters.sql import schema
from adapters.sql.care import SqlCare
from adapters.sql.engine import Engines, answering, open_engines, writing
from adapters.sql.migrate import migrate
from adapters.sql.writer import Writer
from core.kernel.commit import Entry
from core.kernel.merkle import HASH_BYTES
from core.kernel.ports import Checkpoint, Recording, Remembered, Stored

if TYPE_CHECKING:
    from adapters.sql.postgres import Postgres

logger = logging.getLogger("hivebus.store")

T = TypeVar("T")
_Row = Row[*tuple[Any, ...]]
_Query = Select[*tuple[Any, ...]]

_commits = schema.commits.c
_stored = select(
    _commits.position,
    schema.streams.c.name,
    _commits.commit_id,
    _commits.given_id,
    _commits.body,
    _commits.recorded_ms,
    _commits.parked,
).join_from(schema.commits, schema.streams, _commits.stream_id == schema.streams.c.id)


def _page(query: _Query) -> _Query:
    return query.where(_commits.position > bindparam("after")).order_by(_commits.position).limit(bindparam("limit"))


def _of(position: str, *columns: Any) -> _Query:
    return select(*columns).where(_commits.position == bindparam(position))


_READ = _page(_stored)
_STREAM = _page(_stored.where(schema.streams.c.name == bindparam("subject")))
_CHECKPOINT = select(schema.checkpoint.c.position, schema.checkpoint.c.recorded_ms, schema.checkpoint.c.frontier)
_REMEMBERED = select(schema.commands.c.position, schema.commands.c.fingerprint).where(
    schema.commands.c.command_id == bindparam("command_id")
)
_POSITION_AT = (
    select(_commits.position)
    .where(_commits.recorded_ms <= bindparam("time_ms"))
    .order_by(_commits.recorded_ms.desc(), _commits.position.desc())
    .limit(1)
)
_RECORDED_MS = _of("at", _commits.recorded_ms)
_BODY = _of("at", _commits.body)
_LEAF = _of("at", _commits.leaf)


class SqlStore:
    """The Store port on SQL tables. One instance may be shared by all tasks of a loop; `record` by one recorder.

    Reads go by their own bounded connections and raise Unavailable when none is free or the database does not answer.
    """

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._writer = Writer()
        self.care = SqlCare(self._rows, self._read, engines.thread.transact)

    @classmethod
    async def open(cls, place: Path | Postgres, *, readers: int = 4) -> SqlStore:
        """Open or create a store, a file or a schema, and bring it to today's. Raises StartRefused for a newer one."""
        engines = await open_engines(place, readers=readers)
        try:
            await migrate(engines)
        except BaseException:
            await engines.close()
            raise
        return cls(engines)

    async def close(self) -> None:
        """Close all connections. What was recorded is durable already."""
        await self._engines.close()

    async def record(self, recordings: Sequence[Recording], *, old: Checkpoint, new: Checkpoint) -> Collection[int]:
        """See Store. Cancelled, or its server gone, a call has written all or nothing: the checkpoint tells."""
        with writing("store"):
            written = await self._engines.thread.transact(self._writer.write, recordings, old, new)
        for names, ids in written.ids:
            names.keep(ids)
        for recording in written.repeats:
            logger.error(
                "position %d repeats commit id %s: parked", recording.entry.position, recording.entry.commit_id
            )
        return [recording.entry.position for recording in written.repeats]

    async def checkpoint(self) -> Checkpoint:
        """See Store."""
        (row,) = await self._rows(_CHECKPOINT)
        peaks = tuple(row.frontier[start : start + HASH_BYTES] for start in range(0, len(row.frontier), HASH_BYTES))
        return Checkpoint(position=row.position, recorded_ms=row.recorded_ms, frontier=peaks)

    async def remembered(self, command_id: UUID) -> Remembered | None:
        """See CommandMemory."""
        rows = await self._rows(_REMEMBERED, command_id=command_id.bytes)
        return Remembered(position=rows[0].position, fingerprint=rows[0].fingerprint) if rows else None

    async def read(self, *, after: int, limit: int) -> list[Stored]:
        """See Store."""
        return [_as_stored(row) for row in await self._rows(_READ, after=after, limit=limit)]

    async def stream(self, subject: str, *, after: int, limit: int) -> list[Stored]:
        """See Store."""
        rows = await self._rows(_STREAM, subject=subject, after=after, limit=limit)
        return [_as_stored(row) for row in rows]

    async def position_at(self, time_ms: int) -> int:
        """See Store."""
        return await self._value(_POSITION_AT, time_ms=time_ms) or 0

    async def recorded_ms(self, position: int) -> int | None:
        """See Store."""
        recorded_ms: int | None = await self._value(_RECORDED_MS, at=position)
        return recorded_ms

    async def body_at(self, position: int) -> bytes | None:
        """See Store."""
        body: bytes | None = await self._value(_BODY, at=position)
        return body

    async def leaf(self, position: int) -> bytes | None:
        """See Store."""
        leaf: bytes | None = await self._value(_LEAF, at=position)
        return leaf

    async def _rows(self, query: Executable, **values: Any) -> Sequence[_Row]:
        async with answering("store", self._engines), self._engines.readers.connect() as connection:
            return (await connection.execute(query, values)).all()

    async def _read(self, work: Callable[..., T], *values: Any) -> T:
        async with answering("store", self._engines), self._engines.readers.connect() as connection:
            return await connection.run_sync(work, *values)

    async def _value(self, query: Executable, **values: Any) -> Any:
        rows = await self._rows(query, **values)
        return rows[0][0] if rows else None


def _as_stored(row: _Row) -> Stored:
    position, subject, commit_id, given_id, body, recorded_ms, parked = row
    if commit_id is not None:
        given_id = _uuid_text(commit_id.hex())
    return Stored(Entry(position, subject, given_id, body), recorded_ms, parked)


def _uuid_text(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
