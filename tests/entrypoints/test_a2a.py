"""A2A 1.0 as bytes: what answers to which call, and what is refused how."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram, until

ECHO = {"type": "greet", "agent_type": "shell", "parameters": {"argv": ["echo", "hello"]}}
NOBODY = {"type": "wait", "executor": "command", "requires": ["nobody"], "parameters": {"argv": ["true"]}}
SLEEP = {"type": "sleep", "executor": "command", "parameters": {"argv": ["sleep", "60"]}}
VERSION = {"A2A-Version": "1.0"}


def message(data: Any = None, **more: Any) -> dict[str, Any]:
    parts = [{"data": ECHO if data is None else data}]
    return {"messageId": str(uuid4()), "role": "ROLE_USER", "parts": parts} | more


def post(program: RunningProgram, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json"} | VERSION | (headers or {})
    return program.request("POST", program.urls["tools"] + "/a2a", content=content, headers=sent)


def call(program: RunningProgram, method: str, **params: Any) -> dict[str, Any]:
    """The whole answer of a call."""
    response = post(program, {"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert (answer["jsonrpc"], answer["id"]) == ("2.0", 7)
    return answer


def result(program: RunningProgram, method: str, **params: Any) -> dict[str, Any]:
    answer = call(program, method, **params)
    assert "error" not in answer, answer
    found: dict[str, Any] = answer["result"]
    return found


def refused(answer: dict[str, Any], number: int, reason: str, code: str, field: str | None = None) -> dict[str, Any]:
    """The error of an answer that must be this one; its metadata."""
    error = answer["error"]
    [info] = error["data"]
    found: dict[str, Any] = info["metadata"]
    assert (error["code"], info["reason"], found["code"], found.get("field")) == (number, reason, code, field)
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert info["domain"] == "a2a-protocol.org"
    assert error["message"].strip()
    assert found["remedy"].strip()
    assert all(isinstance(value, str) for value in found.values())
    return found


def send(program: RunningProgram, data: Any, *, at_once: bool = True, **more: Any) -> dict[str, Any]:
    configuration = {"returnImmediately": at_once}
    task: dict[str, Any] = result(program, "SendMessage", message=message(data, **more), configuration=configuration)[
        "task"
    ]
    return task


def updates(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The events of a stream, comments left out."""
    assert response.headers["content-type"] == "text/event-stream"
    for line in response.iter_lines():
        if line.startswith("data: "):
            answer = json.loads(line.removeprefix("data: "))
            assert (answer["jsonrpc"], answer["id"]) == ("2.0", 7)
            yield answer["result"]


def streaming(program: RunningProgram, method: str, **params: Any) -> Any:
    headers = {"Authorization": f"Bearer {program.key}"} | VERSION
    body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
    return program.client.stream("POST", program.urls["tools"] + "/a2a", json=body, headers=headers)


# --- the card ---------------------------------------------------------------------------------------------------------


