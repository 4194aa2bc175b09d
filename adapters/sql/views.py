"""Read models on SQL: a batch of commits becomes row versions, checkpoint and checksum in one transaction.

The views live in a database of their own. They can be deleted at any time: a view that is missing, or whose version is
another, is emptied when the database is opened and folded again from the store.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    LargeBinary,
    MetaData,
    Select,
    String,
    Table,
    delete,
    inspect,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.sql import faults
from adapters.sql.engine import Engines, answering, open_engines, preparing, writing
from adapters.sql.rows import CHECKSUM_ZERO, add_checksum, writer_of
from adapters.sql.statements import insert_rows
from adapters.sql.turns import take_turn
from core.kernel.commit import Commit
from core.kernel.ports import CheckpointMoved
from core.projection import View

if TYPE_CHECKING:
    from adapters.sql.postgres import Postgres

logger = logging.getLogger("hivebus.views")

_metadata = MetaData()

state = Table(
    "view_state",
    _metadata,
    Column("name", String(64), primary_key=True),
    Column("version", String(16), nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("checksum", LargeBinary(16), nullable=False),
)


parked = Table(
    "view_parked",
    _metadata,
    Column("view", String(64), primary_key=True),
    Column("noun", String(32), primary_key=True),
    Column("aggregate_id", String(64), primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("error", String, nullable=False),
)


class ViewState(Struct, frozen=True):
    """How far a view is, and the checksum over its rows that are true now."""

    version: str
    position: int
    checksum: bytes


def stored_states(connection: Connection) -> dict[str, ViewState]:
    """The state of each view that a database has."""
    return {row.name: ViewState(row.version, row.position, row.checksum) for row in connection.execute(select(state))}


class SqlReader:
    """One consistent look at the views (projections read through it)."""

    def __init__(self, connection: AsyncConnection, at: int | None, position: int, now_ms: int) -> None:
        self._connection = connection
        self.at = at
        self.position = position
        self.now_ms = now_ms

    async def rows(self, statement: Select[Any]) -> Sequence[Mapping[str, Any]]:
        """The rows of a statement, within this look."""
        rows: Sequence[Any] = (await self._connection.execute(statement)).mappings().all()
        return rows


class SqlViews:
    """All views of one database, written by one projector and read by anybody."""

    def __init__(self, engines: Engines, views: Sequence[View]) -> None:
        self._engines = engines
        self._views = {view.name: view for view in views}
        self._writers = {view.name: writer_of(view) for view in views}
        self._states: dict[str, ViewState] = {}
        self._parked: dict[str, dict[tuple[str, str], int]] = {view.name: {} for view in views}

    @classmethod
    async def open(cls, place: Path | Postgres, views: Sequence[View], *, readers: int = 4) -> SqlViews:
        """Open or create the database, a file or a schema; empty what another version of the program wrote."""
        engines = await open_engines(place, readers=readers, snapshot=True)
        opened = cls(engines, views)
        try:
            async with preparing(engines) as thread:
                await thread.transact(opened._prepare)
        except BaseException:
            await engines.close()
            raise
        return opened

    async def close(self) -> None:
        """Close all connections."""
        await self._engines.close()

    @property
    def position(self) -> int:
        """The position that every view has reached."""
        return min(view.position for view in self._states.values())

    @property
    def states(self) -> Mapping[str, ViewState]:
        """Each view's checkpoint and checksum."""
        return self._states

    @property
    def parked(self) -> int:
        """How many aggregates are parked, over all views: what they show of these is old."""
        return sum(map(len, self._parked.values()))

    async def apply(self, commits: Sequence[Commit], position: int) -> None:
        """Fold commits into all views and move their checkpoints to `position`, in one transaction.

        Commits that a view has folded already are passed over. An event that a view cannot fold parks its aggregate
        for that view from there on, visibly; it never stops the others. If this raises, nothing was written, unless
        it raises Unavailable: then `refresh` tells.
        """
        parked_before = {name: dict(known) for name, known in self._parked.items()}
        try:
            with writing("views"):
                states = await self._engines.thread.transact(self._write, commits, position)
        except BaseException:
            self._parked = parked_before
            for writer in self._writers.values():
                writer.forget()
            raise
        self._states = states

    async def refresh(self) -> None:
        """Read again how far the views are, after an `apply` of which nobody knows what became."""
        with writing("views"):
            self._states, self._parked = await self._engines.thread.transact(self._read_states)

    @asynccontextmanager
    async def reader(self, *, at: int | None, now_ms: int) -> AsyncIterator[SqlReader]:
        """One consistent look. The caller has made sure that the views have reached `at`."""
        async with answering("views", self._engines), self._engines.look() as connection:
            seen = (await connection.execute(select(state.c.position))).scalars().all()
            yield SqlReader(connection, at, min(seen) if at is None else at, now_ms)

    # --- inside the writer's transaction ---

    def _prepare(self, connection: Connection) -> None:
        take_turn(connection)
        _metadata.create_all(connection)
        stored = stored_states(connection)
        existing = set(inspect(connection).get_table_names())
        for name, view in self._views.items():
            known = stored.get(name)
            if known is None or known.version != view.version() or view.table.name not in existing:
                if view.table.name in existing:
                    view.table.drop(connection)
                view.table.create(connection)
                connection.execute(delete(state).where(state.c.name == name))
                connection.execute(delete(parked).where(parked.c.view == name))
                insert_rows(connection, state, [(name, view.version(), 0, CHECKSUM_ZERO)])
                known = ViewState(view.version(), 0, CHECKSUM_ZERO)
            self._states[name] = known
        connection.execute(delete(state).where(state.c.name.not_in(self._views)))
        connection.execute(delete(parked).where(parked.c.view.not_in(self._views)))
        for row in connection.execute(select(parked)):
            self._parked[row.view][row.noun, row.aggregate_id] = row.position

    def _read_states(
        self, connection: Connection
    ) -> tuple[dict[str, ViewState], dict[str, dict[tuple[str, str], int]]]:
        # The lock waits for the transaction of a connection that was lost, if the server still has it.
        connection.execute(select(state).with_for_update())
        states = stored_states(connection)
        stopped: dict[str, dict[tuple[str, str], int]] = {name: {} for name in self._views}
        for row in connection.execute(select(parked)):
            stopped[row.view][row.noun, row.aggregate_id] = row.position
        return states, stopped

    def _write(self, connection: Connection, commits: Sequence[Commit], position: int) -> dict[str, ViewState]:
        states = {}
        for name, known in self._states.items():
            if not commits or commits[0].position > known.position:
                fresh = commits
            else:
                fresh = [commit for commit in commits if commit.position > known.position]
            checksum = self._fold(connection, name, fresh, known.checksum)
            states[name] = ViewState(known.version, max(position, known.position), checksum)
            moved = connection.execute(
                update(state)
                .where(state.c.name == name, state.c.position == known.position)
                .values(position=states[name].position, checksum=states[name].checksum)
            )
            if moved.rowcount != 1:
                raise CheckpointMoved(f"View {name} no longer stands at {known.position}: somebody else projects.")
        return states

    def _fold(self, connection: Connection, name: str, commits: Sequence[Commit], checksum: bytes) -> bytes:
        skipped = self._parked[name]
        if skipped:
            commits = [commit for commit in commits if (commit.noun, commit.aggregate_id) not in skipped]
        writer = self._writers[name]
        try:
            with connection.begin_nested():
                return add_checksum(checksum, writer.write(connection, commits))
        except Exception as error:
            if isinstance(error, SQLAlchemyError | OSError) and not faults.is_value(error):
                raise  # the database failed, not the fold
            writer.forget()
            if len(commits) == 1:
                self._park(connection, name, commits[0], error)
                return checksum
        # One of them is poison: alone, it shows itself.
        for commit in commits:
            checksum = self._fold(connection, name, [commit], checksum)
        return checksum

    def _park(self, connection: Connection, name: str, commit: Commit, error: Exception) -> None:
        said = f"{type(error).__name__}: {error}"[:500]
        logger.error(
            "View %s cannot fold position %d; %s %s is parked for it: %s",
            name,
            commit.position,
            commit.noun,
            commit.aggregate_id,
            said,
        )
        insert_rows(connection, parked, [(name, commit.noun, commit.aggregate_id, commit.position, said)])
        self._parked[name][commit.noun, commit.aggregate_id] = commit.position
