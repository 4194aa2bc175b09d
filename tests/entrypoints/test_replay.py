"""Replays on the real program."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner

from entrypoints.cli.app import cli
from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram, until


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
    assert program.get(answers[0].headers["Location"])["id"] == first["task_id"]
    again = program.ended(first["task_id"])
    assert (again["status"], again["name"], again["replay_of"]) == ("failed", "first", failed)
    assert program.task(failed)["status"] == "failed"


def test_what_went_well_or_never_was_is_a_clear_error(program: RunningProgram) -> None:
    done = program.submit("true")["task_id"]
    assert program.ended(done)["status"] == "completed"
    problem(program.request("POST", f"/api/tasks/{done}/replay", json={}), 409, "not_replayable")
    problem(program.request("POST", "/api/tasks/nobody/replay", json={}), 404, "unknown_task")


# Many at once


def fail(program: RunningProgram, kind: str, count: int) -> list[str]:
    """So many tasks of a type that failed, the oldest first."""
    ids = [program.submit("false", type=kind, retry={"max_attempts": 1})["task_id"] for _ in range(count)]
    for task_id in ids:
        assert program.ended(task_id)["status"] == "failed"
    return ids


def start(program: RunningProgram, key: str | None = None, **asked: Any) -> dict[str, Any]:
    """A replay of failed tasks that must be accepted; its answer."""
    headers = {"Idempotency-Key": key} if key else {}
    response = program.request("POST", "/api/replays", json={"status": "failed", **asked}, headers=headers)
    assert response.status_code == 202, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_all_that_failed_and_fit_are_replayed_once_the_oldest_first(program: RunningProgram) -> None:
    kind = f"bulk-{uuid4()}"
    failed = fail(program, kind, 3)
    dead = program.get("/api/queue")["dead_lettered"]
    counted = start(program, type=kind, dry_run=True)
    assert (counted["replay_id"], counted["matched"], counted["replayed"]) == (None, 3, 0)
    assert [item["replay_of"] for item in counted["tasks"]] == failed
    assert program.get("/api/queue")["dead_lettered"] == dead

    first = start(program, type=kind, limit=2, key="two")
    assert [item["replay_of"] for item in first["tasks"]] == failed[:2]
    assert (first["matched"], first["replayed"], first["remaining"]) == (3, 2, 1)
    # The same key is the same replay, though meanwhile two of three have been replayed, and these have failed too.
    again = [program.ended(item["task_id"]) for item in first["tasks"]]
    assert [(task["status"], task["replay_of"]) for task in again] == [("failed", task_id) for task_id in failed[:2]]
    repeated = start(program, type=kind, limit=2, key="two")
    assert repeated["repeated"] is True
    assert [item["task_id"] for item in repeated["tasks"]] == [item["task_id"] for item in first["tasks"]]
    assert all(item["repeated"] for item in repeated["tasks"])
    assert program.task(failed[0])["replayed_by"] == [first["tasks"][0]["task_id"]]
    tasks = program.get("/api/tasks", params={"correlation_id": first["correlation_id"]})["tasks"]
    assert {task["id"] for task in tasks} == {item["task_id"] for item in first["tasks"]}

    # What is left: the third, and the two replays that failed; the first two are not replayed twice.
    rest = start(program, type=kind)
    assert {item["replay_of"] for item in rest["tasks"]} == {failed[2], *(task["id"] for task in again)}
    assert (rest["matched"], rest["already_replayed"], rest["remaining"]) == (5, 2, 0)
    forced = start(program, type=kind, limit=1, force=True)
    assert [item["replay_of"] for item in forced["tasks"]] == failed[:1]
    program.ended(forced["tasks"][0]["task_id"])
    assert program.task(failed[0])["replayed_by"] == [forced["tasks"][0]["task_id"], first["tasks"][0]["task_id"]]


def test_two_replays_at_once_make_one_task_of_each(program: RunningProgram) -> None:
    kind = f"bulk-{uuid4()}"
    [failed] = fail(program, kind, 1)
    frames = [
        {"jsonrpc": "2.0", "id": number, "method": "replay.start", "params": {"status": "failed", "type": kind}}
        for number in range(8)
    ]
    answers = program.request("POST", "/api/", json=frames).json()
    items = [item for answer in answers for item in answer["result"]["tasks"]]
    assert {item["replay_of"] for item in items} == {failed}
    assert len({item["task_id"] for item in items}) == 1
    assert sum("repeated" not in item for item in items) == 1


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ({"outcome": "failed"}, True),
        ({"outcome": "timed_out"}, False),
        ({"agent_type": "shell"}, True),
        ({"agent_type": "python"}, False),
        ({"project": "default"}, True),
        ({"project": "other"}, False),
        ({"until": "2020-01-01T00:00:00Z"}, False),
        ({"since": "2020-01-01T00:00:00Z"}, True),
        ({"with_correlation_id": "nobody"}, False),
        ({"status": "expired"}, False),
    ],
    ids=str,
)
def test_a_filter_picks(program: RunningProgram, filtered: str, asked: dict[str, Any], fits: bool) -> None:
    counted = start(program, type=filtered, dry_run=True, **asked)
    assert (counted["matched"], len(counted["tasks"])) == (int(fits), int(fits))


@pytest.fixture(scope="module")
def filtered(program: RunningProgram) -> str:
    """The type of one task that failed."""
    kind = f"bulk-{uuid4()}"
    fail(program, kind, 1)
    return kind


def test_a_replay_that_makes_no_sense_is_a_clear_error(program: RunningProgram) -> None:
    problem(program.request("POST", "/api/replays", json={"status": "completed"}), 422, "invalid_field")
    problem(program.request("POST", "/api/replays", json=[{"status": "failed"}]), 422, "invalid_field")
    window = {"status": "failed", "since": "2026-02-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"}
    problem(program.request("POST", "/api/replays", json=window), 422, "empty_window")
    problem(program.request("POST", "/api/replays", json=window | {"dry_run": True}), 422, "empty_window")


def test_the_command_line_counts_and_replays(program: RunningProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = f"bulk-{uuid4()}"
    [failed] = fail(program, kind, 1)
    monkeypatch.setenv("HIVEBUS_URL", program.url)
    monkeypatch.setenv("HIVEBUS_KEY", program.key)

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli, ["task", "replay", *words], prog_name="hivebus")
        return done.exit_code, done.stdout

    assert run("--failed", "--type", kind, "--dry-run") == (
        0,
        "1 would be replayed; 1 fit, 0 of them were replayed before.\n",
    )
    assert run("--failed", "--type", kind) == (
        0,
        "1 replayed, 0 refused; 1 fit, 0 of them were replayed before.\n",
    )
    [again] = until(lambda: program.task(failed)["replayed_by"], what="the replay in the views")
    program.ended(again)
    exit_code, out = run(again, "--json")
    assert (exit_code, json.loads(out)["replay_of"]) == (0, again)
    assert run()[0] == run(failed, "--failed")[0] == run(failed, "--type", kind)[0] == 2
