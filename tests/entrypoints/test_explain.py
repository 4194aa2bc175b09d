"""Why: through the door, on the real program."""

from __future__ import annotations

from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram


def test_a_task_that_waits_for_its_limit_says_so_and_how_many_hold_it(program: RunningProgram) -> None:
    first = program.submit("sleep", "30", concurrency_key="why")["task_id"]
    program.reaches(first, "assigned", "running")
    second = program.submit("true", concurrency_key="why")["task_id"]
    program.reaches(second, "queued")
    answer = program.get(f"/api/tasks/{second}/explain")
    assert [(reason["kind"], reason.get("running"), reason.get("limit")) for reason in answer["waits_for"]] == [
        ("concurrency", 1, 1)
    ]
    assert answer["ahead"]["in_fairness_key"] == 0
    assert (answer["agent"], answer["status"]) == (None, "queued")
    program.request("DELETE", f"/api/tasks/{first}")
    program.ended(second)
    explained = program.get(f"/api/tasks/{second}/explain")
    assert (explained["waits_for"], explained["agent"]["attempt"]) == ([], 1)
    before = program.get(f"/api/tasks/{second}/explain", params={"at": answer["position"]})
    assert [reason["kind"] for reason in before["waits_for"]] == ["concurrency"]


def test_a_task_that_nobody_can_do_says_what_is_missing(program: RunningProgram) -> None:
    task = program.submit("true", requires=["gpu"])["task_id"]
    program.reaches(task, "queued")
    answer = program.get(f"/api/tasks/{task}/explain")
    assert answer["waits_for"] == [{"kind": "agent", "sentence": "no agent with executor command has capability gpu"}]
    assert answer["unknown"]["ahead"] == "nobody can take it"


def test_where_types_were_compared_the_draw_and_the_scores_are_shown(program: RunningProgram) -> None:
    for kind in ("painter", "drawer"):
        body = {"type": kind, "executor": "command", "capabilities": ["paint"], "slots": 4}
        assert program.request("POST", "/api/agents", json=body).status_code == 202
    for _ in range(6):
        task = program.submit("true", requires=["paint"], type="paint")["task_id"]
        assert program.ended(task)["status"] == "completed"
    routing = program.get(f"/api/tasks/{task}/explain")["agent"]["routing"]
    assert set(routing["scores"]) == {"painter", "drawer"}
    assert 0 <= routing["draw"] < 1
    counted = program.get("/api/statistics", params={"type": "paint"})["statistics"]
    assert sum(row["completed"] for row in counted) == 6
    assert {row["agent_type"] for row in counted} <= {"painter", "drawer"}
    assert all(row["p50_s"] is None or row["p50_s"] >= 0 for row in counted)


def test_a_task_that_is_not_there_is_not_explained(program: RunningProgram) -> None:
    problem(program.request("GET", "/api/tasks/nothing/explain"), 404, "unknown_task")


def test_a_task_that_waits_for_others_says_for_which_and_for_whose_word(program: RunningProgram) -> None:
    other = program.submit("true", requires=["nobody"])["task_id"]
    depends_on = [other, {"type": "approval", "by": ["key:ada"]}, {"type": "approval"}]
    task = program.submit("true", depends_on=depends_on)["task_id"]
    program.reaches(task, "blocked")
    answer = program.get(f"/api/tasks/{task}/explain")
    assert [(reason["kind"], reason.get("task"), reason.get("by")) for reason in answer["waits_for"]] == [
        ("dependency", other, None),
        ("approval", None, ["key:ada"]),
        ("approval", None, []),
    ]
    assert answer["waits_for"][0]["sentence"] == f"it waits for the end of task {other}, which is queued"
    program.request("POST", f"/api/tasks/{task}/approve?wait=recorded", json={"reason": "yes"})
    answer = program.get(f"/api/tasks/{task}/explain")
    assert [reason["kind"] for reason in answer["waits_for"]] == ["dependency", "approval"]


def test_a_task_that_asks_says_what(program: RunningProgram) -> None:
    parameters = {"function": "ask", "arguments": {"question": "Which?", "choices": ["red", "blue"]}}
    body = {"type": "ask", "executor": "python", "parameters": parameters}
    task = program.request("POST", "/api/tasks", json=body).json()["task_id"]
    program.reaches(task, "input_required")
    answer = program.get(f"/api/tasks/{task}/explain")
    assert answer["waits_for"] == [{"kind": "question", "sentence": "it asked 'Which?', and nobody has answered"}]
