"""Pauses on the real program."""

from __future__ import annotations

from typing import Any

from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram


def tell(program: RunningProgram, verb: str, **body: Any) -> Any:
    return program.request("POST", f"/api/queue/{verb}", json=body, params={"wait": "recorded"})


def test_a_type_that_is_paused_waits_says_so_and_goes_on(program: RunningProgram) -> None:
    assert tell(program, "pause", what="type", name="slow", reason="the printer is out of paper").status_code == 202
    waits = program.submit("true", type="slow")["task_id"]
    assert program.ended(program.submit("true")["task_id"])["status"] == "completed"
    task = program.task(waits)
    assert (task["status"], task["paused"]["name"]) == ("queued", "slow")
    (pause,) = program.get("/api/queue")["pauses"]
    assert (pause["what"], pause["reason"]) == ("type", "the printer is out of paper")
    assert tell(program, "resume", what="type", name="slow").json()["status"] == "running"
    assert program.ended(waits)["status"] == "completed"
    assert program.get("/api/queue")["pauses"] == []


def test_a_pause_without_a_name_is_a_clear_error(program: RunningProgram) -> None:
    assert problem(tell(program, "pause", what="type"), 422, "pause_name")["pointer"] == "/name"
