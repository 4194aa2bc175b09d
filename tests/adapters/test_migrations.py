from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, exc, insert, inspect, select, text

import migrations
from adapters.sql import schema
from adapters.sql.engine import Engines, open_engines, sqlite_engines
from adapters.sql.migrate import HEAD, migrate, stored_revision
from adapters.sql.store import SqlStore
from core.kernel.errors import StartRefused
from core.kernel.ports import Checkpoint
from tests.places import place


@pytest.fixture
async def engines(each_database: None, tmp_path: Path) -> AsyncIterator[Engines]:
    """A database of each kind, empty."""
    engines = await open_engines(place(tmp_path / "store.db"))
    yield engines
    await engines.close()


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[Engines]:
    """A SQLite file, for what only SQLite has."""
    engines = sqlite_engines(tmp_path / "store.db")
    yield engines
    await engines.close()


async def revision(engines: Engines) -> str | None:
    async with engines.readers.connect() as connection:
        return await connection.run_sync(stored_revision)


async def pretend(engines: Engines, revision: str) -> None:
    change = text("UPDATE alembic_version SET version_num = :revision")
    await engines.thread.transact(lambda connection: connection.execute(change, {"revision": revision}))


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return list(compare_metadata(context, schema.metadata))


async def test_migrating_an_empty_database_gives_the_schema_that_the_program_works_with(engines: Engines) -> None:
    assert await revision(engines) is None
    await migrate(engines)
    assert await revision(engines) == HEAD
    async with engines.readers.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_a_new_store_starts_at_position_zero(engines: Engines) -> None:
    await migrate(engines)
    async with engines.readers.connect() as connection:
        rows = (await connection.execute(select(schema.checkpoint))).all()
    assert [tuple(row) for row in rows] == [(1, 0, 0, b"")]


async def test_positions_are_row_ids_and_commands_have_none(file: Engines) -> None:
    await migrate(file)
    async with file.readers.connect() as connection:
        found = await connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
    tables = {row.name: row.sql for row in found}
    assert "position INTEGER NOT NULL" in tables["commits"]
    assert [name for name, sql in tables.items() if "WITHOUT ROWID" in sql] == ["commands"]


async def test_migrating_again_changes_nothing(engines: Engines) -> None:
    await migrate(engines)
    await engines.thread.transact(Connection.execute, insert(schema.actors), {"id": 1, "name": "ada"})
    await migrate(engines)
    async with engines.readers.connect() as connection:
        assert (await connection.execute(select(schema.actors.c.name))).scalars().all() == ["ada"]


async def test_several_starts_at_once_migrate_once_and_all_succeed(each_database: None, tmp_path: Path) -> None:
    stores = await asyncio.gather(*(SqlStore.open(place(tmp_path / "store.db")) for _ in range(4)))
    assert [await store.checkpoint() for store in stores] == [Checkpoint()] * 4
    for store in stores:
        await store.close()


async def test_a_new_file_that_another_program_holds_locked_is_opened_once_it_lets_go(
    file: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SQLite refuses the change to WAL at once then, whatever its busy timeout.
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE something (id INTEGER)")
    other.execute("BEGIN IMMEDIATE")
    waits: list[float] = []

    def let_go(seconds: float) -> None:
        waits.append(seconds)
        if other.in_transaction:
            other.execute("ROLLBACK")

    monkeypatch.setattr("adapters.sql.engine.time.sleep", let_go)
    await migrate(file)
    assert await revision(file) == HEAD
    assert waits, "the file was not refused while it was locked"
    other.close()


async def test_a_newer_schema_refuses_the_start_with_both_revisions_and_stays_as_it_is(engines: Engines) -> None:
    await migrate(engines)
    await pretend(engines, "9999")
    with pytest.raises(StartRefused) as refused:
        await migrate(engines)
    assert refused.value.extra == {"stored_revision": "9999", "known_revision": HEAD}
    assert refused.value.sentence == f"The store has schema revision 9999; this program knows revisions up to {HEAD}."
    assert await revision(engines) == "9999"


async def test_opening_a_newer_store_leaves_no_connection_behind(engines: Engines, tmp_path: Path) -> None:
    await migrate(engines)
    await pretend(engines, "9999")
    with pytest.raises(StartRefused):
        await SqlStore.open(place(tmp_path / "store.db"))


async def test_a_migration_that_fails_leaves_the_database_as_it_was(engines: Engines) -> None:
    await engines.thread.transact(Connection.execute, text("CREATE TABLE heads (foreign_to_us INTEGER)"))
    with pytest.raises(exc.DBAPIError, match=r'heads"? already exists'):
        await migrate(engines)
    async with engines.readers.connect() as connection:
        assert await connection.run_sync(lambda sync: inspect(sync).get_table_names()) == ["heads"]


def test_the_head_constant_is_alembics_head() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


OPEN = """
import asyncio, sys
from pathlib import Path
from adapters.sql.store import SqlStore

async def main():
    store = await SqlStore.open(Path(sys.argv[1]))
    print((await store.checkpoint()).position, "alembic" in sys.modules)
    await store.close()

asyncio.run(main())
"""


def open_elsewhere(database: Path, folder: Path) -> str:
    """Open a store in a fresh interpreter that runs in another folder; what it printed."""
    arguments = [sys.executable, "-c", OPEN, str(database)]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_store_opens_from_any_folder_and_a_current_one_does_not_import_alembic(tmp_path: Path) -> None:
    elsewhere = tmp_path / "else where %s"
    elsewhere.mkdir()
    assert open_elsewhere(elsewhere / "store.db", elsewhere) == "0 True"
    assert open_elsewhere(elsewhere / "store.db", elsewhere) == "0 False"


def pragmas(connection: Connection, *names: str) -> list[object]:
    return [connection.scalar(text(f"PRAGMA {name}")) for name in names]


async def test_connections_are_set_up_as_measured_and_readers_cannot_write(file: Engines) -> None:
    await migrate(file)
    names = ("journal_mode", "synchronous", "wal_autocheckpoint", "busy_timeout", "foreign_keys", "query_only")
    assert await file.thread.transact(pragmas, *names) == ["wal", 2, 10_000, 5_000, 0, 0]
    async with file.readers.connect() as connection:
        shared = ("busy_timeout", "foreign_keys", "query_only")
        assert await connection.run_sync(pragmas, *shared) == [5_000, 0, 1]
        with pytest.raises(exc.OperationalError, match="readonly"):
            await connection.execute(insert(schema.actors), {"id": 1, "name": "ada"})
