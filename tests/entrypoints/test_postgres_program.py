"""The whole program on Postgres: its answers while the database is away, and after."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.entrypoints.program import REPOSITORY, RunningProgram, until
from tests.postgres import PASSWORD, PostgresCluster

pytestmark = [pytest.mark.peers, pytest.mark.timeout(120)]

SCHEMA = "fleet"


@pytest.fixture
def own() -> Iterator[PostgresCluster]:
    with PostgresCluster() as cluster:
        yield cluster


def settings(cluster: PostgresCluster, folder: Path) -> dict[str, str]:
    """The address in a file, as containers are given it."""
    (folder / "url").write_text(cluster.url.replace("postgresql:", "postgresql+asyncpg:") + "\n")
    return {"HIVEBUS_DATABASE_URL_FILE": str(folder / "url"), "HIVEBUS_DATABASE_SCHEMA": SCHEMA}


def test_commands_are_accepted_while_the_database_is_away_and_everything_catches_up(
    own: PostgresCluster, tmp_path: Path
) -> None:
    chosen = settings(own, tmp_path)
    with RunningProgram(tmp_path / "hive", **chosen) as program:
        before = program.submit("true")
        assert program.ended(before["task_id"])["status"] == "completed"
        own.kill()

        accepted = [program.submit("true")["task_id"] for _ in range(20)]
        until(lambda: program.get("/health/ready").get("database"), what="readiness to say it")
        ready = program.get("/health/ready")
        assert (ready["status"], f"127.0.0.1:{own.port}" in ready["database"]) == ("ready", True)
        status = program.get("/api/status")
        assert (status["services"]["database"], status["services"]["broker"]) == ("unhealthy", "healthy")
        refused = program.request("GET", "/api/tasks")
        assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
        assert refused.headers["Retry-After"] == "1"
        assert "Postgres" in refused.json()["remedy"]
        task = {"type": "x", "executor": "python", "parameters": {}}
        keyed = program.request("POST", "/api/tasks", json=task, headers={"Idempotency-Key": "k"})
        assert (keyed.status_code, keyed.json()["code"]) == (503, "database_unavailable")

        own.start()
        until(lambda: "database" not in program.get("/health/ready"), what="the database to be found again")
        assert {program.ended(task_id)["status"] for task_id in accepted} == {"completed"}
        assert program.get("/api/status")["services"]["database"] == "healthy"
        positions = [event["sequence"] for event in program.events(limit=1000)]
        assert sorted(set(map(int, positions))) == list(range(1, max(map(int, positions)) + 1))
        assert verified(program.root, chosen) == 0
        program.restart()
        assert program.task(accepted[0])["status"] == "completed"
        assert not list(program.root.glob("*.db"))
        assert PASSWORD.replace(" ", "%20") not in program.stderr + program.stdout


def verified(root: Path, chosen: dict[str, str]) -> int:
    """The exit code of `hivebus verify`."""
    command = [sys.executable, "-m", "entrypoints", "verify", "--data-dir", str(root)]
    return subprocess.run(command, cwd=REPOSITORY, env=chosen, capture_output=True, check=False, timeout=60).returncode


def test_a_log_that_is_not_the_one_of_the_database_is_refused(own: PostgresCluster, tmp_path: Path) -> None:
    chosen = settings(own, tmp_path)
    with RunningProgram(tmp_path / "one", **chosen) as program:
        program.submit("true")
    other = RunningProgram(tmp_path / "two")
    with other:
        other.submit("true")
    other.settings = chosen
    assert "hold different commits" in other.refused()


def test_a_start_that_the_database_does_not_let_in_says_what_to_do(own: PostgresCluster, tmp_path: Path) -> None:
    program = RunningProgram(tmp_path / "hive", HIVEBUS_DATABASE_URL=own.url_of("ada", "sesame"))
    said = program.refused()
    assert f"Postgres at 127.0.0.1:{own.port}/postgres does not let ada in" in said
    assert "Correct user and password in HIVEBUS_DATABASE_URL" in said
    assert "sesame" not in said