def test_the_card_needs_no_key_and_names_what_the_caller_calls(program: RunningProgram) -> None:
    address = program.urls["tools"].replace("127.0.0.1", "localhost")
    response = program.client.get(address + "/.well-known/agent-card.json")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    card = response.json()
    assert card["supportedInterfaces"] == [
        {"url": address + "/a2a", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
    ]
    assert card["capabilities"] == {"streaming": True, "pushNotifications": False, "extendedAgentCard": False}
    assert card["securityRequirements"] == [{"schemes": {"bearer": {"list": []}}}]
    assert card["version"] == program.get("/api/info")["version"]
    repeat = program.client.get(
        address + "/.well-known/agent-card.json", headers={"If-None-Match": response.headers["etag"]}
    )
    assert (repeat.status_code, repeat.content) == (304, b"")
    foreign = program.client.get(
        program.urls["tools"] + "/.well-known/agent-card.json", headers={"Host": "evil.example"}
    )
    problem(foreign, 403, "forbidden_host")


def test_the_skills_are_the_agent_types_there_are(program: RunningProgram) -> None:
    skills = program.client.get(program.urls["tools"] + "/.well-known/agent-card.json").json()["skills"]
    assert [skill["id"] for skill in skills] == ["python", "shell"]
    assert {agent["type"] for agent in program.get("/api/agents")["agents"]} == {"python", "shell"}
    assert not [skill["id"] for skill in skills if "No agent" in skill["description"]]
    [shell] = [skill for skill in skills if skill["id"] == "shell"]
    assert shell["tags"] == ["command", "shell"]
    example = json.loads(shell["examples"][0])["data"]
    assert send(program, example, at_once=False)["status"]["state"] == "TASK_STATE_COMPLETED"


def test_info_counts_a2a_among_the_protocols(program: RunningProgram) -> None:
    assert "a2a" in program.get("/api/info")["capabilities"]["supported_protocols"]


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_a_message_becomes_a_task_and_is_answered_with_its_result(program: RunningProgram) -> None:
    script = ["sh", "-c", "echo out; echo err >&2; echo content > made.txt"]
    asked = message(ECHO | {"parameters": {"argv": script}, "labels": {"x": "y"}}, contextId="trip-1")
    task = result(program, "SendMessage", message=asked)["task"]
    ours = program.task(task["id"])
    assert (task["contextId"], ours["correlation_id"]) == ("trip-1", "trip-1")
    assert task["status"] == {"state": "TASK_STATE_COMPLETED", "timestamp": ours["completed_at"]}
    [artifact] = task["artifacts"]
    data, out, err = artifact["parts"]
    assert (data["data"]["exit_code"], data["mediaType"]) == (0, "application/json")
    assert [file["path"] for file in data["data"]["files"]] == ["made.txt"]
    assert (out["text"], out["mediaType"], out["metadata"]) == ("out\n", "text/plain", {"name": "stdout"})
    assert (err["text"], err["metadata"]) == ("err\n", {"name": "stderr"})
    first, *events = task["history"]
    assert (first["messageId"], first["role"]) == (asked["messageId"], "ROLE_USER")
    assert first["parts"][0]["data"] | asked["parts"][0]["data"] == first["parts"][0]["data"]
    assert [event["metadata"] for event in [first, *events]] == ours["history"]
    assert {event["role"] for event in events} == {"ROLE_AGENT"}
    assert len({event["messageId"] for event in task["history"]}) == len(task["history"])
    assert task["metadata"]["agent_id"] == ours["agent_id"]
    assert result(program, "GetTask", id=task["id"]) == task


def test_a_task_that_fails_says_why(program: RunningProgram) -> None:
    failing = ECHO | {"parameters": {"argv": ["sh", "-c", "echo no >&2; exit 3"]}, "retry": {"max_attempts": 1}}
    task = send(program, failing, at_once=False)
    assert task["status"]["state"] == "TASK_STATE_FAILED"
    assert "3" in task["status"]["message"]["parts"][0]["text"]
    assert task["artifacts"][0]["parts"][0]["data"]["exit_code"] == 3


def test_whoever_does_not_wait_gets_the_task_as_it_stands(program: RunningProgram) -> None:
    task = send(program, NOBODY)
    assert task["status"]["state"] == "TASK_STATE_SUBMITTED"
    assert "artifacts" not in task
    # That nobody can take it is said, and not hidden behind a state.
    assert "nobody" in task["status"]["message"]["parts"][0]["text"]


def test_a_message_that_comes_twice_is_one_task(program: RunningProgram) -> None:
    asked = message()
    first = result(program, "SendMessage", message=asked)["task"]
    assert result(program, "SendMessage", message=asked)["task"] == first
    other = call(program, "SendMessage", message=asked | {"parts": [{"data": NOBODY}]})
    refused(other, -32602, "INVALID_PARAMS", "idempotency_key_reused", "/message/messageId")


def test_history_is_as_long_as_it_is_asked_for(program: RunningProgram) -> None:
    task = send(program, ECHO, at_once=False)
    whole = task["history"]
    for length, expected in ((2, whole[-2:]), (1000, whole)):
        assert result(program, "GetTask", id=task["id"], historyLength=length)["history"] == expected
    assert "history" not in result(program, "GetTask", id=task["id"], historyLength=0)
    short = result(program, "SendMessage", message=message(), configuration={"historyLength": 1})["task"]
    assert len(short["history"]) == 1


def test_a_caller_gets_only_the_types_that_it_takes(program: RunningProgram) -> None:
    modes = {"acceptedOutputModes": ["text/plain"]}
    task = result(program, "SendMessage", message=message(), configuration=modes)["task"]
    assert [part["text"] for part in task["artifacts"][0]["parts"]] == ["hello\n"]
    picture = {"acceptedOutputModes": ["image/png"]}
    refused(
        call(program, "SendMessage", message=message(), configuration=picture),
        -32005,
        "CONTENT_TYPE_NOT_SUPPORTED",
        "content_not_supported",
        "/configuration/acceptedOutputModes",
    )


def test_numbers_of_a_client_that_has_only_doubles_are_whole_where_they_are(program: RunningProgram) -> None:
    task = send(program, ECHO | {"priority": 7.0, "retry": {"max_attempts": 2.0}, "timeout_s": 1.5})
    ours = program.task(task["id"])
    assert (ours["priority"], ours["retry"]["max_attempts"], ours["timeout_s"]) == (7, 2, 1.5)


# --- cancelling -------------------------------------------------------------------------------------------------------


def test_a_waiting_task_is_cancelled_twice_and_once(program: RunningProgram) -> None:
    task = send(program, NOBODY)
    for _ in range(2):
        assert result(program, "CancelTask", id=task["id"])["status"]["state"] == "TASK_STATE_CANCELED"


def test_a_running_task_is_cancelled_when_its_attempt_has_stopped(program: RunningProgram) -> None:
    task = send(program, SLEEP)
    program.reaches(task["id"], "running")
    assert result(program, "CancelTask", id=task["id"])["status"]["state"] == "TASK_STATE_CANCELED"


def test_what_has_ended_cannot_be_cancelled_and_what_is_not_there_not_either(program: RunningProgram) -> None:
    task = send(program, ECHO, at_once=False)
    refused(call(program, "CancelTask", id=task["id"]), -32002, "TASK_NOT_CANCELABLE", "illegal_transition", "/id")
    refused(call(program, "CancelTask", id="nobody"), -32001, "TASK_NOT_FOUND", "unknown_task")


# --- lists ------------------------------------------------------------------------------------------------------------


def test_a_context_is_listed_page_by_page_last_changed_first(program: RunningProgram) -> None:
    context = f"pages-{uuid4()}"
    made = [send(program, NOBODY, contextId=context)["id"] for _ in range(5)]
    result(program, "CancelTask", id=made[0])
    found: list[str] = []
    token, pages = "", 0
    while pages == 0 or token:
        page = result(program, "ListTasks", contextId=context, pageSize=2, pageToken=token)
        assert (page["pageSize"], page["totalSize"]) == (2, 5)
        found += [task["id"] for task in page["tasks"]]
        # What happens between two pages moves no task out of the pages or into them twice.
        send(program, NOBODY, contextId=context)
        result(program, "CancelTask", id=made[1])
        token, pages = page["nextPageToken"], pages + 1
    assert (found, pages) == ([made[0], *reversed(made[1:])], 3)


def test_a_list_is_narrowed_by_state_and_time_and_shows_no_more_than_is_asked_for(program: RunningProgram) -> None:
    context = f"narrow-{uuid4()}"
    done = send(program, ECHO, at_once=False, contextId=context)
    waiting = send(program, NOBODY, contextId=context)

    def listed(**more: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = result(program, "ListTasks", contextId=context, **more)["tasks"]
        return found

    assert [task["id"] for task in listed()] == [waiting["id"], done["id"]]
    assert not any("artifacts" in task or "history" in task for task in listed())
    assert [task["id"] for task in listed(status="TASK_STATE_COMPLETED")] == [done["id"]]
    assert [task["id"] for task in listed(status="TASK_STATE_SUBMITTED")] == [waiting["id"]]
    assert listed(status="TASK_STATE_AUTH_REQUIRED") == []
    assert [task["id"] for task in listed(statusTimestampAfter=waiting["status"]["timestamp"])] == [waiting["id"]]
    [full] = listed(status="TASK_STATE_COMPLETED", includeArtifacts=True, historyLength=2)
    assert (full["artifacts"], len(full["history"])) == (done["artifacts"], 2)


# --- streams ----------------------------------------------------------------------------------------------------------


def test_a_stream_begins_with_the_task_and_ends_with_its_end(program: RunningProgram) -> None:
    slow = ECHO | {"parameters": {"argv": ["sh", "-c", "sleep 0.6; echo hello"]}}
    with streaming(program, "SendStreamingMessage", message=message(slow)) as response:
        first, *later = updates(response)
    assert first["task"]["status"]["state"] in ("TASK_STATE_SUBMITTED", "TASK_STATE_WORKING")
    kinds = [next(iter(update)) for update in later]
    assert kinds[-2:] == ["artifactUpdate", "statusUpdate"]
    positions = [update["statusUpdate"]["metadata"]["position"] for update in later if "statusUpdate" in update]
    assert positions == sorted(set(positions))
    task = result(program, "GetTask", id=first["task"]["id"])
    assert later[-1]["statusUpdate"]["status"] == task["status"]
    assert [later[-2]["artifactUpdate"]["artifact"]] == task["artifacts"]
    assert {update["taskId"] for event in later for update in event.values()} == {task["id"]}
    assert {update["contextId"] for event in later for update in event.values()} == {task["contextId"]}


def test_two_subscribers_see_the_same_and_neither_stops_the_other(program: RunningProgram) -> None:
    task = send(program, NOBODY)
    with streaming(program, "SubscribeToTask", id=task["id"]) as gone:
        assert next(updates(gone))["task"]["id"] == task["id"]
    with (
        streaming(program, "SubscribeToTask", id=task["id"]) as one,
        streaming(program, "SubscribeToTask", id=task["id"]) as two,
    ):
        first, second = updates(one), updates(two)
        assert next(first) == next(second)
        result(program, "CancelTask", id=task["id"])
        assert (
            list(first)
            == list(second)
            == [
                {"statusUpdate": {"taskId": task["id"], "contextId": task["contextId"]} | update["statusUpdate"]}
                for update in [ended(program, task["id"])]
            ]
        )


def ended(program: RunningProgram, task_id: str) -> dict[str, Any]:
    task = result(program, "GetTask", id=task_id)
    metadata = {"position": task["metadata"]["updated"], "status": task["metadata"]["status"]}
    return {"statusUpdate": {"status": task["status"], "metadata": metadata}}


@pytest.mark.peers
def test_a_stream_that_has_nothing_to_say_still_breathes(program: RunningProgram) -> None:
    task = send(program, NOBODY)
    with streaming(program, "SubscribeToTask", id=task["id"]) as response:
        said = [line for line, _ in zip(response.iter_lines(), range(3), strict=False)]
    # After the task and the empty line that ends it comes a comment, 15 s later.
    assert (said[1], said[2][:1]) == ("", ":")


def test_what_has_ended_or_is_not_there_cannot_be_subscribed_to(program: RunningProgram) -> None:
    task = send(program, ECHO, at_once=False)
    ended = call(program, "SubscribeToTask", id=task["id"])
    refused(ended, -32004, "UNSUPPORTED_OPERATION", "illegal_transition", "/id")
    refused(call(program, "SubscribeToTask", id="nobody"), -32001, "TASK_NOT_FOUND", "unknown_task")


def test_a_stream_ends_when_the_program_is_told_to_and_its_task_is_there_afterwards(tmp_path: Path) -> None:
    with RunningProgram(tmp_path / "data") as program:
        task = send(program, NOBODY)
        with streaming(program, "SubscribeToTask", id=task["id"]) as response:
            stream = updates(response)
            next(stream)
            program.signal(15)
            assert list(stream) == []
        assert program.wait() == 0
        program.start()
        assert result(program, "GetTask", id=task["id"])["status"]["state"] == "TASK_STATE_SUBMITTED"


def test_whoever_waits_is_answered_when_the_program_is_told_to_end(tmp_path: Path) -> None:
    with RunningProgram(tmp_path / "data") as program, ThreadPoolExecutor(1) as other:
        waiting = other.submit(send, program, NOBODY, at_once=False)
        until(lambda: program.get("/api/tasks")["tasks"], what="the task to be there")
        assert not waiting.done()
        program.signal(15)
        assert waiting.result(10)["status"]["state"] == "TASK_STATE_SUBMITTED"
        assert program.wait() == 0


# --- what is refused --------------------------------------------------------------------------------------------------

BAD_MESSAGES: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({"parts": [{"text": "say hello"}]}, -32005, "data_part_required", "/message/parts/0"),
    ({"parts": [{"url": "https://a.example/x.png"}]}, -32005, "data_part_required", "/message/parts/0"),
    ({"parts": [{"data": ECHO}, {"text": "please"}]}, -32005, "data_part_required", "/message/parts/1"),
    ({"parts": [{"data": ECHO, "mediaType": "text/csv"}]}, -32005, "data_part_required", "/message/parts/0"),
    ({"parts": [{"data": ECHO}, {"data": ECHO}]}, -32602, "data_part_required", "/message/parts"),
    ({"parts": [{"data": "echo hello"}]}, -32602, "data_part_required", "/message/parts"),
    ({"parts": []}, -32602, "invalid_field", "/message/parts"),
    ({"parts": [{"data": {"type": "x"}}]}, -32602, "missing_field", "/message/parts/0/data/parameters"),
    ({"parts": [{"data": ECHO | {"oops": 1}}]}, -32602, "unknown_field", "/message/parts/0/data/oops"),
    ({"parts": [{"data": ECHO | {"wait": 1}}]}, -32602, "unknown_field", "/message/parts/0/data/wait"),
    ({"parts": [{"data": ECHO | {"priority": 5.5}}]}, -32602, "invalid_field", "/message/parts/0/data/priority"),
    ({"parts": [{"data": ECHO | {"max_cost": 0.0}}]}, -32602, "zero_budget", "/message/parts/0/data/max_cost"),
    (
        {"parts": [{"data": {"type": "x", "parameters": {}}}]},
        -32602,
        "executor_required",
        "/message/parts/0/data/executor",
    ),
    ({"role": "ROLE_AGENT"}, -32602, "invalid_field", "/message/role"),
    ({"role": "user"}, -32602, "invalid_field", "/message/role"),
    ({"messageId": ""}, -32602, "invalid_field", "/message/messageId"),
    ({"contextId": "two words"}, -32602, "invalid_field", "/message/contextId"),
    ({"taskId": "nobody"}, -32001, "unknown_task", None),
]


@pytest.mark.parametrize(("wrong", "number", "code", "field"), BAD_MESSAGES, ids=lambda value: str(value)[:40])
def test_a_message_that_says_nothing_to_run_is_refused_with_its_place(
    program: RunningProgram, wrong: dict[str, Any], number: int, code: str, field: str | None
) -> None:
    reason = {-32005: "CONTENT_TYPE_NOT_SUPPORTED", -32602: "INVALID_PARAMS", -32001: "TASK_NOT_FOUND"}[number]
    for method in ("SendMessage", "SendStreamingMessage"):
        refused(call(program, method, message=message() | wrong), number, reason, code, field)


def test_a_task_takes_one_message(program: RunningProgram) -> None:
    task = send(program, NOBODY)
    more = call(program, "SendMessage", message=message(taskId=task["id"]))
    refused(more, -32004, "UNSUPPORTED_OPERATION", "unsupported_operation", "/message/taskId")
    elsewhere = call(program, "SendMessage", message=message(taskId=task["id"], contextId="other"))
    refused(elsewhere, -32602, "INVALID_PARAMS", "invalid_field", "/message/contextId")


BAD_CALLS: list[tuple[str, dict[str, Any], int, str, str, str | None]] = [
    ("GetTask", {"id": "nobody"}, -32001, "TASK_NOT_FOUND", "unknown_task", None),
    ("GetTask", {}, -32602, "INVALID_PARAMS", "missing_field", "/id"),
    ("GetTask", {"id": "x", "historyLength": -1}, -32602, "INVALID_PARAMS", "invalid_field", "/historyLength"),
    ("GetTask", {"id": "x", "tenant": "acme"}, -32602, "INVALID_PARAMS", "invalid_field", "/tenant"),
    ("ListTasks", {"pageSize": 0}, -32602, "INVALID_PARAMS", "invalid_field", "/pageSize"),
    ("ListTasks", {"pageSize": 101}, -32602, "INVALID_PARAMS", "invalid_field", "/pageSize"),
    ("ListTasks", {"pageToken": "mine"}, -32602, "INVALID_PARAMS", "invalid_field", "/pageToken"),
    ("ListTasks", {"status": "working"}, -32602, "INVALID_PARAMS", "invalid_field", "/status"),
    (
        "ListTasks",
        {"statusTimestampAfter": "now"},
        -32602,
        "INVALID_PARAMS",
        "invalid_field",
        "/statusTimestampAfter",
    ),
    ("message/send", {}, -32601, "METHOD_NOT_FOUND", "unknown_action", None),
    ("task.list", {}, -32601, "METHOD_NOT_FOUND", "unknown_action", None),
    ("GetExtendedAgentCard", {}, -32004, "UNSUPPORTED_OPERATION", "unsupported_operation", None),
    ("CreateTaskPushNotificationConfig", {}, -32003, "PUSH_NOTIFICATION_NOT_SUPPORTED", "push_not_supported", None),
    ("ListTaskPushNotificationConfigs", {}, -32003, "PUSH_NOTIFICATION_NOT_SUPPORTED", "push_not_supported", None),
    (
        "SendMessage",
        {
            "message": message(messageId="fixed"),
            "configuration": {"taskPushNotificationConfig": {"url": "http://x.example"}},
        },
        -32003,
        "PUSH_NOTIFICATION_NOT_SUPPORTED",
        "push_not_supported",
        "/configuration/taskPushNotificationConfig",
    ),
]


@pytest.mark.parametrize(("method", "params", "number", "reason", "code", "field"), BAD_CALLS, ids=str)
def test_a_call_that_cannot_be_answered_has_the_number_that_a2a_gives_it(
    program: RunningProgram,
    method: str,
    params: dict[str, Any],
    number: int,
    reason: str,
    code: str,
    field: str | None,
) -> None:
    refused(call(program, method, **params), number, reason, code, field)


ENVELOPES: list[tuple[bytes, Any, int, str]] = [
    (b"{", None, -32700, "malformed_json"),
    (b"\xff", None, -32700, "malformed_json"),
    (b"[" * 5000, None, -32700, "malformed_json"),
    (b"5", None, -32600, "invalid_request"),
    (b"[]", None, -32600, "empty_batch"),
    (b'[{"jsonrpc":"2.0","id":1,"method":"ListTasks"}]', None, -32600, "invalid_request"),
    (b'{"id":1,"method":"ListTasks"}', 1, -32600, "invalid_request"),
    (b'{"jsonrpc":"2.0","method":"ListTasks"}', None, -32600, "invalid_request"),
    (b'{"jsonrpc":"2.0","id":true,"method":"ListTasks"}', None, -32600, "invalid_request"),
    (b'{"jsonrpc":"2.0","id":"a","method":5}', "a", -32600, "invalid_request"),
    (b'{"jsonrpc":"2.0","id":1,"method":"ListTasks","params":[]}', 1, -32602, "params_by_position"),
]


@pytest.mark.parametrize(("body", "id_", "number", "code"), ENVELOPES, ids=lambda value: str(value)[:40])
def test_an_envelope_that_is_none_is_answered_in_json_rpc(
    program: RunningProgram, body: bytes, id_: Any, number: int, code: str
) -> None:
    response = post(program, body)
    assert response.status_code == 200
    answer = response.json()
    assert answer["id"] == id_
    assert (answer["error"]["code"], answer["error"]["data"][0]["metadata"]["code"]) == (number, code)


@pytest.mark.parametrize(
    ("said", "spoken"), [("1.0", True), ("1.0.7", True), ("0.3", False), ("", False), ("2.0", False)]
)
def test_the_version_is_agreed_on_before_anything_is_done(program: RunningProgram, said: str, spoken: bool) -> None:
    body = {"jsonrpc": "2.0", "id": 7, "method": "ListTasks"}
    answer = post(program, body, {"A2A-Version": said}).json()
    assert ("result" in answer) == spoken
    if not spoken:
        refused(answer, -32009, "VERSION_NOT_SUPPORTED", "version_not_supported")


def test_the_door_is_the_same_as_everywhere(program: RunningProgram) -> None:
    body = {"jsonrpc": "2.0", "id": 7, "method": "ListTasks"}
    response = post(program, body, {"Authorization": "Bearer hive_0_wrong"})
    problem(response, 401, "unauthenticated")
    assert response.headers["www-authenticate"].startswith("Bearer")
    problem(post(program, body, {"Host": "evil.example"}), 403, "forbidden_host")
    problem(post(program, body, {"Origin": "https://evil.example"}), 403, "forbidden_origin")
    problem(post(program, body, {"Content-Type": "text/plain"}), 415, "unsupported_media_type")
    problem(program.request("GET", program.urls["tools"] + "/a2a"), 405, "method_not_allowed")
