"""Many tasks in one request: a JSON array or JSON lines, each item with its own answer."""

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram

NDJSON = {"Content-Type": "application/x-ndjson"}
GOOD: dict[str, Any] = {"type": "item", "executor": "command", "parameters": {"argv": ["true"]}}
WAITS = GOOD | {"requires": ["nobody"]}


def post(program: RunningProgram, items: list[Any] | bytes, **headers: str) -> httpx.Response:
    content = items if isinstance(items, bytes) else json.dumps(items).encode()
    return program.request(
        "POST", "/api/tasks?wait=recorded", content=content, headers={"Content-Type": "application/json"} | headers
    )


def test_an_array_is_answered_item_by_item(program: RunningProgram) -> None:
    response = post(program, [GOOD] * 7)
    answer = response.json()
    assert response.status_code == 202
    assert (answer["accepted"], answer["refused"]) == (7, 0)
    assert [item["index"] for item in answer["items"]] == list(range(7))
    positions = [item["position"] for item in answer["items"]]
    assert positions == sorted(set(positions))
    assert answer["position"] == max(positions)
    assert response.headers["hivebus-position"] == str(answer["position"])
    ids = {item["task_id"] for item in answer["items"]}
    together = program.get(f"/api/tasks?correlation_id={answer['correlation_id']}")
    assert {task["id"] for task in together["tasks"]} == ids
    assert {program.ended(task_id)["status"] for task_id in ids} == {"completed"}


def test_json_lines_are_a_batch_too(program: RunningProgram) -> None:
    lines = b"\n\r\n".join(json.dumps(WAITS).encode() for _ in range(3)) + b"\n\n"
    for media in ("application/x-ndjson", "Application/X-NDJSON; charset=utf-8"):
        answer = post(program, lines, **{"Content-Type": media}).json()
        assert (answer["accepted"], answer["refused"]) == (3, 0)
    one_line = post(program, json.dumps(WAITS).encode(), **NDJSON).json()
    assert (one_line["accepted"], len(one_line["items"])) == (1, 1)


def test_a_bad_item_is_refused_among_good_ones(program: RunningProgram) -> None:
    bad: list[tuple[bytes, int, str, str | None]] = [
        (b'{"type":', 400, "malformed_json", None),
        (b"17", 422, "invalid_field", ""),
        (b'{"type":"x","parameters":{}}', 422, "executor_required", "/executor"),
        (b'{"type":"x","executor":"command","parameters":{"argv":[]}}', 422, "invalid_field", "/parameters/argv"),
        (
            b'{"type":"x","executor":"command","parameters":{"argv":["a","--token=abcdef"]}}',
            422,
            "literal_secret",
            "/parameters/argv/1",
        ),
        (b"[" * 10_000, 422, "invalid_field", ""),
        (b'{"type":"\xff","parameters":{}}', 400, "malformed_json", None),
    ]
    good = json.dumps(WAITS).encode()
    lines = b"\n".join(line for raw, *_ in bad for line in (good, raw)) + b"\n" + good
    answer = post(program, lines, **NDJSON).json()
    assert (answer["accepted"], answer["refused"]) == (len(bad) + 1, len(bad))
    errors = [item["error"] for item in answer["items"] if "error" in item]
    assert [(e["status"], e["code"], e.get("pointer")) for e in errors] == [tuple(expected) for _, *expected in bad]
    assert [item["index"] for item in answer["items"] if "error" in item] == list(range(1, 2 * len(bad), 2))
    for item in answer["items"][::2]:
        assert program.task(item["task_id"])["status"] == "queued"


def test_the_same_batch_under_the_same_key_is_the_same_tasks(program: RunningProgram) -> None:
    key = str(uuid4())
    items = [WAITS, WAITS | {"type": "second"}]
    first = post(program, items, **{"Idempotency-Key": key}).json()
    again = post(program, items, **{"Idempotency-Key": key}).json()
    assert [item["task_id"] for item in again["items"]] == [item["task_id"] for item in first["items"]]
    assert len({item["task_id"] for item in first["items"]}) == 2
    assert all(item["repeated"] for item in again["items"])
    other = post(program, [WAITS, WAITS | {"type": "third"}], **{"Idempotency-Key": key}).json()
    assert (other["accepted"], other["refused"]) == (1, 1)
    assert other["items"][1]["error"]["code"] == "idempotency_key_reused"


def test_agents_come_in_batches_too(program: RunningProgram) -> None:
    response = program.request("POST", "/api/agents", json=[{"type": "shell"}, {"type": "poet"}, {"type": "python"}])
    answer = response.json()
    assert (response.status_code, answer["accepted"], answer["refused"]) == (202, 2, 1)
    assert answer["items"][1]["error"]["pointer"] == "/type"
    for item in (answer["items"][0], answer["items"][2]):
        assert program.get(f"/api/agents/{item['agent_id']}")["id"] == item["agent_id"]


@pytest.mark.parametrize(("body", "headers"), [(b"[]", {}), (b" [ ] ", {}), (b"", NDJSON), (b"\n\n", NDJSON)])
def test_an_empty_batch_is_no_success(program: RunningProgram, body: bytes, headers: dict[str, str]) -> None:
    problem(post(program, body, **headers), 422, "empty_batch", "")


@pytest.mark.parametrize("body", [b"[", b"[1,", b"[{}]]", b"[NaN]", b"[" * 10_000, b"[" * 10_000 + b"]" * 10_000])
def test_an_array_that_is_none_is_refused_as_a_whole(program: RunningProgram, body: bytes) -> None:
    problem(post(program, body), 400, "malformed_json")


def test_a_batch_has_at_most_a_thousand_items(program: RunningProgram) -> None:
    answer = post(program, [17] * 1000).json()
    assert (answer["accepted"], answer["refused"]) == (0, 1000)
    problem(post(program, [WAITS] * 1001), 413, "too_large")
    problem(post(program, b"\n".join([json.dumps(WAITS).encode()] * 1001), **NDJSON), 413, "too_large")


def test_a_body_has_at_most_a_mebibyte(program: RunningProgram) -> None:
    item = json.dumps(WAITS | {"name": "n" * 150}).encode()
    fitting = b"[" + item + b" " * (1024 * 1024 - len(item) - 2) + b"]"
    assert len(fitting) == 1024 * 1024
    assert post(program, fitting).json()["accepted"] == 1
    problem(post(program, fitting + b" "), 413, "too_large")
    problem(post(program, b"\n".join([item] * 5000), **NDJSON), 413, "too_large")
