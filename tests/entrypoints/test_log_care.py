"""The care of the log on the real program: compared, shown, trimmed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from entrypoints.cli.app import cli
from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram


@pytest.fixture
def program(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningProgram]:
    """A program of the test's own, and a command line that finds it."""
    monkeypatch.setenv("HIVEBUS_DATA_DIR", str(data_dir))
    with RunningProgram(data_dir) as running:
        yield running


def hivebus(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words), prog_name="hivebus", env={"COLUMNS": "200"})


def test_a_lost_tail_comes_back_and_two_histories_are_shown_and_refused(
    program: RunningProgram, data_dir: Path, tmp_path: Path
) -> None:
    program.ended(program.submit("true")["task_id"])
    program.terminate()
    older, other = tmp_path / "older", tmp_path / "other"
    shutil.copytree(data_dir / "nats", older)
    shutil.copytree(data_dir, other)
    with RunningProgram(other) as elsewhere:
        elsewhere.ended(elsewhere.submit("true")["task_id"])
        elsewhere.terminate()
    program.restart()
    task_id = program.submit("true")["task_id"]
    before = program.ended(task_id)
    program.terminate()

    # When the older copy lies there, the start puts back what it lacks.
    shutil.rmtree(data_dir / "nats")
    shutil.copytree(older, data_dir / "nats")
    program.restart()
    assert program.get("/api/status")["log"]["restored"] > 0
    assert program.task(task_id)["status"] == before["status"]
    assert hivebus("log", "diverge").exit_code == 0
    program.terminate()

    # When another history lies there, both sides are shown and the start is refused.
    shutil.rmtree(data_dir / "nats")
    shutil.copytree(other / "nats", data_dir / "nats")
    shown = hivebus("log", "diverge", "--json")
    assert shown.exit_code == 1, shown.output
    found = json.loads(shown.stdout)
    assert found["verdict"] == "diverged"
    assert found["parted_after"] > 0
    assert found["log"]["commit_id"] != found["store"]["commit_id"]
    table = hivebus("log", "diverge").stdout
    for side in ("log", "store"):
        assert found[side]["leaf"] in table
        assert found[side]["subject"] in table
    refused = program.refused()
    assert found["log"]["commit_id"] in refused
    assert found["store"]["commit_id"] in refused


def test_the_program_is_asked_to_trim_and_says_what_bounds_it(program: RunningProgram) -> None:
    program.ended(program.submit("true")["task_id"])
    refused = hivebus("log", "trim", "--older", "0s", "--json")
    assert (refused.exit_code, json.loads(refused.stdout)["code"]) == (1, "no_backup")
    (program.root / "backup.json").write_text('{"position": 3, "file": "x", "time": "2026-01-01T00:00:00Z"}')
    done = hivebus("log", "trim", "--older", "0s", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "Positions up to 0 were reached; the bound is: newest." in done.stdout
    problem(program.request("POST", "/api/log/trim", json={"older": "soon"}), 422, "invalid_field")
    problem(program.request("POST", "/api/log/trim", json={}), 422, "missing_field")
    problem(program.request("GET", "/api/log/trim", headers={"Authorization": "Bearer no"}), 401, "unauthenticated")
    problem(program.request("GET", "/api/log/compare", headers={"Authorization": "Bearer no"}), 401, "unauthenticated")
    assert program.get("/api/log/trim")["state"] == "done"
    assert program.get("/api/log/compare")["verdict"] == "equal"
