"""Our words and A2A's: no status and no event of a task is forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from core.actions import registry
from core.kernel.errors import Unprocessable
from entrypoints.a2a import tasks
from entrypoints.a2a.messages import EXACT_MAX, Message, Part, submission
from projections.task_queries import STATUSES

SHOWN: dict[str, Any] = {
    "id": "t",
    "correlation_id": "c",
    "status": "running",
    "updated": 9,
    "updated_at": "2026-01-31T12:00:00.000Z",
    "cancelling": False,
    "error": None,
    "unassignable": None,
    "current_step": None,
}


def message(data: Any) -> Message:
    return Message(message_id="m", role="ROLE_USER", parts=[Part(data=data)])


def test_every_status_has_a_state_and_every_event_of_a_task_says_one() -> None:
    assert set(tasks.STATES) == set(STATUSES)
    assert set(tasks.AFTER) == {spec.name for spec in registry().aggregates["task"].events.values()}


def test_a_state_of_a2a_names_all_statuses_that_it_stands_for() -> None:
    assert tasks.statuses_of(tasks.WORKING) == ["assigned", "running"]
    assert tasks.statuses_of("TASK_STATE_REJECTED") == []
    with pytest.raises(KeyError):
        tasks.statuses_of("TASK_STATE_UNSPECIFIED")


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ({}, None),
        ({"current_step": "two of three"}, "two of three"),
        ({"cancelling": True}, "The running attempt is being stopped."),
        ({"status": "failed", "error": "It exited with code 3."}, "It exited with code 3."),
        ({"status": "cancelled", "cancelling": True}, None),
        ({"status": "completed", "current_step": "two of three"}, None),
        ({"status": "input_required", "error": "an earlier one", "question": "Which?"}, "Which?"),
        ({"status": "input_required"}, None),
        ({"status": "queued", "unassignable": "nobody can"}, "nobody can"),
        ({"status": "scheduled", "error": "It exited with code 3."}, "It exited with code 3."),
    ],
    ids=str,
)
def test_a_status_says_what_there_is_to_say(task: dict[str, Any], sentence: str | None) -> None:
    said = tasks.status(SHOWN | task)
    assert said["timestamp"] == SHOWN["updated_at"]
    assert (said["message"]["parts"][0]["text"] if "message" in said else None) == sentence


def test_an_attempts_end_says_no_state_and_the_event_after_it_does() -> None:
    event = {"position": 9, "time": "2026-01-31T12:00:00.000Z", "data": {"outcome": "failed"}}
    assert tasks.event_update(SHOWN, event | {"type": "task.attempt_ended"}) is None
    update = tasks.event_update(SHOWN, event | {"type": "task.scheduled"})
    assert update is not None
    assert update["statusUpdate"]["status"]["state"] == tasks.SUBMITTED


def test_a_question_is_told_where_it_is_asked() -> None:
    data = {"fence": 8, "question": "Which?"}
    update = tasks.event_update(
        SHOWN, {"position": 9, "time": "2026-01-31T12:00:00.000Z", "type": "task.asked", "data": data}
    )
    assert update is not None
    status = update["statusUpdate"]["status"]
    assert (status["state"], status["message"]["parts"][0]["text"]) == (tasks.INPUT_REQUIRED, "Which?")


def test_progress_goes_with_its_update() -> None:
    data = {"fence": 8, "progress": 0.5, "current_step": "half", "steps_completed": None}
    event = {"position": 9, "time": "2026-01-31T12:00:00.000Z", "type": "task.progressed", "data": data}
    update = tasks.event_update(SHOWN, event)
    assert update is not None
    metadata = update["statusUpdate"]["metadata"]
    assert metadata == {"position": 9, "type": "task.progressed", "progress": 0.5, "current_step": "half"}
    assert update["statusUpdate"]["status"]["message"]["parts"][0]["text"] == "half"


def test_what_is_printed_is_text_and_the_rest_is_data() -> None:
    in_loop = {"value": 5, "exit_code": None, "stdout": None, "stderr": None, "files": []}
    [artifact] = tasks.artifacts_of({"result": in_loop})
    assert [part.get("data") for part in artifact["parts"]] == [in_loop]
    printed = {"exit_code": 0, "stdout": "out", "stderr": ""}
    [artifact] = tasks.artifacts_of({"result": printed})
    assert [part.get("data", part.get("text")) for part in artifact["parts"]] == [{"exit_code": 0}, "out"]
    assert tasks.artifacts_of({"result": printed}, frozenset({"image/png"})) == []
    assert tasks.artifacts_of({"result": None}) == []


def test_a_message_is_the_submit_that_its_data_part_says() -> None:
    data = {"type": "x", "parameters": {"n": 5.0, "m": [1.5, 2.0**60, True]}, "labels": {"a": "b"}}
    said = submission(message(data))
    assert said == {
        "type": "x",
        "parameters": {"n": 5, "m": [1.5, 2.0**60, True]},
        "labels": {"a": "b", "a2a.message_id": "m"},
        "idempotency_key": "m",
        "correlation_id": None,
    }
    assert [type(value) for value in said["parameters"]["m"]] == [float, float, bool]
    assert isinstance(submission(message({"n": float(EXACT_MAX)}))["n"], int)


def test_data_that_is_nested_without_end_is_refused() -> None:
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(Unprocessable) as caught:
        submission(message({"parameters": deep}))
    assert caught.value.code == "too_deep"
