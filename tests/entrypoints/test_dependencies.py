"""Tasks that wait for others, on the real program: batches by reference, results, approvals, questions, parts."""

import json
from typing import Any

import httpx
import pytest

from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram, until

UNKNOWN_ID = "01a20474-6a14-8e6e-8cc2-cacb6f5b5413"


def echo(**fields: Any) -> dict[str, Any]:
    return {"type": "echo", "executor": "python", "parameters": {"function": "echo", "arguments": {}}} | fields


def fails(**fields: Any) -> dict[str, Any]:
    parameters = {"function": "no_such_function", "arguments": {}}
    return {"type": "fails", "executor": "python", "parameters": parameters} | fields


def post(program: RunningProgram, body: Any, path: str = "/api/tasks") -> httpx.Response:
    return program.request("POST", f"{path}?wait=recorded", json=body)


def accepted(program: RunningProgram, body: Any, path: str = "/api/tasks") -> dict[str, Any]:
    response = post(program, body, path)
    assert response.status_code == 202, response.text
    answer: dict[str, Any] = response.json()
    return answer


def actor_of(program: RunningProgram) -> str:
    return str(program.task(accepted(program, echo())["task_id"])["actor"])


def ids_of(answer: dict[str, Any]) -> dict[str, str]:
    assert answer["refused"] == 0, answer
    return {item["ref"]: item["task_id"] for item in answer["items"]}


def types_of(task: dict[str, Any]) -> list[str]:
    return [event["type"] for event in task["history"]]


def test_items_of_a_batch_name_each_other_and_run_in_that_order(program: RunningProgram) -> None:
    batch = [
        echo(ref="last", depends_on=["@left", "@right"]),
        echo(ref="left", depends_on=["@first"]),
        echo(ref="right", depends_on=[{"task": "@first", "type": "finish"}]),
        echo(ref="first"),
    ]
    answer = accepted(program, batch)
    ids = ids_of(answer)
    tasks = {ref: program.ended(task_id) for ref, task_id in ids.items()}
    assert {task["status"] for task in tasks.values()} == {"completed"}
    assert [item["task"] for item in tasks["last"]["depends_on"]] == [ids["left"], ids["right"]]
    assert {item["state"] for item in tasks["last"]["depends_on"]} == {"completed"}

    def places(ref: str) -> tuple[int, int]:
        of = {event["type"]: event["position"] for event in tasks[ref]["history"]}
        return of["task.assigned"], of["task.completed"]

    assert places("first")[1] < min(places("left")[0], places("right")[0])
    assert max(places("left")[1], places("right")[1]) < places("last")[0]
    assert types_of(tasks["first"])[:2] == ["task.submitted", "task.queued"]
    assert types_of(tasks["left"])[:4] == [
        "task.submitted",
        "task.blocked",
        "task.dependencies_ended",
        "task.queued",
    ]


def test_a_result_goes_into_the_parameters_of_who_waits_for_it(program: RunningProgram) -> None:
    first = program.submit("printf", "one\\ntwo\\n")
    program.ended(first["task_id"])
    lines = {"task": first["task_id"], "type": "data", "into": "/stdin", "from": "/stdout"}
    code = {"task": first["task_id"], "type": "data", "into": "/argv/1", "from": "/exit_code"}
    counts = program.submit("printf", "placeholder", depends_on=[code])
    text = program.submit("cat", depends_on=[lines])
    assert program.ended(text["task_id"])["result"]["stdout"] == "one\ntwo\n"
    task = program.ended(counts["task_id"])
    assert (task["result"]["stdout"], task["inputs"]) == ("0", {"/argv/1": "0"})
    assert task["parameters"] == {"argv": ["printf", "placeholder"]}


def test_a_large_result_goes_as_a_reference_and_arrives_whole(program: RunningProgram) -> None:
    big = program.submit("head", "-c", "300000", "/dev/zero")
    data = {"task": big["task_id"], "type": "data", "into": "/stdin", "from": "/stdout"}
    counted = program.ended(program.submit("wc", "-c", depends_on=[data])["task_id"])
    assert counted["result"]["stdout"].strip() == "300000"
    assert counted["inputs"]["/stdin"]["size"] == 300_000


