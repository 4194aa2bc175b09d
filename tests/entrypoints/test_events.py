"""GET /api/events: everything that happened, in order, from any position on."""

import json
import re
import threading
import time
from typing import Any
from uuid import uuid4

import pytest

from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram


def marked(program: RunningProgram, count: int = 1) -> tuple[str, list[dict[str, Any]]]:
    """Tasks with a correlation id of their own, recorded."""
    correlation_id = str(uuid4())
    body = {"type": "marked", "executor": "command", "parameters": {"argv": ["true"]}, "requires": ["nobody"]}
    answers = [
        program.request(
            "POST", "/api/tasks?wait=recorded", json=body, headers={"X-Correlation-Id": correlation_id}
        ).json()
        for _ in range(count)
    ]
    return correlation_id, answers


def test_an_event_is_a_cloudevent(program: RunningProgram) -> None:
    correlation_id, [answer] = marked(program)
    response = program.request("GET", "/api/events", params={"correlation_id": correlation_id})
    assert response.headers["content-type"] == "application/x-ndjson"
    submitted, queued = [json.loads(line) for line in response.text.splitlines()]
    assert submitted["specversion"] == "1.0"
    assert (submitted["type"], queued["type"]) == ("hivebus.task.submitted", "hivebus.task.queued")
    assert submitted["source"]
    assert submitted["subject"] == f"task/{answer['task_id']}"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", submitted["time"])
    assert (submitted["sequence"], queued["sequence"]) == (str(answer["position"]),) * 2
    assert submitted["id"] != queued["id"]
    assert submitted["correlationid"] == correlation_id
    assert submitted["causationid"]
    assert submitted["actor"].startswith("key:")
    assert submitted["data"]["parameters"] == {"argv": ["true"]}
    assert all(name.isalnum() and name.islower() for name in submitted)


def test_all_events_are_read_page_by_page_in_order_without_gap_or_repeat(program: RunningProgram) -> None:
    marked(program, 20)
    whole = program.events(limit=1000)
    assert len({event["id"] for event in whole}) == len(whole)
    positions = [int(event["sequence"]) for event in whole]
    assert positions == sorted(positions)
    assert set(range(1, positions[-1] + 1)) == set(positions)

    paged: list[dict[str, Any]] = []
    after = 0
    while after < positions[-1]:
        response = program.request("GET", f"/api/events?after={after}&limit=3")
        page = [json.loads(line) for line in response.text.splitlines()]
        assert int(response.headers["hivebus-next"]) > after
        after = int(response.headers["hivebus-next"])
        paged += page
    assert paged[: len(whole)] == whole


def test_a_commit_is_never_split(program: RunningProgram) -> None:
    _, [answer] = marked(program)
    page = program.events(after=answer["position"] - 1, limit=1)
    assert [event["sequence"] for event in page] == [str(answer["position"])] * 2


def test_events_are_filtered_by_noun_type_id_and_correlation(program: RunningProgram) -> None:
    correlation_id, answers = marked(program, 2)
    first = answers[0]["task_id"]
    assert {event["subject"].split("/")[0] for event in program.events(noun="agent")} == {"agent"}
    assert {event["type"] for event in program.events(type="agent.spawned")} == {"hivebus.agent.spawned"}
    assert program.events(type="hivebus.agent.spawned") == program.events(type="agent.spawned")
    assert {event["subject"] for event in program.events(id=first)} == {f"task/{first}"}
    assert len(program.events(correlation_id=correlation_id, type="task.submitted")) == 2
    assert program.events(noun="nothing") == []
    empty = program.request("GET", "/api/events?noun=nothing")
    assert int(empty.headers["hivebus-next"]) >= answers[-1]["position"]


def test_who_waits_gets_the_event_as_it_comes(program: RunningProgram) -> None:
    after = int(program.request("HEAD", "/api/events").headers["hivebus-position"])
    got: list[Any] = []

    def wait() -> None:
        started = time.monotonic()
        response = program.request("GET", f"/api/events?after={after}&wait=20")
        got.append((response.text, time.monotonic() - started))

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.2)
    _, [answer] = marked(program)
    waiting.join(10)
    text, took_s = got[0]
    assert answer["task_id"] in text
    assert 0.1 < took_s < 5


def test_a_wait_ends_empty_after_its_time(program: RunningProgram) -> None:
    after = int(program.request("GET", "/api/events?limit=1000").headers["hivebus-position"])
    started = time.monotonic()
    response = program.request("GET", f"/api/events?after={after}&noun=nothing&wait=0.7")
    assert 0.6 < time.monotonic() - started < 5
    assert response.text == ""


@pytest.mark.parametrize(
    ("query", "code", "pointer"),
    [
        ("after=x", "invalid_field", "/after"),
        ("after=-1", "invalid_field", "/after"),
        ("after=" + "9" * 30, "invalid_field", "/after"),
        ("after=", "invalid_field", "/after"),
        ("limit=0", "invalid_field", "/limit"),
        ("limit=1001", "invalid_field", "/limit"),
        ("wait=26", "invalid_field", "/wait"),
        ("wait=nan", "invalid_field", "/wait"),
        ("wait=-1", "invalid_field", "/wait"),
        ("since=5", "unknown_field", "/since"),
        ("after=1&after=2", "invalid_field", "/after"),
    ],
)
def test_a_question_that_means_nothing_is_a_422(program: RunningProgram, query: str, code: str, pointer: str) -> None:
    problem(program.request("GET", f"/api/events?{query}"), 422, code, pointer)


def test_after_the_end_there_is_nothing(program: RunningProgram) -> None:
    response = program.request("GET", f"/api/events?after={10**15}")
    assert (response.status_code, response.text, response.headers["hivebus-next"]) == (200, "", str(10**15))
