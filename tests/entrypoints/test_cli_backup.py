"""`hivebus backup` and `restore` as a user types them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from adapters.backup.manifest import is_left_out
from entrypoints.cli.app import cli
from tests.entrypoints.program import RunningProgram

KEPT = {
    "admin.key",
    "fingerprint.key",
    "format.json",
    "host.id",
    "host.key",
    "store.db",
    "blobs",
    "secrets",
    "signing.key",
}


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, list(args), prog_name="hivebus")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HIVEBUS_DATA_DIR", "HIVEBUS_DATABASE_URL", "HIVEBUS_DEBUG"):
        monkeypatch.delenv(name, raising=False)


def commits(store: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(store)) as connection:
        return connection.execute("SELECT position, body, leaf FROM commits ORDER BY position").fetchall()


def test_a_running_program_is_backed_up_and_restored_as_it_was(tmp_path: Path) -> None:
    file, new = tmp_path / "hivebus.tar", tmp_path / "new"
    with RunningProgram(tmp_path / "data") as program:
        program.ended(program.submit("echo", "hello")["task_id"])
        entries = {entry.name for entry in program.root.iterdir()}
        taken = run("backup", str(file), "--data-dir", str(program.root), "--json")
        program.terminate()

    assert taken.exit_code == 0, taken.output
    said = json.loads(taken.stdout)
    # A new name in the data directory is either made again by a start, or part of a backup: decide, then add it here.
    assert {name for name in entries if not is_left_out(name)} <= KEPT
    known = json.loads((program.root / "backup.json").read_text())
    assert (known["position"], known["file"], known["time"]) == (said["position"], str(file), said["created_at"])

    restored = run("restore", str(file), "--data-dir", str(new), "--json")
    assert restored.exit_code == 0, restored.output
    assert json.loads(restored.stdout)["position"] == said["position"] > 0
    assert commits(new / "store.db") == commits(program.root / "store.db")[: said["position"]]
    assert (new / "admin.key").read_bytes() == (program.root / "admin.key").read_bytes()
    assert {entry.name for entry in new.iterdir()} <= {*KEPT, "lock"}


def test_people_are_told_what_a_backup_holds_and_what_comes_after_a_restore(tmp_path: Path) -> None:
    file, new = tmp_path / "hivebus.tar", tmp_path / "new"
    with RunningProgram(tmp_path / "data") as program:
        program.terminate()

    taken = run("backup", str(file), "--data-dir", str(program.root))
    restored = run("restore", str(file), "--data-dir", str(new))

    assert "everything up to position" in taken.stdout
    assert "keep it safe" in taken.stderr
    assert "as it was at position" in restored.stdout
    assert "hivebus up" in restored.stderr


def test_a_running_program_keeps_its_directory(tmp_path: Path) -> None:
    file = tmp_path / "hivebus.tar"
    with RunningProgram(tmp_path / "data") as program:
        assert run("backup", str(file), "--data-dir", str(program.root)).exit_code == 0
        refused = run("restore", str(file), "--data-dir", str(program.root), "--json")

    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["code"] == "data_dir_used"
    assert "never writes over data" in refused.stderr


def test_what_is_no_backup_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "hivebus.tar"
    file.write_text("no archive")

    refused = run("restore", str(file), "--data-dir", str(tmp_path / "new"), "--json")

    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["code"] == "backup_damaged"
    assert not (tmp_path / "new").exists()


def test_nothing_to_back_up_is_said(tmp_path: Path) -> None:
    refused = run("backup", str(tmp_path / "hivebus.tar"), "--data-dir", str(tmp_path))

    assert refused.exit_code == 1
    assert "There is no" in refused.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["backup", "restore"])
def test_a_store_in_postgres_is_not_half_backed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setenv("HIVEBUS_DATABASE_URL", "postgresql://hivebus:hidden@db/hivebus")

    refused = run(verb, str(tmp_path / "hivebus.tar"), "--data-dir", str(tmp_path))

    assert refused.exit_code == 1
    assert "pg_dump" in refused.stderr
    assert "hidden" not in refused.output
    assert list(tmp_path.iterdir()) == []