@pytest.mark.parametrize(
    ("policy", "status", "outcome"),
    [("cancel", "cancelled", "cancelled"), ("fail", "failed", "dependency_failed"), ("run", "completed", "completed")],
)
def test_a_failed_dependency_leads_where_it_was_said_and_so_on_down_the_chain(
    program: RunningProgram, policy: str, status: str, outcome: str
) -> None:
    batch = [
        fails(ref="a"),
        echo(ref="b", depends_on=["@a"], on_dependency_failure=policy),
        echo(ref="c", depends_on=["@b"]),
    ]
    ids = ids_of(accepted(program, batch))
    task = program.ended(ids["b"])
    assert (task["status"], task["outcome"]) == (status, outcome)
    assert program.ended(ids["c"])["status"] == ("completed" if policy == "run" else "cancelled")
    # One that comes after all had ended finds the same.
    late = accepted(program, echo(depends_on=[ids["a"]], on_dependency_failure=policy))
    assert program.ended(late["task_id"])["status"] == status


def test_an_approval_is_given_by_name_and_with_a_reason(program: RunningProgram) -> None:
    mine = actor_of(program)
    task_id = accepted(program, echo(depends_on=[{"type": "approval", "by": [mine]}]))["task_id"]
    task = program.task(task_id)
    assert (task["status"], task["blocked_by"]) == ("blocked", ["approval"])
    assert program.get("/api/queue")["blocked"] >= 1
    accepted(program, {"reason": "looks right"}, f"/api/tasks/{task_id}/approve")
    task = program.ended(task_id)
    [word] = task["approvals"]
    assert (task["status"], word["by"], word["reason"]) == ("completed", mine, "looks right")

    refused = accepted(program, echo(depends_on=[{"type": "approval"}]))["task_id"]
    accepted(program, {"reason": "too dear"}, f"/api/tasks/{refused}/reject")
    assert program.ended(refused)["status"] == "cancelled"
    other = accepted(program, echo(depends_on=[{"type": "approval", "by": ["key:somebody"]}]))["task_id"]
    for verb in ("approve", "reject"):
        body = problem(post(program, {"reason": "me!"}, f"/api/tasks/{other}/{verb}"), 403, "not_an_approver")
        assert "key:somebody" in body["remedy"]
    problem(post(program, {"reason": "x"}, f"/api/tasks/{task_id}/approve"), 409, "illegal_transition")


def test_a_question_holds_no_slot_and_its_answer_comes_with_the_next_attempt(program: RunningProgram) -> None:
    parameters = {"function": "ask", "arguments": {"question": "Which?", "choices": ["red", "blue"]}}
    task_id = accepted(program, {"type": "ask", "executor": "python", "parameters": parameters})["task_id"]
    task = program.reaches(task_id, "input_required")
    assert (task["question"], task["choices"], task["agent_id"]) == ("Which?", ["red", "blue"], None)
    assert not program.get("/api/agents/tasks")["assignments"]
    answer = f"/api/tasks/{task_id}/answer"
    body = problem(post(program, {"answer": "green"}, answer), 422, "not_a_choice", pointer="/answer")
    assert "red, blue" in body["remedy"]
    accepted(program, {"answer": "blue"}, answer)
    task = program.ended(task_id)
    assert (task["status"], task["result"]["value"], task["question"]) == ("completed", "blue", None)
    assert [attempt["outcome"] for attempt in task["attempts"]] == ["input_required", "completed"]
    [said] = task["answers"]
    assert (said["question"], said["answer"]) == ("Which?", "blue")
    problem(post(program, {"answer": "red"}, answer), 409, "nothing_asked")


def test_the_parts_of_a_cancelled_task_are_cancelled_with_it(program: RunningProgram) -> None:
    parent = program.submit("sleep", "60")["task_id"]
    program.reaches(parent, "running")
    child = program.submit("sleep", "60", parent=parent)["task_id"]
    program.reaches(child, "running")
    waits = program.submit("true", parent=child, requires=["nobody"])["task_id"]
    assert program.request("DELETE", f"/api/tasks/{parent}?wait=recorded").status_code == 202
    assert {program.ended(task_id)["status"] for task_id in (parent, child, waits)} == {"cancelled"}
    assert program.task(parent)["children"] == 1
    [listed] = program.get(f"/api/tasks?parent={parent}")["tasks"]
    assert (listed["id"], listed["parent"]) == (child, parent)
    problem(post(program, echo(parent=parent)), 422, "parent_ended", pointer="/parent")


