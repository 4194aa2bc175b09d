"""One data directory, several processes: each does its part, and survives the others."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.entrypoints.program import RunningProgram, until


class Parts:
    """The API in one process, everything else in another."""

    def __init__(self, root: Path) -> None:
        self.api = RunningProgram(root, HIVEBUS_ROLES="api,agents")
        self.core = RunningProgram(root.with_name("core"), HIVEBUS_ROLES="recorder,scheduler")
        self.core.settings["HIVEBUS_DATA_DIR"] = str(root)


@pytest.fixture
def parts(data_dir: Path) -> Iterator[Parts]:
    parts = Parts(data_dir)
    with ExitStack() as stack:
        stack.callback(parts.core.close)
        parts.core.launch()
        until(lambda: "This process runs: recorder,scheduler" in parts.core.stdout, 30, what="recorder and scheduler")
        stack.enter_context(parts.api)
        yield parts


def test_a_task_runs_through_all_of_them_and_what_is_written_is_read(parts: Parts) -> None:
    answer = parts.api.request(
        "POST",
        "/api/tasks?wait=recorded",
        json={"type": "x", "executor": "command", "parameters": {"argv": ["echo", "hi"]}},
    ).json()
    task = parts.api.ended(answer["task_id"])
    assert (task["status"], task["result"]["stdout"]) == ("completed", "hi\n")
    status = parts.api.get("/api/status")
    assert status["status"] == "healthy"
    assert status["positions"]["applied"] >= answer["position"]


def test_a_role_that_is_held_is_refused_and_the_others_go_on(parts: Parts) -> None:
    another = RunningProgram(parts.api.root.with_name("another"), HIVEBUS_ROLES="scheduler")
    another.settings["HIVEBUS_DATA_DIR"] = str(parts.api.root)
    assert f"(pid {parts.core.pid}) has the role scheduler" in another.refused()
    assert parts.api.ended(parts.api.submit("true")["task_id"])["status"] == "completed"


def test_the_api_survives_the_death_of_the_process_that_has_the_broker(parts: Parts) -> None:
    waiting = parts.api.submit("true", requires=["nobody"])["task_id"]
    parts.core.kill()
    parts.core.launch()
    until(
        lambda: (
            parts.api.request("GET", "/health/ready").status_code == 200
            and parts.core.stdout.count("This process runs") == 2
        ),
        30,
        what="the broker, the recorder and the scheduler to be back",
    )
    assert parts.api.ended(parts.api.submit("true")["task_id"])["status"] == "completed"
    assert parts.api.task(waiting)["status"] == "queued"


def test_each_ends_with_0_in_any_order(parts: Parts) -> None:
    os.kill(parts.core.pid, signal.SIGTERM)
    assert parts.core.wait() == 0
    assert parts.api.terminate() == 0


def test_a_role_that_does_not_exist_is_refused(data_dir: Path) -> None:
    program = RunningProgram(data_dir, HIVEBUS_ROLES="api,broker")
    assert "HIVEBUS_ROLES: the roles are api, recorder, scheduler, agents" in program.refused()
