"""Schedules on the real program: they run, are refused where they never could, and a restart runs nothing twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram, until

TASK = {"type": "tick", "executor": "command", "parameters": {"argv": ["true"]}}


def put(program: RunningProgram, name: str, **spec: Any) -> Any:
    body = {"task": TASK} | spec
    return program.request("PUT", f"/api/schedules/{name}", json=body, params={"wait": "recorded"})


def fired(program: RunningProgram, name: str, times: int) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        shown = program.get(f"/api/schedules/{name}")
        return shown if shown["times_fired"] >= times else None

    return until(look, what=f"{times} runs of {name}")


def test_a_schedule_runs_again_and_again_until_it_is_paused_or_removed(program: RunningProgram) -> None:
    answer = put(program, "tick", every_s=1)
    assert (answer.status_code, answer.json()["status"]) == (202, "active"), answer.text
    shown = fired(program, "tick", 2)
    assert (shown["every_s"], shown["task"]["type"]) == (1, "tick")
    run = program.ended(shown["last_task_id"])
    # It is its owner's task, though the scheduler submits it.
    assert (run["status"], run["actor"]) == ("completed", shown["set_by"])
    assert shown["set_by"].startswith("key:")
    assert program.events(type="task.submitted")[0]["actor"] == "system:scheduler"
    paused = program.request("POST", "/api/schedules/tick/pause", json={"reason": "x"}, params={"wait": "recorded"})
    assert (paused.json()["status"], paused.json()["next_run_at"]) == ("paused", None)
    assert program.get("/api/schedules")["schedules"][0]["status"] == "paused"
    assert program.request("POST", "/api/schedules/tick/resume", json={}).status_code == 202
    removed = program.request("DELETE", "/api/schedules/tick", params={"wait": "recorded"})
    assert removed.json()["status"] == "removed"
    problem(program.request("GET", "/api/schedules/tick"), 404, "unknown_schedule")


def test_what_could_never_run_is_a_clear_error(program: RunningProgram) -> None:
    assert problem(put(program, "x", cron="0 0 30 2 *"), 422, "never_fires")["pointer"] == "/cron"
    assert problem(put(program, "x", cron="61 * * * *"), 422, "invalid_cron")["pointer"] == "/cron"
    assert problem(put(program, "x", every_s=5, timezone="Mars/A"), 422, "unknown_timezone")["pointer"] == "/timezone"
    assert problem(put(program, "x", every_s=0), 422, "invalid_field")["pointer"] == "/every_s"
    unrated = problem(put(program, "x", every_s=5, task=TASK | {"rate_key": "none"}), 422, "unknown_limit")
    assert unrated["pointer"] == "/task/rate_key"
    secret = TASK | {"parameters": {"argv": ["true"], "env": {"API_KEY": "hunter2hunter2"}}}
    literal = problem(put(program, "x", every_s=5, task=secret), 422, "literal_secret")
    assert literal["pointer"] == "/task/parameters/env/API_KEY"
    unknown = problem(program.request("POST", "/api/schedules/nobody/pause", json={}), 404, "unknown_schedule")
    assert unknown["detail"] == "There is no schedule nobody."


def test_a_restart_runs_nothing_twice_and_goes_on(data_dir: Path) -> None:
    with RunningProgram(data_dir) as program:
        assert put(program, "tick", every_s=1, overlap="allow").status_code == 202
        before = fired(program, "tick", 2)["times_fired"]
        program.kill()
        program.start()
        fired(program, "tick", before + 2)
        runs = Counter(
            event["data"]["due_ms"]
            for event in program.events(type="task.submitted", limit=1000)
            if event["data"].get("schedule_id")
        )
    assert set(runs.values()) == {1}
