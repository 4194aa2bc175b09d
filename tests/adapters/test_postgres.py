"""Store and views in a real Postgres: starts that cannot go on, starts that meet, and values that it cannot hold."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import exc, select, text

from adapters.sql import provision, schema
from adapters.sql.engine import open_engines
from adapters.sql.migrate import HEAD
from adapters.sql.postgres import Postgres, escaped, unescaped
from adapters.sql.store import SqlStore
from adapters.sql.turns import LOCK
from adapters.sql.verify import Difference, verify
from adapters.sql.views import SqlViews
from core.kernel.errors import StartRefused
from core.kernel.ports import Checkpoint
from core.task import FailTask, TaskQueued
from projections.catalogue import VIEWS
from projections.task_queries import ListTasks, ShowTask, list_tasks, show_task
from projections.timeline import timeline
from tests.adapters.test_migrations import differences
from tests.contracts.store import commit, given, parked
from tests.given import CODEC, History, ManualClock, ask, assigned, recorded, registered, spawned, started, submitted
from tests.places import schema_for
from tests.postgres import PASSWORD, PostgresCluster

pytestmark = pytest.mark.peers

STRANGE = "a\0b\x1ac\x1a0d\x1a1\u00e9\U0001f41d"


@pytest.fixture
def at(postgres: PostgresCluster, tmp_path: Path) -> Postgres:
    return schema_for(postgres.url, tmp_path)


@pytest.fixture
def stranger(postgres: PostgresCluster) -> Iterator[str]:
    """A user who may only log in, with a password that needs encoding."""
    postgres.execute("CREATE ROLE stranger LOGIN PASSWORD 'open/sesame'")
    yield postgres.url_of("stranger", "open%2Fsesame")
    postgres.execute("DROP OWNED BY stranger")
    postgres.execute("DROP ROLE stranger")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision, "REACH_S_MAX", 0.3)


async def refused(place: Postgres) -> StartRefused:
    with pytest.raises(StartRefused) as caught:
        await SqlStore.open(place)
    said = caught.value.sentence + caught.value.remedy
    assert PASSWORD not in said
    assert "sesame" not in said
    return caught.value


# Starts that cannot go on


async def test_a_server_that_is_not_there_is_waited_for_then_named(at: Postgres) -> None:
    away = Postgres("postgresql://ada:sesame@127.0.0.1:1/hive", at.schema)
    error = await refused(away)
    assert (error.code, "127.0.0.1:1/hive" in error.sentence) == ("database_unavailable", True)
    assert "Start Postgres" in error.remedy


async def test_a_wrong_password_and_an_unknown_user_are_told_at_once(postgres: PostgresCluster, at: Postgres) -> None:
    for user in ("postgres", "nobody"):
        error = await refused(Postgres(postgres.url_of(user, "sesame"), at.schema))
        assert (error.code, f"does not let {user} in" in error.sentence) == ("database_denied", True)


async def test_a_database_that_does_not_exist_is_named(postgres: PostgresCluster, at: Postgres) -> None:
    error = await refused(Postgres(postgres.url_of("postgres", PASSWORD, "elsewhere"), at.schema))
    assert (error.code, "/elsewhere" in error.sentence) == ("database_missing", True)


async def test_a_user_who_may_not_create_the_schema_is_told_what_an_administrator_does(
    postgres: PostgresCluster, at: Postgres, stranger: str
) -> None:
    place = Postgres(stranger, at.schema)
    error = await refused(place)
    assert error.code == "database_forbidden"
    remedy = error.remedy.partition(": ")[2]
    postgres.execute(remedy)
    store = await SqlStore.open(place)
    assert await store.checkpoint() == Checkpoint()
    await store.close()


async def test_a_schema_of_somebody_else_is_refused(postgres: PostgresCluster, at: Postgres, stranger: str) -> None:
    await (await SqlStore.open(at)).close()
    error = await refused(Postgres(stranger, at.schema))
    assert error.code == "database_forbidden"


async def test_an_encoding_that_cannot_hold_every_text_is_refused(postgres: PostgresCluster, at: Postgres) -> None:
    postgres.execute("CREATE DATABASE narrow ENCODING 'LATIN1' TEMPLATE template0")
    error = await refused(Postgres(postgres.url_of("postgres", PASSWORD, "narrow"), at.schema))
    assert (error.code, "LATIN1" in error.sentence) == ("database_encoding", True)


async def test_options_that_the_driver_does_not_know_are_refused_without_the_address(at: Postgres) -> None:
    error = await refused(Postgres(f"{at.dsn}?sslmode=sesame", at.schema))
    assert error.code == "database_url"


async def test_a_store_of_a_newer_program_is_refused_and_stays_as_it_is(
    postgres: PostgresCluster, at: Postgres
) -> None:
    await (await SqlStore.open(at)).close()
    postgres.execute(f"UPDATE {at.schema}.alembic_version SET version_num = '9999'")
    assert (await refused(at)).code == "store_newer"
    assert postgres.execute(f"SELECT version_num FROM {at.schema}.alembic_version").stdout.strip() == "9999"


async def test_without_the_driver_the_line_that_installs_it_is_told(
    at: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    assert (await refused(at)).remedy == "pip install 'hivebus[postgres]'"


# Starts that meet


async def test_starts_at_once_migrate_once_and_all_succeed(at: Postgres, tmp_path: Path) -> None:
    views_at = Postgres(at.dsn, at.schema + "_views")
    stores = asyncio.gather(*(SqlStore.open(at) for _ in range(4)))
    views = asyncio.gather(*(SqlViews.open(views_at, VIEWS) for _ in range(4)))
    opened: list[SqlStore | SqlViews] = [*await stores, *await views]
    for database in opened:
        await database.close()
    engines = await open_engines(at)
    async with engines.readers.connect() as connection:
        assert (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalars().all() == [HEAD]
        assert len((await connection.execute(select(schema.checkpoint))).all()) == 1
        assert await connection.run_sync(differences) == []
    await engines.close()


async def test_a_start_waits_for_the_program_that_prepares_the_schema(
    postgres: PostgresCluster, at: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    postgres.execute(f"CREATE SCHEMA {at.schema}")
    engines = await open_engines(at)
    async with engines.readers.connect() as holder:
        await holder.execute(text(f"SELECT pg_advisory_lock({LOCK}, hashtext('{at.schema}'))"))
        with caplog.at_level("INFO", "hivebus.database"):
            opening = asyncio.create_task(SqlStore.open(at))
            deadline = time.monotonic() + 20
            while not any("this one waits" in line.message for line in caplog.records):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
        assert not opening.done()
        await holder.execute(text("SELECT pg_advisory_unlock_all()"))
    await (await opening).close()
    await engines.close()


# Values that it cannot hold


@pytest.mark.parametrize("given_text", ["", "plain", "\0", "\x1a", "\x1a0", STRANGE, None])
def test_text_goes_in_without_nul_and_comes_back_as_it_was(given_text: str | None) -> None:
    held = escaped(given_text)
    assert "\0" not in (held or "")
    assert unescaped(held) == given_text


async def test_a_commit_with_nul_in_its_id_or_subject_does_not_stop_the_recorder(at: Postgres) -> None:
    store = await SqlStore.open(at)
    odd = [parked(1, commit_id=STRANGE), commit(2, f"hive.log.task.{STRANGE}")]
    await given(store, *odd)
    await given(store, commit(3, f"hive.log.task.{STRANGE}"))
    assert [stored.entry for stored in await store.read(after=0, limit=9)][:2] == [item.entry for item in odd]
    assert [s.entry.position for s in await store.stream(f"hive.log.task.{STRANGE}", after=0, limit=9)] == [2, 3]
    await store.close()


def a_strange_history() -> History:
    history = History()
    history.commit("host", "h", registered())
    history.commit("agent", "a", spawned())
    history.commit("agent", "a", started())
    parameters = {"n": 2**70, "text": STRANGE, "nothing": None, "list": [True, 1.5]}
    history.commit("task", "t", submitted(parameters=parameters, labels={STRANGE: STRANGE}), TaskQueued())
    history.commit("task", "t", assigned())
    history.execute(FailTask(task_id="t", fence=5, outcome="failed", error=STRANGE * 200, retry_after_ms=9))
    return history


async def test_what_callers_say_is_shown_as_they_said_it_and_verified(
    postgres: PostgresCluster, at: Postgres, tmp_path: Path
) -> None:
    history = a_strange_history()
    views_at = Postgres(at.dsn, at.schema + "_views")
    store, views = await SqlStore.open(at), await SqlViews.open(views_at, VIEWS)
    try:
        await recorded(store, history, ManualClock())
        for commit_ in history.commits:
            # Nothing is kept in memory: each row is read from the table before it is folded further.
            for writer in views._writers.values():
                writer.forget()
            await views.apply([commit_], commit_.position)
        assert views.parked == 0
        task = await ask(views, show_task, ShowTask(task_id="t"))
        assert (task["error"], task["labels"]) == (STRANGE * 200, {STRANGE: STRANGE})
        assert task["parameters"]["n"] == 2**70
        before = await ask(views, list_tasks, ListTasks(), at=5)
        assert [(row["status"], row["error"]) for row in before["tasks"]] == [("assigned", None)]
        assert (await ask(views, list_tasks, ListTasks(type=STRANGE)))["tasks"] == []
    finally:
        await views.close()
        await store.close()

    def verified() -> Any:
        return verify(at, views_at, VIEWS, CODEC, lambda position, end: None)

    report = await asyncio.to_thread(verified)
    assert (report.equal, report.position) == (True, history.head)
    postgres.execute(f"UPDATE {views_at.schema}.tasks SET attempt = 7 WHERE id = 't' AND valid_from = 5")
    assert (await asyncio.to_thread(verified)).difference == Difference("tasks", "t@5", "attempt", 7, 1)
    postgres.execute(f"UPDATE {views_at.schema}.tasks SET attempt = 1 WHERE id = 't' AND valid_from = 5")
    postgres.execute(f"UPDATE {views_at.schema}.task_specs SET labels = '{{}}'")
    assert (await asyncio.to_thread(verified)).difference.column == "labels"
    postgres.execute(f"UPDATE {at.schema}.commits SET body = 'x' WHERE position = 4")
    assert (await asyncio.to_thread(verified)).difference.view == "store"


async def test_verifying_a_schema_that_is_not_there_is_refused(at: Postgres) -> None:
    with pytest.raises(StartRefused, match="There is no schema"):
        await asyncio.to_thread(verify, at, at, VIEWS, CODEC, lambda position, end: None)


async def test_a_look_at_the_views_is_of_one_moment_whatever_is_written_meanwhile(at: Postgres) -> None:
    history = a_strange_history()
    views = await SqlViews.open(at, VIEWS)
    everything = select(timeline.c.position)
    try:
        await views.apply(history.commits[:2], 2)
        async with views.reader(at=None, now_ms=0) as reader:
            before = await reader.rows(everything)
            await views.apply(history.commits[2:], history.head)
            assert await reader.rows(everything) == before
            assert reader.position == 2
        async with views.reader(at=None, now_ms=0) as reader:
            assert len(await reader.rows(everything)) > len(before)
    finally:
        await views.close()


async def test_who_reads_cannot_write(at: Postgres) -> None:
    store = await SqlStore.open(at)
    async with store._engines.readers.connect() as connection:
        with pytest.raises(exc.DBAPIError, match="read-only transaction"):
            await connection.execute(text("UPDATE checkpoint SET position = 9"))
    await store.close()
