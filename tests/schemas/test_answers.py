"""What the program really answers is what the documents say, field by field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from entrypoints.schemas.declared import declared, documents
from tests.entrypoints.program import RunningProgram


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProgram]:
    with RunningProgram(tmp_path_factory.mktemp("hive") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def known(program: RunningProgram) -> dict[str, str]:
    """Names of what there is: a task that was done, an agent, a limit, and a schedule."""
    task = program.submit("echo", "hello")["task_id"]
    agent = program.ended(task)["agent_id"]
    limited = program.request("PUT", "/api/limits/sample", json={"concurrency": 1}, params={"wait": "recorded"})
    assert limited.status_code == 202, limited.text
    budgeted = program.request("PUT", "/api/budgets/sample", json={"tokens": 5}, params={"wait": "recorded"})
    assert budgeted.status_code == 202, budgeted.text
    body = {"cron": "0 0 29 2 *", "task": {"type": "x", "executor": "command", "parameters": {"argv": ["true"]}}}
    scheduled = program.request("PUT", "/api/schedules/sample", json=body, params={"wait": "recorded"})
    assert scheduled.status_code == 202, scheduled.text
    return {"task_id": task, "agent_id": agent, "key": "sample", "name": "sample"}


def closed(schema: Any) -> Any:
    """The same schema, taking no field that it does not name."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and "type" in made:
        made.setdefault("additionalProperties", False)
    return made


def complaints(document: dict[str, Any], schema: dict[str, Any], answer: Any) -> list[str]:
    judge = Draft202012Validator(closed(schema | {"components": document["components"]}))
    return [f"{error.json_path}: {error.message}" for error in judge.iter_errors(answer)]


def call(program: RunningProgram, method: str, params: dict[str, Any]) -> Any:
    """The answer of a method over POST /api/."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    answer = program.request("POST", "/api/", json=body).json()
    assert "error" not in answer, answer
    return answer["result"]


READINGS = sorted(name for name, action in declared().actions.items() if action.read_only)


@pytest.mark.parametrize("name", READINGS)
def test_a_reading_answers_what_its_document_says(program: RunningProgram, known: dict[str, str], name: str) -> None:
    fields = declared().actions[name].struct.__struct_fields__
    asked = {field: known[field] for field in fields if field in known and name.endswith((".show", ".explain"))}
    document = program.client.get(f"{program.urls['tools']}/openrpc.json").json()
    [method] = [found for found in document["methods"] if found["name"] == name]
    # When
    answer = call(program, name, asked)
    # Then
    assert complaints(document, method["result"]["schema"], answer) == []


@pytest.mark.parametrize("name", ["task.show", "task.explain"])
def test_a_task_that_waits_is_shown_as_its_document_says(
    program: RunningProgram, known: dict[str, str], name: str
) -> None:
    document = program.client.get(f"{program.urls['tools']}/openrpc.json").json()
    [schema] = [method["result"]["schema"] for method in document["methods"] if method["name"] == name]
    approval = {"type": "approval", "by": []}
    data = {"type": "data", "task": known["task_id"], "from": "/stdout", "into": "/stdin"}
    task_id = program.submit("cat", depends_on=[approval, data])["task_id"]
    program.reaches(task_id, "blocked")
    assert complaints(document, schema, call(program, name, {"task_id": task_id})) == []
    call(program, "task.approve", {"task_id": task_id, "reason": "looks right"})
    program.ended(task_id)
    assert complaints(document, schema, call(program, name, {"task_id": task_id})) == []
    parameters = {"function": "ask", "arguments": {"question": "Which?", "choices": ["red"]}}
    asks = call(program, "task.submit", {"type": "ask", "executor": "python", "parameters": parameters})["task_id"]
    program.reaches(asks, "input_required")
    assert complaints(document, schema, call(program, name, {"task_id": asks})) == []
    call(program, "task.answer", {"task_id": asks, "answer": "red"})
    program.ended(asks)
    assert complaints(document, schema, call(program, name, {"task_id": asks})) == []


def test_commands_answer_what_their_document_says(program: RunningProgram) -> None:
    document = program.client.get(f"{program.urls['tools']}/openrpc.json").json()
    schemas = {method["name"]: method["result"]["schema"] for method in document["methods"]}
    asked: list[tuple[str, dict[str, Any]]] = [
        ("agent.spawn", {"type": "shell", "idempotency_key": "spawned"}),
        ("agent.spawn", {"type": "shell", "idempotency_key": "spawned"}),
        ("task.submit", {"type": "wait", "executor": "command", "parameters": {"argv": ["true"]}, "requires": ["gpu"]}),
    ]
    answers = {}
    for name, params in asked:
        answers[name] = call(program, name, params)
        assert complaints(document, schemas[name], answers[name]) == []
    cancelled = call(program, "task.cancel", {"task_id": answers["task.submit"]["task_id"]})
    assert complaints(document, schemas["task.cancel"], cancelled) == []
    retired = call(program, "agent.retire", {"agent_id": answers["agent.spawn"]["agent_id"]})
    assert complaints(document, schemas["agent.retire"], retired) == []
    executed = {"agent_id": known_agent(program), "command": "greet", "parameters": {"argv": ["true"]}}
    assert complaints(document, schemas["agent/execute"], call(program, "agent/execute", executed)) == []
    begun = call(program, "initialize", {"protocolVersion": {"major": 1}})
    assert complaints(document, schemas["initialize"], begun) == []


def known_agent(program: RunningProgram) -> str:
    return str(program.get("/api/agents?type=shell&status=idle")["agents"][0]["id"])


def test_discover_is_the_document(program: RunningProgram) -> None:
    served = program.client.get(f"{program.urls['tools']}/openrpc.json").json()
    assert call(program, "rpc.discover", {}) == served


def test_a_shape_with_a_field_too_few_is_noticed() -> None:
    document = documents("0.0.0").openrpc
    schema = {"$ref": "#/components/schemas/QueueFigures"}
    [complaint] = complaints(document, schema, {"depth": 1, "new": 2})[:1]
    assert "new" in complaint or "required" in complaint


def test_other_calls_answer_what_their_document_says(program: RunningProgram) -> None:
    document = program.client.get(f"{program.urls['tools']}/openapi.json").json()
    for path in ("/api/status", "/api/info", "/api/log/compare", "/api/log/trim", "/health/live", "/health/ready"):
        response = document["paths"][path]["get"]["responses"]["200"]
        schema = response["content"]["application/json"]["schema"]
        assert complaints(document, schema, program.get(path)) == [], path
    problem = program.request("GET", "/api/tasks/nobody")
    reference = document["paths"]["/api/tasks/{task_id}"]["get"]["responses"]["404"]["$ref"]
    found = document["components"]["responses"][reference.rpartition("/")[2]]
    schema = found["content"]["application/problem+json"]["schema"]
    judge = Draft202012Validator(schema | {"components": document["components"]})
    assert [error.message for error in judge.iter_errors(problem.json())] == []
