"""hivebus rebuild: on the files of a stopped program; and a start that finds views missing or of another version."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from adapters.sql.rebuild import Stopped
from entrypoints import views
from entrypoints.cli.app import cli
from entrypoints.lifecycle import _was_stopped
from entrypoints.lock import DataDirectory
from tests.projections.test_verify import NAMES, a_history, changing, made, verified


@pytest.fixture
def root(tmp_path: Path) -> Path:
    asyncio.run(made(tmp_path, a_history()))
    return tmp_path


def run(root: Path, *args: str) -> Result:
    return CliRunner().invoke(cli, ["rebuild", "--data-dir", str(root), *args], prog_name="hivebus")


def test_all_views_are_rebuilt_and_each_is_told(root: Path) -> None:
    result = run(root)
    assert result.exit_code == 0, result.output
    assert all(f"{name} " in result.stdout for name in NAMES)
    assert result.stdout.count("same as before") == len(NAMES)
    assert "Folded up to position 7" in result.stdout
    assert "hivebus rebuild --rollback" in result.stdout


def test_only_the_named_views_are_rebuilt(root: Path) -> None:
    result = run(root, "queue", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (document["position"], document["kept"]) == (7, True)
    [view] = document["views"]
    assert (view["name"], view["rows"], view["same"], view["live"]) == ("queue", 4, True, False)


def test_views_that_were_wrong_end_with_1_and_are_mended(root: Path) -> None:
    with changing(root / "views.db") as connection:
        connection.execute("UPDATE view_state SET checksum = zeroblob(16) WHERE name = 'queue'")
    result = run(root)
    assert result.exit_code == 1
    assert result.stdout.count("DIFFERENT from before") == 1
    assert verified(root).difference is None


def test_a_view_that_does_not_exist_is_named_with_those_that_do(root: Path) -> None:
    result = run(root, "taks")
    assert result.exit_code == 1
    assert "There is no view 'taks'." in result.stderr
    assert (
        "agents, alerts, attempts, budgets, limits, pauses, queue, schedules, task_inputs, task_specs, tasks, timeline"
        in result.stderr
    )


def test_a_running_program_has_to_be_stopped_first(root: Path) -> None:
    directory = DataDirectory(root)
    directory.take()
    try:
        for args in ((), ("--rollback",)):
            result = run(root, *args)
            assert result.exit_code == 1
            assert "changed over while it is stopped" in result.stderr
            assert "Stop it, run this again, and start it." in result.stderr
    finally:
        directory.release()
    assert not (root / "views.db.old").exists()


def test_rollback_takes_the_old_views_back_and_says_which_do_not_last(root: Path) -> None:
    with changing(root / "views.db") as connection:
        connection.execute("UPDATE view_state SET version = 'older' WHERE name = 'queue'")
    assert run(root).exit_code == 0
    result = run(root, "--rollback")
    assert result.exit_code == 0
    assert "The next start folds these anew, because this program has another version: queue." in result.stdout
    document = json.loads(run(root, "--rollback", "--json").stdout)
    assert document == {"rolled_back": True, "rebuilt_at_next_start": []}


def test_rollback_takes_no_names(root: Path) -> None:
    assert run(root, "queue", "--rollback").exit_code == 2


def test_a_start_rebuilds_what_is_stale_and_says_so(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with changing(root / "views.db") as connection:
        connection.execute("DELETE FROM view_state WHERE name = 'queue'")
    with caplog.at_level(logging.INFO, "hivebus"):
        views.renew(root, lambda: False)
        views.renew(root, lambda: False)
    first, last = (record.message for record in caplog.records)
    assert first == "Views are folded anew from the store before the program answers: queue."
    assert last.startswith("Views are folded up to position 7 (")
    assert verified(root).difference is None


def test_a_start_that_is_stopped_meanwhile_ends_well_and_leaves_the_old_views(root: Path) -> None:
    with changing(root / "views.db") as connection:
        connection.execute("DELETE FROM view_state WHERE name = 'queue'")
    before = (root / "views.db").read_bytes()
    with pytest.raises(Stopped) as stopped:
        views.renew(root, lambda: True)
    assert _was_stopped(stopped.value)
    assert not _was_stopped(RuntimeError())
    assert (root / "views.db").read_bytes() == before
