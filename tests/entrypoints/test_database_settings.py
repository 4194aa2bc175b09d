"""Where store and views are: settings that name a Postgres, and no message that shows any part of its address."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adapters.sql.postgres import Postgres
from core.kernel.errors import StartRefused
from entrypoints.cli.backup import backup
from entrypoints.cli.failures import Failure
from entrypoints.database import address_of, places
from entrypoints.settings import PREFIX, load
from entrypoints.views import rebuild, roll_back

ADDRESSES = [
    "postgresql://ada:sesame-1234@db.example:5433/hive",
    "postgresql+asyncpg://ada:sesame-1234@db/hive?sslmode=require",
    "postgresql://db/hive",
]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without any setting but the data directory."""
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HIVEBUS_DATA_DIR", str(tmp_path))


def test_without_an_address_store_and_views_are_files(tmp_path: Path) -> None:
    assert places(load(), tmp_path) == (tmp_path / "store.db", tmp_path / "views.db")


@pytest.mark.parametrize("url", ADDRESSES)
def test_an_address_gives_two_schemas_and_is_never_shown(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HIVEBUS_DATABASE_URL", url)
    monkeypatch.setenv("HIVEBUS_DATABASE_SCHEMA", "fleet")
    settings = load()
    plain = url.replace("+asyncpg", "")
    both = places(settings, tmp_path)
    assert both == (Postgres(plain, "fleet"), Postgres(plain, "fleet_views"))
    assert "sesame" not in repr(settings) + str(settings) + settings.model_dump_json() + repr(both)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///sesame-1234.db",
        "mysql://ada:sesame-1234@db/hive",
        "postgres://ada:sesame-1234@db/hive",
        "postgresql+psycopg://ada:sesame-1234@db/hive",
        "sesame-1234",
        "postgresql://",
        "postgresql:///hive",
        "postgresql://ada:sesame-1234@db",
        "postgresql://ada:sesame-1234@db/",
        "postgresql://ada:sesame-1234@db/hive/more",
        "postgresql://ada:sesame-1234@db:nan/hive",
        "postgresql://ada:sesame-1234@db:99999/hive",
        "postgresql://ada:12/sesame-1234@db/hive",
        "postgresql://ada:12#sesame-1234@db/hive",
        "postgresql://ada:12?sesame-1234@db/hive",
        "postgresql://[sesame-1234/hive",
    ],
)
def test_any_other_address_is_refused_with_the_form_and_no_part_of_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVEBUS_DATABASE_URL", url)
    with pytest.raises(StartRefused) as refused:
        address_of(load())
    assert "HIVEBUS_DATABASE_URL" in refused.value.sentence
    assert "postgresql://user:password@host:5432/database" in refused.value.remedy
    assert "sesame" not in refused.value.sentence + refused.value.remedy + str(refused.value.__cause__)


def test_an_address_may_lie_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text(ADDRESSES[0] + "\n")
    monkeypatch.setenv("HIVEBUS_DATABASE_URL_FILE", str(tmp_path / "url"))
    assert address_of(load()) == ADDRESSES[0]
    monkeypatch.setenv("HIVEBUS_DATABASE_URL", ADDRESSES[1])
    with pytest.raises(StartRefused, match="are both set"):
        address_of(load())


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVEBUS_DATABASE_URL_FILE", str(tmp_path / "missing"))
    with pytest.raises(StartRefused, match=r"HIVEBUS_DATABASE_URL_FILE: .*missing cannot be read: No such"):
        address_of(load())


@pytest.mark.parametrize("schema", ["Hive", "a b", 'a"b', "1a", "a" * 51])
def test_a_schema_is_a_plain_name(schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVEBUS_DATABASE_SCHEMA", schema)
    with pytest.raises(StartRefused, match="HIVEBUS_DATABASE_SCHEMA"):
        load()


def test_a_backup_of_files_is_refused_where_the_store_is_in_postgres(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVEBUS_DATABASE_URL_FILE", str(tmp_path / "url"))
    with pytest.raises(Failure, match="the store lies in Postgres"):
        backup(tmp_path / "x.tar", False, False, False, str(tmp_path), False)


def test_a_rebuild_of_files_is_refused_where_the_views_are_in_postgres(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVEBUS_DATABASE_URL", ADDRESSES[0])
    for ask in (lambda: rebuild(tmp_path, [], lambda position, end: None), lambda: roll_back(tmp_path)):
        with pytest.raises(StartRefused, match="The views are in Postgres") as refused:
            ask()
        assert "DROP SCHEMA hivebus_views CASCADE" in refused.value.remedy