def refused_items(program: RunningProgram, batch: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    answer = accepted(program, batch)
    return [
        (item["error"]["code"], item["error"].get("pointer")) if "error" in item else ("accepted", None)
        for item in answer["items"]
    ]


def test_what_nobody_could_wait_for_is_refused_each_with_its_own_error(program: RunningProgram) -> None:
    into = "/depends_on/0/into"
    known = accepted(program, echo())["task_id"]
    data = {"task": known, "type": "data"}
    cases: list[tuple[dict[str, Any], int, str, str]] = [
        ({"depends_on": [known, UNKNOWN_ID]}, 422, "unknown_dependency", "/depends_on/1"),
        ({"depends_on": ["@a"]}, 422, "unknown_dependency", "/depends_on/0"),
        ({"parent": UNKNOWN_ID}, 422, "unknown_parent", "/parent"),
        ({"ref": "a"}, 422, "not_in_a_batch", "/ref"),
        ({"depends_on": [data]}, 422, "missing_field", into),
        ({"depends_on": [data | {"into": "/arguments/a"}, data | {"into": "/arguments/a"}]}, 422, "invalid_field", ""),
        ({"depends_on": [data | {"into": "no/pointer"}]}, 422, "invalid_field", ""),
        ({"depends_on": [data | {"into": "/function/x"}]}, 422, "bad_pointer", into),
        ({"depends_on": [data | {"into": "/nothing"}]}, 422, "bad_pointer", into),
        ({"depends_on": [{"task": known, "into": "/arguments/a"}]}, 422, "invalid_field", into),
        ({"depends_on": [{"type": "approval", "task": known}]}, 422, "invalid_field", "/depends_on/0/task"),
        ({"depends_on": [known] * 101}, 422, "invalid_field", "/depends_on"),
        ({"depends_on": [known], "on_dependency_failure": "shrug"}, 422, "invalid_field", "/on_dependency_failure"),
    ]
    for fields, status, code, pointer in cases:
        body = problem(post(program, echo(**fields)), status, code)
        assert body["pointer"].startswith(pointer), (fields, body)


def test_a_batch_that_waits_for_itself_is_refused_where_it_does(program: RunningProgram) -> None:
    batch = [
        echo(ref="a", depends_on=["@b"]),
        echo(ref="b", depends_on=["@c"]),
        echo(ref="c", depends_on=["@a"]),
        echo(ref="d", depends_on=["@d"]),
        echo(ref="e", depends_on=["@a"]),
        echo(ref="f"),
        echo(ref="f"),
        echo(depends_on=["@nobody"]),
    ]
    assert refused_items(program, batch) == [
        ("dependency_cycle", "/depends_on/0"),
        ("dependency_cycle", "/depends_on/0"),
        ("dependency_cycle", "/depends_on/0"),
        ("self_dependency", "/depends_on/0"),
        ("dependency_refused", "/depends_on/0"),
        ("accepted", None),
        ("duplicate_ref", "/ref"),
        ("unknown_dependency", "/depends_on/0"),
    ]
    error = accepted(program, batch)["items"][1]["error"]
    assert "@a -> @b -> @c -> @a" in error["detail"]


def test_a_batch_sent_again_under_its_key_is_the_same_batch(program: RunningProgram) -> None:
    batch = [echo(ref="a"), echo(ref="b", depends_on=["@a"], parent="@a")]
    headers = {"Idempotency-Key": "a batch with references", "Content-Type": "application/json"}
    answers = []
    for _ in range(2):
        response = program.request("POST", "/api/tasks", content=json.dumps(batch), headers=headers)
        answers.append([(item["task_id"], item["position"]) for item in response.json()["items"]])
        for task_id, _position in answers[-1]:
            program.ended(task_id)
    assert answers[0] == answers[1]


def test_every_chain_ends_though_the_program_is_killed_in_between(data_dir: Any) -> None:
    chains, links = 6, 10
    nap = {"parameters": {"function": "sleep", "arguments": {"seconds": 0.1}}}
    with RunningProgram(data_dir) as program:
        batch = [
            echo(ref=f"{chain}.{link}", depends_on=[f"@{chain}.{link - 1}"] if link else [], **nap)
            for link in range(links)
            for chain in range(chains)
        ]
        for chain in range(chains):
            batch.append(echo(ref=f"{chain}.end", depends_on=[f"@{chain}.{link}" for link in range(links)]))
        ids = ids_of(accepted(program, batch))
        for _ in range(2):
            done = int(program.get("/api/tasks?status=completed")["pagination"]["total"])
            until(
                lambda done=done: program.get("/api/tasks?status=completed")["pagination"]["total"] > done or None,
                what="a link to end",
            )
            program.kill()
            program.start()
            assert program.get("/api/queue")["blocked"] > 0, "it was killed too late to show anything"
        for task_id in ids.values():
            task = program.ended(task_id)
            assert task["status"] == "completed", task
            assert types_of(task).count("task.completed") == 1
