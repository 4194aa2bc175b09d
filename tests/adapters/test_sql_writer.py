from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import Column, Connection, Integer, MetaData, Table, Text, select, text

from adapters.sql import schema
from adapters.sql.engine import Engines, open_engines
from adapters.sql.migrate import migrate
from adapters.sql.names import Names
from adapters.sql.statements import LOOK_UP_MAX, insert_rows, look_up
from adapters.sql.store import SqlStore
from core.kernel.errors import Unavailable
from tests.contracts.store import commit, given, parked
from tests.places import place

A, B = "hive.log.task.a", "hive.log.task.b"


pytestmark = pytest.mark.usefixtures("each_database")


@pytest.fixture
async def engines(tmp_path: Path) -> AsyncIterator[Engines]:
    engines = await open_engines(place(tmp_path / "store.db"))
    await migrate(engines)
    yield engines
    await engines.close()


async def rows(engines: Engines, table: Table) -> list[tuple[object, ...]]:
    async with engines.readers.connect() as connection:
        return [tuple(row) for row in await connection.execute(select(table).order_by(table.c[0]))]


async def test_a_stream_knows_its_newest_version_and_position_and_its_id_is_its_first_position(
    engines: Engines,
) -> None:
    store = SqlStore(engines)
    await given(store, commit(1, A), commit(2, B), commit(3, A))
    await given(store, commit(4, B), commit(5, B))
    assert await rows(engines, schema.streams) == [(1, A, 3, 3), (2, B, 5, 5)]


async def test_a_parked_commit_takes_a_position_of_its_stream_and_no_version(engines: Engines) -> None:
    store = SqlStore(engines)
    first = commit(1, A)
    await given(store, first)
    await given(store, parked(2), commit(3, B, commit_id=first.entry.commit_id))
    assert await rows(engines, schema.streams) == [(1, A, 1, 2), (3, B, 0, 3)]


async def test_a_first_version_on_a_subject_that_is_known_goes_to_the_stream_that_is_there(engines: Engines) -> None:
    await given(SqlStore(engines), commit(1, A), commit(2, B))
    # A writer that never saw the subject takes a first version for a new stream, until the index says otherwise.
    await given(SqlStore(engines), commit(3, "hive.log.task.c"), replace(commit(4, A), version=1), commit(5, B))
    assert await rows(engines, schema.streams) == [(1, A, 1, 4), (2, B, 5, 5), (3, "hive.log.task.c", 3, 3)]


async def test_actors_and_command_types_are_written_once_however_many_writers_there_were(engines: Engines) -> None:
    await given(SqlStore(engines), commit(1, actor="ada"), commit(2, actor="bob"))
    await given(SqlStore(engines), commit(3, actor="bob"), commit(4, actor="cyd"))
    assert await rows(engines, schema.actors) == [(1, "ada"), (2, "bob"), (4, "cyd")]
    assert await rows(engines, schema.command_types) == [(1, "task.submit")]


async def test_names_beyond_the_bound_are_forgotten_and_keep_their_ids(engines: Engines) -> None:
    names = Names(schema.actors, kept_max=2)
    wanted = {"ada": 1, "bob": 2, "cyd": 3}

    def introduce(connection: Connection) -> dict[str, int]:
        ids, fresh = names.resolve(connection, wanted)
        insert_rows(connection, schema.actors, [(ids[name], name) for name in fresh])
        return ids

    names.keep(await engines.thread.transact(introduce))
    assert names._kept == {"bob": 2, "cyd": 3}
    again = await engines.thread.transact(names.resolve, {"cyd": 9, "ada": 9, "dan": 9})
    assert again == ({"cyd": 3, "ada": 1, "dan": 9}, ["dan"])


@pytest.mark.parametrize("count", [0, 1, 2, 3, 255, 256, 257, 1_000, LOOK_UP_MAX + 1])
async def test_any_number_of_rows_goes_in_and_is_found_again(engines: Engines, count: int) -> None:
    table = Table("numbers", MetaData(), Column("number", Integer, primary_key=True), Column("word", Text))
    given_rows = [(number, f"word {number}") for number in range(count)]

    def round_trip(connection: Connection) -> list[tuple[object, ...]]:
        table.create(connection)
        insert_rows(connection, table, given_rows)
        found = look_up(connection, table.c.number, [number for number, _ in given_rows], table.c.word)
        return sorted(map(tuple, found))

    assert await engines.thread.transact(round_trip) == given_rows


async def test_a_transaction_that_raises_is_rolled_back(engines: Engines) -> None:
    def half(connection: Connection) -> None:
        insert_rows(connection, schema.actors, [(1, "ada")])
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        await engines.thread.transact(half)
    assert await rows(engines, schema.actors) == []


async def test_a_store_whose_database_does_not_answer_says_so_and_when_to_come_back(engines: Engines) -> None:
    await engines.thread.transact(Connection.execute, text("DROP TABLE checkpoint"))
    with pytest.raises(Unavailable) as unavailable:
        await SqlStore(engines).checkpoint()
    code = "database_unavailable" if engines.server else "store_unavailable"
    assert (unavailable.value.code, unavailable.value.retry_after_s) == (code, 1)
