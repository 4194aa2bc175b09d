"""Timers on the real program: tasks begin and expire by themselves, attempts end."""

from __future__ import annotations

import time

from core.kernel.times import rfc3339
from tests.entrypoints.program import RunningProgram


def soon(seconds: float) -> str:
    return str(rfc3339(int((time.time() + seconds) * 1000)))


def test_a_task_begins_at_its_time_and_not_before(program: RunningProgram) -> None:
    begin = soon(0.6)
    answer = program.submit("true", not_before=begin, deadline=soon(60))
    assert answer["status"] == "scheduled"
    task = program.ended(answer["task_id"])
    assert (task["status"], task["not_before"]) == ("completed", None)
    queued = next(event for event in task["history"][1:] if event["type"] == "task.queued")
    assert queued["time"] >= begin


def test_what_waits_too_long_expires_and_says_why(program: RunningProgram) -> None:
    nobody = {"agent_type": "painter"}
    by_deadline = program.submit("true", deadline=soon(0.5), **nobody)["task_id"]
    by_queue = program.submit("true", queue_timeout_s=0.3, **nobody)["task_id"]
    for task_id, reason in ((by_deadline, "deadline"), (by_queue, "queue_timeout")):
        task = program.ended(task_id)
        assert (task["status"], task["outcome"], task["attempts"]) == ("expired", reason, [])
        assert task["history"][-1]["type"] == "task.expired"
        assert task["error"]


def test_a_running_attempt_is_stopped_when_the_whole_task_has_taken_too_long(program: RunningProgram) -> None:
    task = program.ended(program.submit("sleep", "60", total_timeout_s=0.8)["task_id"])
    assert (task["status"], task["outcome"]) == ("expired", "total_timeout")
    assert [attempt["outcome"] for attempt in task["attempts"]] == ["cancelled"]


def test_an_attempt_that_is_silent_is_timed_out_and_one_that_talks_is_not(program: RunningProgram) -> None:
    once = {"max_attempts": 1}
    silent = program.submit("sleep", "60", silence_timeout_s=1, retry=once)["task_id"]
    talks = "for n in 1 2 3 4; do echo $n; sleep 0.4; done"
    talking = program.submit("sh", "-c", talks, silence_timeout_s=1, retry=once)["task_id"]
    task = program.ended(silent)
    assert (task["status"], task["outcome"]) == ("failed", "timed_out")
    assert "said nothing for 1 s" in task["error"]
    assert program.ended(talking)["status"] == "completed"
