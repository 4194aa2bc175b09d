"""Connections to a schema of a Postgres server, by asyncpg.

The store and the views lie in a schema each, found by search_path: the tables and queries are those of SQLite. What
differs is here: how text is kept, how a session is set up, and how a transaction leaves the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from threading import Thread
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import unquote, urlsplit

from msgspec import Struct
from sqlalchemy import Connection, Dialect, String, Text, event, exc
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.postgresql.base import PGTypeCompiler
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from adapters.sql import faults
from core.kernel.errors import StartRefused

logger = logging.getLogger("hivebus.database")

CONNECT_S_MAX = 5.0
# A server that hangs must not hold a request, or the recorder, for ever.
READ_S_MAX = 15.0
WRITE_S_MAX = 30.0
POOL_TIMEOUT_S = 5.0

# Every statement of the writer goes by a key. Without statistics, which a fast-growing table does not have yet, the
# planner would read the whole table instead, and keep that plan.
_WRITER = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off", "jit": "off"}
# A page of now and one of long ago differ in their values only: a plan without them serves neither.
_READER = {"plan_cache_mode": "force_custom_plan", "default_transaction_read_only": "on", "jit": "off"}

# No text of Postgres holds a NUL, and JSON, which is what callers send, has it. It is kept as two characters, and so
# is the character that announces it.
_ESCAPE = "\x1a"
_ESCAPED = {"\0": _ESCAPE + "0", _ESCAPE: _ESCAPE + "1"}

P = ParamSpec("P")
T = TypeVar("T")


class Postgres(Struct, frozen=True):
    """A schema on a server. `dsn` may hold a password: this object is never shown, `where` is."""

    dsn: str
    schema: str

    @property
    def where(self) -> str:
        """Host, port and database, for messages."""
        parts = urlsplit(self.dsn)
        return f"{parts.hostname or 'localhost'}:{parts.port or 5432}{unquote(parts.path)}"

    def __repr__(self) -> str:
        return f"Postgres({self.where}, schema={self.schema})"


def escaped(text: str | None) -> str | None:
    """Text as Postgres can hold it."""
    if text is None or ("\0" not in text and _ESCAPE not in text):
        return text
    return "".join(_ESCAPED.get(character, character) for character in text)


def unescaped(text: str | None) -> str | None:
    """Text as it was given."""
    if text is None or _ESCAPE not in text:
        return text
    return text.replace(_ESCAPED["\0"], "\0").replace(_ESCAPED[_ESCAPE], _ESCAPE)


class _Text(String):
    """Core's way to and from text columns."""

    render_bind_cast = True

    def bind_processor(self, dialect: Dialect) -> Callable[[str | None], str | None]:
        return escaped

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[str | None], str | None]:
        return unescaped


class _Types(PGTypeCompiler):
    def visit_VARCHAR(self, type_: Any, **kw: Any) -> str:
        # SQLite does not count characters, and no fold should fail where another database holds its rows.
        return "TEXT"


class HivebusDialect(PGDialect_asyncpg):
    """asyncpg's dialect with texts that may hold anything."""

    supports_statement_cache = True
    type_compiler_cls = _Types
    colspecs = {**PGDialect_asyncpg.colspecs, String: _Text, Text: _Text}  # noqa: RUF012 - as its base has it


registry.register("postgresql.hivebus", __name__, "HivebusDialect")


def writer_engine(place: Postgres, *, statement_s_max: float | None) -> AsyncEngine:
    """One connection for transactions."""
    return _engine(place, _WRITER, statement_s_max, pool_size=1, max_overflow=0)


def reader_engine(
    place: Postgres, *, readers: int, snapshot: bool, statement_s_max: float | None = READ_S_MAX
) -> AsyncEngine:
    """Connections that cannot write. `snapshot`: what one connection reads is of one moment until it is given back;
    else each statement stands for itself, without BEGIN and ROLLBACK around it."""
    level = "REPEATABLE READ" if snapshot else "AUTOCOMMIT"
    return _engine(place, _READER, statement_s_max, pool_size=readers, max_overflow=0, isolation_level=level)


def _engine(place: Postgres, settings: dict[str, str], command_timeout_s: float | None, **options: Any) -> AsyncEngine:
    # By a function, so that no engine, pool or message of SQLAlchemy ever holds the password.
    async def connect() -> Any:
        return await connect_to(place, settings, command_timeout_s)

    engine = create_async_engine(
        "postgresql+hivebus://", async_creator=connect, hide_parameters=True, pool_timeout=POOL_TIMEOUT_S, **options
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    return engine


def _refuse_closed(connection: Any, _record: Any, _proxy: Any) -> None:
    # A server that went away closed its sockets: found out without a question.
    if connection.driver_connection.is_closed():
        raise exc.DisconnectionError


async def connect_to(place: Postgres, settings: dict[str, str], command_timeout_s: float | None) -> Any:
    """An asyncpg connection whose names are those of the schema."""
    return await driver().connect(
        place.dsn,
        timeout=CONNECT_S_MAX,
        command_timeout=command_timeout_s,
        server_settings={"search_path": place.schema, "application_name": "hivebus", **settings},
    )


def driver() -> Any:
    """The module asyncpg. Raises StartRefused where it is not installed."""
    try:
        import asyncpg  # noqa: PLC0415 - an extra: only those who name a Postgres need it
    except ImportError:
        raise StartRefused(
            "HIVEBUS_DATABASE_URL names a Postgres, and its driver is not installed.",
            remedy="pip install 'hivebus[postgres]'",
            code="driver_missing",
        ) from None
    return asyncpg


class LoopThread:
    """One connection on one thread with a loop of its own: folding a batch does not hold up those who ask.

    Transactions run one at a time. Raises Unavailable when the server goes away, in which case the transaction may
    have been committed: the caller asks the database.
    """

    def __init__(self, place: Postgres, *, statement_s_max: float | None = WRITE_S_MAX) -> None:
        self._place = place
        self._engine = writer_engine(place, statement_s_max=statement_s_max)
        self._loop = asyncio.new_event_loop()
        self._turn = asyncio.Lock()
        self._thread = Thread(target=self._loop.run_forever, name="store-writer", daemon=True)
        self._thread.start()

    async def transact(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(connection, ...)` in one transaction: committed on return, rolled back on a raise.

        Cancelling the caller waits for the end of the transaction; whether it was committed, the database tells.
        """

        async def run() -> T:
            async with self._turn:
                try:
                    async with self._engine.begin() as connection:
                        return await connection.run_sync(work, *args, **kwargs)
                except Exception as error:
                    if faults.is_outage(error):
                        raise faults.outage(error, self._place.where) from error
                    raise

        return await self._there(run())

    async def close(self) -> None:
        """Wait for the transaction that runs, then close the connection and end the thread."""
        if self._loop.is_closed():
            return
        await self._there(self._dispose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()

    async def _dispose(self) -> None:
        async with self._turn:
            await self._engine.dispose()

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            future.exception()  # whatever became of it, nobody is left to hear
            raise
