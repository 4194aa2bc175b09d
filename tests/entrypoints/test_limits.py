"""Limits through the door: set, read, obeyed, and refused where they say nothing."""

from __future__ import annotations

from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram


def put(program: RunningProgram, key: str, **spec: object) -> object:
    response = program.request("PUT", f"/api/limits/{key}", json=spec, params={"wait": "recorded"})
    assert response.status_code == 202, response.text
    return response.json()


def test_a_limit_is_set_and_shown_as_it_was_at_every_position(program: RunningProgram) -> None:
    first = put(program, "openai", concurrency=4, rate_per_s=2.5)
    put(program, "openai", concurrency=1)
    now = program.get("/api/limits/openai")
    assert (now["key"], now["concurrency"], now["rate_per_s"], now["burst"]) == ("openai", 1, None, None)
    before = program.get("/api/limits/openai", params={"at": first["position"]})
    assert (before["concurrency"], before["rate_per_s"], before["burst"]) == (4, 2.5, 3)
    listed = program.get("/api/limits")
    assert ("openai", 1) in [(limit["key"], limit["concurrency"]) for limit in listed["limits"]]


def test_a_key_may_be_any_text(program: RunningProgram) -> None:
    put(program, "team%20%C3%A4%2Fb", concurrency=2)
    assert program.get("/api/limits/team%20%C3%A4%2Fb")["key"] == "team ä/b"


def test_tasks_of_a_key_run_one_after_the_other(program: RunningProgram) -> None:
    ids = [program.submit("sleep", "0.2", concurrency_key="one")["task_id"] for _ in range(3)]
    for task_id in ids:
        assert program.ended(task_id)["status"] == "completed"
    held, most = set(), 0
    for event in program.events(after=0, limit=1000):
        if event["subject"].removeprefix("task/") in ids:
            held |= {event["subject"]} if event["type"] == "hivebus.task.assigned" else set()
            held -= {event["subject"]} if event["type"] == "hivebus.task.completed" else set()
            most = max(most, len(held))
    assert most == 1


def test_a_rate_key_without_a_rate_is_refused(program: RunningProgram) -> None:
    body = {"type": "x", "executor": "command", "parameters": {"argv": ["true"]}, "rate_key": "nobody set this"}
    refused = problem(program.request("POST", "/api/tasks", json=body), 422, "unknown_limit")
    assert refused["pointer"] == "/rate_key"
    put(program, "fast", rate_per_s=100.0)
    assert program.ended(program.submit("true", rate_key="fast")["task_id"])["status"] == "completed"


def test_the_limit_of_a_key_that_has_none_is_not_found(program: RunningProgram) -> None:
    problem(program.request("GET", "/api/limits/nothing"), 404, "unknown_limit")
