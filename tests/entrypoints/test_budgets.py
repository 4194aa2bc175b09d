"""Budgets through the door: set, counted by what real attempts say, obeyed, explained, and refused."""

from __future__ import annotations

import pytest

from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram

SPENDS = """echo '{"tokens": 7, "cost": 0.25}' > $HIVEBUS_USAGE_FILE"""


def put(program: RunningProgram, key: str, **spec: object) -> object:
    response = program.request("PUT", f"/api/budgets/{key}", json=spec, params={"wait": "recorded"})
    assert response.status_code == 202, response.text
    return response.json()


def spends(program: RunningProgram, script: str = SPENDS, **fields: object) -> str:
    return str(program.submit("sh", "-c", script, **fields)["task_id"])


def test_a_task_that_uses_more_than_its_budget_fails_for_that_reason_and_is_not_tried_again(
    program: RunningProgram,
) -> None:
    cheap = program.ended(spends(program, max_tokens=7, max_cost=0.25))
    assert (cheap["status"], cheap["usage"]["tokens"], cheap["usage"]["cost"]) == ("completed", 7, 0.25)
    dear = program.ended(spends(program, max_tokens=6))
    assert (dear["status"], dear["outcome"]) == ("failed", "budget_exceeded")
    assert dear["error"] == "It used 7 tokens; its budget is 6 (max_tokens)."
    assert dear["result"]["exit_code"] == 0, "what it did for its money is kept"
    assert len(dear["attempts"]) == 1


def test_an_attempt_that_says_too_much_is_stopped_while_it_runs(program: RunningProgram) -> None:
    endless = program.ended(spends(program, f"{SPENDS}; sleep 600", max_cost=0.1, timeout_s=600))
    assert (endless["status"], endless["outcome"]) == ("failed", "budget_exceeded")
    assert endless["error"] == "It cost 0.25; its budget is 0.1 (max_cost)."


def test_a_budget_spans_the_attempts_of_a_task(program: RunningProgram) -> None:
    once_more = {"max_attempts": 9, "initial_interval_ms": 0}
    failing = program.ended(spends(program, f"{SPENDS}; exit 1", max_tokens=14, retry=once_more))
    assert (failing["status"], failing["outcome"]) == ("failed", "budget_exceeded")
    assert len(failing["attempts"]) == 2
    assert failing["usage"]["tokens"] == 14


def test_while_its_budget_is_spent_a_project_waits_is_explained_and_goes_on_when_it_is_raised(
    program: RunningProgram,
) -> None:
    put(program, "dear", period="total", tokens=7)
    assert program.ended(spends(program, project="dear"))["status"] == "completed"
    waiting = spends(program, project="dear")
    assert program.ended(spends(program, project="other"))["status"] == "completed"
    explained = program.get(f"/api/tasks/{waiting}/explain")
    assert explained["status"] == "queued"
    assert [reason["kind"] for reason in explained["waits_for"]] == ["budget"]
    [shown] = program.get("/api/budgets/dear")["budgets"]
    assert (shown["spent_tokens"], shown["spent_cost"], shown["used_up"]) == (7, 0.25, True)
    assert shown["spent_wall_s"] > 0
    put(program, "dear", period="total", tokens=8)
    assert program.ended(waiting)["status"] == "completed"
    put(program, "dear", period="total")
    problem(program.request("GET", "/api/budgets/dear"), 404, "unknown_budget")


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({"tokens": 0}, "zero_budget", "/tokens"),
        ({"cost": -1.5}, "zero_budget", "/cost"),
        ({"wall_s": 0}, "zero_budget", "/wall_s"),
        ({}, "empty_budget", None),
        ({"tokens": 5, "timezone": "Mars/Olympus"}, "unknown_timezone", "/timezone"),
        ({"tokens": 5, "period": "week"}, "invalid_field", "/period"),
    ],
)
def test_what_is_no_budget_is_refused(
    program: RunningProgram, body: dict[str, object], code: str, pointer: str | None
) -> None:
    refused = problem(program.request("PUT", "/api/budgets/nothing", json=body), 422, code)
    assert refused.get("pointer") == pointer


def test_the_budget_of_everything_has_a_star_for_its_name(program: RunningProgram) -> None:
    put(program, "*", cost=10**6, timezone="Europe/Berlin")
    [shown] = program.get("/api/budgets/*")["budgets"]
    assert (shown["key"], shown["timezone"], shown["used_up"]) == ("*", "Europe/Berlin", False)
    put(program, "*", timezone="Europe/Berlin")
