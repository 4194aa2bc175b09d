"""Replays on the real program."""

from __future__ import annotations

from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram


def test_a_failed_task_is_replayed_as_a_new_one_and_under_one_key_once(program: RunningProgram) -> None:
    failed = program.submit("false", retry={"max_attempts": 1}, name="first")["task_id"]
    assert program.ended(failed)["status"] == "failed"
    answers = [
        program.request("POST", f"/api/tasks/{failed}/replay", json={}, headers={"Idempotency-Key": "again"})
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [202, 202], answers[0].text
    first, second = (answer.json() for answer in answers)
    assert (first["task_id"], first["replay_of"], second["repeated"]) == (second["task_id"], failed, True)
    again = program.ended(first["task_id"])
    assert (again["status"], again["name"], again["replay_of"]) == ("failed", "first", failed)
    assert program.task(failed)["status"] == "failed"


def test_what_went_well_or_never_was_is_a_clear_error(program: RunningProgram) -> None:
    done = program.submit("true")["task_id"]
    assert program.ended(done)["status"] == "completed"
    problem(program.request("POST", f"/api/tasks/{done}/replay", json={}), 409, "not_replayable")
    problem(program.request("POST", "/api/tasks/nobody/replay", json={}), 404, "unknown_task")
