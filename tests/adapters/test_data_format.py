"""Who wrote a data directory: an older one is copied before it is changed, a newer one is not touched."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from adapters import data_format
from adapters.data_format import FORMAT, DataFormat, head, prepare
from adapters.sql.migrate import HEAD
from adapters.sql.store import SqlStore
from core.kernel.errors import StartRefused
from core.kernel.merkle import Frontier
from core.kernel.ports import Checkpoint
from tests.contracts.store import commit


@pytest.fixture
async def root(tmp_path: Path) -> Path:
    """A data directory whose store holds one commit."""
    store = await SqlStore.open(tmp_path / "store.db")
    frontier = Frontier()
    recording = commit(1)
    frontier.append(recording.leaf)
    await store.record([recording], old=Checkpoint(), new=Checkpoint(1, 1_000, frontier.encode()))
    await store.close()
    return tmp_path


def wrote(root: Path) -> DataFormat:
    return msgspec.json.decode((root / "format.json").read_bytes(), type=DataFormat)


def revised(root: Path, revision: str) -> None:
    with closing(sqlite3.connect(root / "store.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))


def rows(store: Path) -> tuple[int, str]:
    with closing(sqlite3.connect(store)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM commits").fetchone()
        (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return count, revision


def copies(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("before-*"))


def test_the_newest_revision_is_known_without_what_migrates() -> None:
    assert head() == HEAD


def test_a_new_directory_is_marked(tmp_path: Path) -> None:
    prepare(tmp_path, "0.2.0")

    assert wrote(tmp_path) == DataFormat(format=FORMAT, program="0.2.0")
    assert copies(tmp_path) == []


def test_a_directory_of_this_schema_is_marked_and_not_copied(root: Path) -> None:
    prepare(root, "0.2.0")
    prepare(root, "0.2.1")

    assert wrote(root).program == "0.2.1"
    assert copies(root) == []


def test_an_older_store_is_copied_before_it_is_changed(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    revised(root, "0000")
    caplog.set_level(logging.INFO)

    prepare(root, "0.2.0")

    assert copies(root) == ["before-0.2.0"]
    assert rows(root / "before-0.2.0" / "store.db") == (1, "0000")
    assert (root / "before-0.2.0" / "store.db").stat().st_mode & 0o077 == 0
    assert "copied" in caplog.text
    assert head() in caplog.text


def test_one_copy_is_kept(root: Path) -> None:
    revised(root, "0000")
    prepare(root, "0.2.0")
    prepare(root, "0.3.0")

    assert copies(root) == ["before-0.3.0"]


def test_a_copy_that_was_interrupted_is_made_again(root: Path) -> None:
    revised(root, "0000")
    (root / "before-0.2.0.new").mkdir()
    (root / "before-0.2.0.new" / "store.db").write_text("half")

    prepare(root, "0.2.0")

    assert copies(root) == ["before-0.2.0"]
    assert rows(root / "before-0.2.0" / "store.db")[0] == 1


def test_without_room_for_the_copy_nothing_is_changed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    revised(root, "0000")
    monkeypatch.setattr(data_format, "SPARE_BYTES", 1 << 60)

    with pytest.raises(StartRefused) as refused:
        prepare(root, "0.2.0")

    assert refused.value.code == "disk_full"
    assert not (root / "format.json").exists()


def test_a_later_schema_is_refused_by_name(root: Path) -> None:
    (root / "format.json").write_bytes(msgspec.json.encode(DataFormat(program="9.1.0")))
    revised(root, "9999")

    with pytest.raises(StartRefused) as refused:
        prepare(root, "0.2.0")

    assert refused.value.code == "store_newer"
    assert "9999" in refused.value.sentence
    assert "9.1.0" in refused.value.sentence
    assert wrote(root).program == "9.1.0"


def test_a_later_format_is_refused_before_the_store_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "format.json").write_bytes(b'{"format": 99, "program": "9.1.0", "more": true}')
    (tmp_path / "store.db").write_text("whatever the later version made of it")

    with pytest.raises(StartRefused) as refused:
        prepare(tmp_path, "0.2.0")

    assert refused.value.code == "data_dir_newer"
    assert "9.1.0" in refused.value.sentence


def test_half_a_restore_is_not_taken_for_a_new_directory(tmp_path: Path) -> None:
    (tmp_path / "restoring").mkdir()

    with pytest.raises(StartRefused) as refused:
        prepare(tmp_path, "0.2.0")

    assert refused.value.code == "restore_unfinished"
    assert os.listdir(tmp_path) == ["restoring"]
