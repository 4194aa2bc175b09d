"""Connections to a database, a SQLite file or a Postgres schema: one that writes, a bounded number that only read."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from msgspec import Struct
from sqlalchemy import URL, Connection, Engine, create_engine, event, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from adapters.sql import faults
from core.kernel.errors import Unavailable

if TYPE_CHECKING:
    from adapters.sql.postgres import Postgres

BUSY_TIMEOUT_MS = 5_000
POOL_TIMEOUT_S = 5.0

_SHARED_PRAGMAS = (
    f"busy_timeout={BUSY_TIMEOUT_MS}",
    # Ids are given by one writer in one transaction; checking them again costs a probe for every row.
    "foreign_keys=OFF",
)
# FULL is free from batches of 100 on; a longer WAL folds many batches into one pass over the same pages.
_WRITER_PRAGMAS = (*_SHARED_PRAGMAS, "journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=10000")
_READER_PRAGMAS = (*_SHARED_PRAGMAS, "query_only=ON")

P = ParamSpec("P")
T = TypeVar("T")


class Transactions(Protocol):
    """The one way to write."""

    async def transact(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(connection, ...)` in one transaction: committed on return, rolled back on a raise."""
        ...

    async def close(self) -> None:
        """Wait for the transaction that runs, then release everything."""
        ...


class WriterThread:
    """One connection on one thread: a transaction is one hop, however many statements it has.

    The async driver makes three hops a statement, and each waits for its turn of the loop: half the commits/s on an
    idle loop, and far fewer on a busy one.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store-writer")

    async def transact(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(connection, ...)` on the thread in one transaction: committed on return, rolled back on a raise.

        Cancelling the caller waits for the end of the transaction; whether it was committed, the database tells.
        """

        def run() -> T:
            with self._engine.begin() as connection:
                return work(connection, *args, **kwargs)

        future = asyncio.get_running_loop().run_in_executor(self._thread, run)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    async def close(self) -> None:
        """Wait for the transaction that runs, then close the connection and end the thread."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.dispose)
        self._thread.shutdown()


class Engines(Struct, frozen=True):
    """The two ways to one database; neither opens anything before its first use.

    `thread` writes, whole transactions, one at a time. `readers` refuses to write; waiting for one of its connections
    ends after 5 s. `server` is where it is if it is not a file.
    """

    thread: Transactions
    readers: AsyncEngine
    server: Postgres | None = None

    @asynccontextmanager
    async def look(self) -> AsyncIterator[AsyncConnection]:
        """A connection whose reads are all of one moment."""
        async with self.readers.connect() as connection:
            if self.server is not None:
                yield connection
                return
            await connection.exec_driver_sql("BEGIN")
            try:
                yield connection
            finally:
                # A statement whose caller was cancelled took the connection with it: nothing is left to roll back.
                if not connection.invalidated:
                    await connection.exec_driver_sql("ROLLBACK")

    async def close(self) -> None:
        """Close all connections; on the last one SQLite folds the WAL into the file."""
        await self.readers.dispose()
        await self.thread.close()


async def open_engines(place: Path | Postgres, *, readers: int = 4, snapshot: bool = False) -> Engines:
    """Engines for a file that need not exist yet (its folder must), or for a schema, which is made where it is missing.

    `snapshot` is for those who read by `look`. Raises StartRefused where a server cannot be used.
    """
    if isinstance(place, Path):
        return sqlite_engines(place, readers=readers)
    from adapters.sql import postgres, provision  # noqa: PLC0415 - a start on SQLite does not pay for it

    await provision.provision(place)
    reading = postgres.reader_engine(place, readers=readers, snapshot=snapshot)
    return Engines(postgres.LoopThread(place), reading, place)


@asynccontextmanager
async def preparing(engines: Engines) -> AsyncIterator[Transactions]:
    """What brings a schema to today's: the writer, on a server without its deadline, because indexes take their time.

    Whatever the server refuses is StartRefused, with what to do.
    """
    if engines.server is None:
        yield engines.thread
        return
    from adapters.sql import postgres, provision  # noqa: PLC0415 - as above

    thread = postgres.LoopThread(engines.server, statement_s_max=None)
    try:
        yield thread
    except (exc.DBAPIError, OSError, Unavailable) as error:
        cause = error.__cause__ if isinstance(error, Unavailable) and error.__cause__ else error
        if faults.is_outage(cause) or faults.sqlstate(cause) == "42501":
            raise provision.refusal(engines.server, cause) from error
        raise
    finally:
        await thread.close()


def sqlite_engines(path: Path, *, readers: int = 4) -> Engines:
    """Engines for a file that need not exist yet; its folder must."""
    writer = create_engine(URL.create("sqlite", database=str(path)), pool_size=1, max_overflow=0)
    event.listen(writer, "connect", _on_connect(_WRITER_PRAGMAS))
    event.listen(writer, "begin", _begin_immediate)
    reader = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        pool_size=readers,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        # A read is one statement: without BEGIN and ROLLBACK around it there are half as many hops.
        pool_reset_on_return=None,
        isolation_level="AUTOCOMMIT",
    )
    event.listen(reader.sync_engine, "connect", _on_connect(_READER_PRAGMAS))
    return Engines(WriterThread(writer), reader)


def _on_connect(pragmas: tuple[str, ...]) -> Callable[[Any, Any], None]:
    def connect(connection: Any, _record: Any) -> None:
        # The driver's own BEGIN comes late and never before DDL; with None the `begin` listener's is the only one.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in pragmas:
            _patiently(cursor, f"PRAGMA {pragma}")
        cursor.close()

    return connect


def _patiently(cursor: Any, statement: str) -> None:
    """Run it, again while the file is locked: SQLite's own wait does not cover the change to WAL of a new file."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute(statement)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_immediate(connection: Connection) -> None:
    # Taking the write lock first means waiting for it; taking it after a read means failing with SQLITE_BUSY.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


# What passes by itself: a full disk (also where the WAL or its index cannot grow), and another writer.
_PASSING = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_IOERR_SHMSIZE,
        sqlite3.SQLITE_IOERR_SHMMAP,
    }
)


@contextmanager
def writing(database: str) -> Iterator[None]:
    """A transaction that the disk did not take, as Unavailable: it was rolled back, and may be tried again.

    A failed fsync is not among it: what the kernel dropped then, a second one does not report.
    """
    try:
        yield
    except exc.OperationalError as error:
        if getattr(error.orig, "sqlite_errorcode", None) not in _PASSING:
            raise
        raise Unavailable(
            f"The {database} cannot be written: {error.orig}.",
            code=f"{database}_unavailable",
            remedy="See that the data directory has space; it goes on by itself.",
            retry_after_s=1,
        ) from error


@asynccontextmanager
async def answering(database: str, engines: Engines) -> AsyncIterator[None]:
    """Whatever a database does instead of answering, as Unavailable."""
    try:
        yield
    except exc.TimeoutError as error:
        raise Unavailable(
            f"All connections to the {database} are in use.", code="busy", remedy="Try again.", retry_after_s=1
        ) from error
    except (exc.DBAPIError, OSError) as error:
        if engines.server is not None and not faults.is_value(error):
            raise faults.outage(error, engines.server.where) from error
        if isinstance(error, exc.OperationalError):
            raise Unavailable(
                f"The {database} did not answer: {error.orig}",
                code=f"{database}_unavailable",
                remedy="See that the data directory is there and has space, then try again.",
                retry_after_s=1,
            ) from error
        raise
