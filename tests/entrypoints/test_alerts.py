"""Alerts on the real program."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram, until


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProgram]:
    """It finds half a second a long time to wait, and two failed tasks many."""
    patience = {"HIVEBUS_ALERT_QUEUE_AGE_S": "0.5", "HIVEBUS_ALERT_DEAD_LETTERS": "2"}
    with RunningProgram(tmp_path_factory.mktemp("hive") / "data", **patience) as running:
        yield running


def told(program: RunningProgram, kind: str, *statuses: str) -> dict[str, Any]:
    """The alert of a kind, once it has one of these statuses."""

    def look() -> dict[str, Any] | None:
        found = program.get("/api/alerts", params={"status": "all", "kind": kind})["alerts"]
        return next((alert for alert in found if alert["status"] in statuses), None)

    return until(look, 30.0, what=f"{kind} to be {statuses}")


def counted(program: RunningProgram, kind: str) -> float:
    """What the metrics say."""
    text = program.request("GET", f"{program.urls['metrics']}/metrics").text
    [line] = [line for line in text.splitlines() if line.startswith(f'hivebus_alerts{{kind="{kind}"}}')]
    return float(line.split()[-1])


def test_a_task_that_nobody_can_run_is_an_alert_until_it_is_cancelled(program: RunningProgram) -> None:
    waits = program.submit("true", requires=["nobody"])["task_id"]
    alert = told(program, "queue_age", "raised")
    assert (alert["level"], alert["threshold"], alert["unit"]) == ("warning", 0.5, "s")
    assert alert["value"] >= 0.5
    assert program.get("/api/status")["metrics"]["alerts"] == counted(program, "queue_age") == 1

    path = f"/api/alerts/{alert['id']}/acknowledge"
    for reason in ("more agents are on their way", "I said so"):
        answer = program.request("POST", path, json={"reason": reason}, params={"wait": "recorded"})
        assert (answer.status_code, answer.json()["status"]) == (202, "acknowledged")
    alert = told(program, "queue_age", "acknowledged")
    assert (alert["reason"], alert["acknowledged_by"].partition(":")[0]) == ("more agents are on their way", "key")

    program.request("DELETE", f"/api/tasks/{waits}")
    cleared = told(program, "queue_age", "cleared")
    assert (cleared["times_raised"], counted(program, "queue_age")) == (1, 0)
    problem(program.request("POST", path, json={"reason": "mine"}), 409, "illegal_transition")
    words = [
        event["type"] for event in program.events(after=0, limit=1000) if event["type"].startswith("hivebus.alert")
    ]
    assert words == ["hivebus.alert.raised", "hivebus.alert.acknowledged", "hivebus.alert.cleared"]


def test_an_alert_outlives_the_program_and_is_not_raised_again(program: RunningProgram) -> None:
    for _ in range(2):
        program.ended(program.submit("false", retry={"max_attempts": 1})["task_id"])
    assert told(program, "dead_letters", "raised")["value"] == 2
    # On a busy machine those two may have waited for half a second as well.
    before = told(program, "queue_age", "cleared")["times_raised"]
    program.restart()
    # A second alert, raised by the leader after it, shows that it has looked.
    waits = program.submit("true", requires=["nobody"])["task_id"]
    assert told(program, "queue_age", "raised")["times_raised"] == before + 1
    assert told(program, "dead_letters", "raised")["times_raised"] == 1
    program.request("DELETE", f"/api/tasks/{waits}")


def test_an_alert_that_there_is_none_of_is_a_clear_error(program: RunningProgram) -> None:
    problem(program.request("POST", "/api/alerts/nobody/acknowledge", json={"reason": "x"}), 404, "unknown_alert")
    problem(program.request("GET", "/api/alerts", params={"kind": "weather"}), 422, "invalid_field")


def test_a_kind_that_there_is_none_of_is_refused_and_the_text_null_too(program: RunningProgram) -> None:
    for kind in ("smoke", "null"):
        answer = program.request("GET", "/api/alerts", params={"kind": kind})
        assert problem(answer, 422, "invalid_field")["pointer"] == "/kind"
