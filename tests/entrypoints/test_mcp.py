"""MCP on the wire, against the real program: what each era may send, and what is answered to everything else."""

from __future__ import annotations

import base64
import json
from typing import Any
from uuid import uuid4

import pytest

from tests.entrypoints.mcp_wire import (
    CAPABILITIES,
    ENVELOPE,
    LEGACY,
    MODERN,
    VERSION,
    call,
    done,
    modern,
    post,
    request,
    result,
)
from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram

ECHO = {"type": "greet", "executor": "command", "parameters": {"argv": ["echo", "hi"]}}
UNKNOWN_ID = "01a20474-6a14-8e6e-8cc2-cacb6f5b5413"
SPOKEN = [MODERN, LEGACY, "2025-06-18", "2025-03-26"]


# --- who comes in -----------------------------------------------------------------------------------------------------


def address(program: RunningProgram) -> str:
    return f"{program.urls['tools']}/mcp"


@pytest.mark.parametrize("key", [None, "hive_0_wrong"], ids=["no key", "a wrong key"])
def test_without_the_key_nobody_comes_in(program: RunningProgram, key: str | None) -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    response = program.client.post(address(program), json=request("ping"), headers=headers)
    problem(response, 401, "unauthenticated")
    assert response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_the_page_of_a_foreign_site_is_refused_before_its_key_is_looked_at(
    program: RunningProgram, method: str
) -> None:
    response = program.request(method, address(program), headers={"Origin": "http://evil.example"})
    problem(response, 403, "forbidden_origin")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_there_is_no_stream_to_open_and_no_session_to_end(program: RunningProgram, method: str) -> None:
    response = program.request(method, address(program), headers={"Accept": "text/event-stream"})
    problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_a_body_that_a_page_could_send_by_itself_is_refused(program: RunningProgram) -> None:
    response = post(program, json.dumps(request("ping")).encode(), {"Content-Type": "text/plain"})
    problem(response, 415, "unsupported_media_type")


def test_a_body_over_the_bound_is_refused(program: RunningProgram) -> None:
    problem(post(program, b" " * (1024 * 1024 + 1)), 413, "too_large")


def test_a_client_that_takes_no_json_is_told(program: RunningProgram) -> None:
    problem(post(program, request("ping"), {"Accept": "text/event-stream"}), 406, "not_acceptable")


# --- the handshake era ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "agreed"),
    [
        (LEGACY, LEGACY),
        ("2025-06-18", "2025-06-18"),
        ("2025-03-26", "2025-03-26"),
        ("2024-11-05", LEGACY),
        (MODERN, LEGACY),
        ("tomorrow", LEGACY),
    ],
)
def test_initialize_agrees_on_a_version_that_both_speak(program: RunningProgram, asked: str, agreed: str) -> None:
    params = {"protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    response = post(program, request("initialize", params))
    answer = response.json()["result"]
    assert answer["protocolVersion"] == agreed
    assert answer["serverInfo"]["name"] == "hivebus"
    assert answer["capabilities"] == {"tools": {}, "resources": {}}
    assert "task_submit" in answer["instructions"]
    assert "mcp-session-id" not in response.headers


@pytest.mark.parametrize("method", ["notifications/initialized", "notifications/cancelled", "notifications/unheard"])
@pytest.mark.parametrize("version", [None, LEGACY, MODERN])
def test_a_notification_is_taken_and_gets_no_body(program: RunningProgram, method: str, version: str | None) -> None:
    headers = {"MCP-Protocol-Version": version} if version else {}
    response = post(program, {"jsonrpc": "2.0", "method": method, "params": {"requestId": 1}}, headers)
    assert (response.status_code, response.content) == (202, b"")


@pytest.mark.parametrize("id_", [0, -1, 2**70, "", "a", "7", "ü" * 100])
def test_an_answer_has_the_id_of_its_request(program: RunningProgram, id_: Any) -> None:
    answer = post(program, request("ping", frame_id=id_)).json()
    assert answer == {"jsonrpc": "2.0", "id": id_, "result": {}}


@pytest.mark.parametrize("empty", [{}, {"params": None}, {"params": {}}])
def test_empty_params_and_arguments_may_be_left_out(program: RunningProgram, empty: dict[str, Any]) -> None:
    assert post(program, {"jsonrpc": "2.0", "id": 1, "method": "ping"} | empty).json()["result"] == {}
    for arguments in ({}, {"arguments": None}, {"arguments": {}}):
        assert result(program, "tools/call", {"name": "queue_show"} | arguments)["isError"] is False


def test_what_only_the_old_batches_allow_is_answered_in_one_array(program: RunningProgram) -> None:
    frames = [request("ping", frame_id="a"), {"jsonrpc": "2.0", "method": "notifications/initialized"}, request("nope")]
    answers = post(program, frames).json()
    assert [answer["id"] for answer in answers] == ["a", 1]
    assert answers[1]["error"]["code"] == -32601
    assert post(program, frames[1:2]).status_code == 202
    assert post(program, frames, {"MCP-Protocol-Version": "2025-03-26"}).status_code == 200


# --- what is no message -----------------------------------------------------------------------------------------------

RAW: list[tuple[str, bytes | Any, int, Any]] = [
    ("no JSON", b"{", -32700, None),
    ("nothing", b"", -32700, None),
    ("no UTF-8", b'{"jsonrpc": "2.0", "id": 1, "method": "\xff"}', -32700, None),
    ("deep nesting", b"[" * 100_000, -32700, None),
    ("a number", 5, -32600, None),
    ("null", None, -32600, None),
    ("another version of JSON-RPC", {"jsonrpc": "1.0", "id": 1, "method": "ping"}, -32600, 1),
    ("no version of JSON-RPC", {"id": 1, "method": "ping"}, -32600, 1),
    ("no method", {"jsonrpc": "2.0", "id": 1}, -32600, 1),
    ("a method that is no text", {"jsonrpc": "2.0", "id": 1, "method": 5}, -32600, 1),
    ("a null id", {"jsonrpc": "2.0", "id": None, "method": "ping"}, -32600, None),
    ("a boolean id", {"jsonrpc": "2.0", "id": True, "method": "ping"}, -32600, None),
    ("a broken number as id", {"jsonrpc": "2.0", "id": 1.5, "method": "ping"}, -32600, None),
    ("params in an array", {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []}, -32602, 1),
    ("a response to nothing", {"jsonrpc": "2.0", "id": 1, "result": {}}, -32600, 1),
    ("an empty batch", [], -32600, None),
    ("a long batch", [request("ping")] * 51, -32600, None),
    ("initialize in a batch", [request("initialize")], -32600, None),
]


@pytest.mark.parametrize(("body", "code", "id_"), [case[1:] for case in RAW], ids=[case[0] for case in RAW])
def test_what_is_no_message_is_a_bad_request(program: RunningProgram, body: Any, code: int, id_: Any) -> None:
    response = post(program, body if isinstance(body, bytes) else json.dumps(body).encode())
    answer = response.json()
    assert (response.status_code, answer["error"]["code"], answer["id"]) == (400, code, id_)
    assert answer["error"]["message"].strip()


def test_a_batch_is_refused_where_the_version_has_none(program: RunningProgram) -> None:
    response = post(program, [request("ping")], {"MCP-Protocol-Version": LEGACY})
    assert (response.status_code, response.json()["error"]["code"]) == (400, -32600)


def test_a_bad_message_in_a_batch_spoils_no_other(program: RunningProgram) -> None:
    answers = post(program, [5, request("ping", frame_id=2)]).json()
    assert [answer.get("error", {}).get("code") for answer in answers] == [-32600, None]


@pytest.mark.parametrize("method", ["nope", "server/discover", "logging/setLevel", "prompts/list"])
def test_what_was_not_announced_is_no_method(program: RunningProgram, method: str) -> None:
    response = post(program, request(method), {"MCP-Protocol-Version": LEGACY})
    assert (response.status_code, response.json()["error"]["code"]) == (200, -32601)


# --- the stateless era ------------------------------------------------------------------------------------------------


def test_discover_tells_everything_that_a_client_needs(program: RunningProgram) -> None:
    response = post(program, *modern("server/discover"))
    answer = response.json()["result"]
    assert response.status_code == 200
    assert (answer["resultType"], answer["supportedVersions"], answer["cacheScope"]) == ("complete", SPOKEN, "private")
    assert answer["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "hivebus"
    assert answer["ttlMs"] > 0


@pytest.mark.parametrize("method", ["initialize", "ping", "nope", "subscriptions/listen"])
def test_what_this_era_does_not_know_is_not_found(program: RunningProgram, method: str) -> None:
    response = post(program, *modern(method))
    assert (response.status_code, response.json()["error"]["code"]) == (404, -32601)


SHOW = {"name": "queue_show", "arguments": {}}
MISMATCHED: list[tuple[str, dict[str, Any], dict[str, str], int]] = [
    ("another version in the header", ENVELOPE, {"MCP-Protocol-Version": LEGACY}, -32020),
    ("no version in the header", ENVELOPE, {"MCP-Protocol-Version": ""}, -32020),
    ("another method", ENVELOPE, {"Mcp-Method": "tools/list"}, -32020),
    ("no method", ENVELOPE, {"Mcp-Method": ""}, -32020),
    ("another tool", ENVELOPE, {"Mcp-Name": "task_submit"}, -32020),
    ("no tool", ENVELOPE, {"Mcp-Name": ""}, -32020),
    ("a tool in broken Base64", ENVELOPE, {"Mcp-Name": "=?base64?cXVldWV?="}, -32020),
    ("no capabilities", {VERSION: MODERN}, {}, -32602),
    ("no version", {CAPABILITIES: {}}, {}, -32602),
    ("a version that is no text", ENVELOPE | {VERSION: 1}, {}, -32602),
    ("capabilities that are no object", ENVELOPE | {CAPABILITIES: []}, {}, -32602),
    ("a version nobody knows", ENVELOPE | {VERSION: "1900-01-01"}, {"MCP-Protocol-Version": "1900-01-01"}, -32022),
    ("an unknown version in the header alone", ENVELOPE, {"MCP-Protocol-Version": "1900-01-01"}, -32020),
]


@pytest.mark.parametrize(
    ("meta", "headers", "code"), [case[1:] for case in MISMATCHED], ids=[case[0] for case in MISMATCHED]
)
def test_a_request_that_contradicts_itself_is_refused(
    program: RunningProgram, meta: dict[str, Any], headers: dict[str, str], code: int
) -> None:
    body, said = modern("tools/call", SHOW)
    body["params"]["_meta"] = meta
    sent = {name: value for name, value in (said | headers).items() if value}
    response = post(program, body, sent)
    assert (response.status_code, response.json()["error"]["code"]) == (400, code), response.text


def test_the_refusal_of_a_version_names_those_that_are_spoken(program: RunningProgram) -> None:
    response = post(program, request("tools/list"), {"MCP-Protocol-Version": "2024-11-05"})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, -32022)
    assert error["data"] == {"supported": SPOKEN, "requested": "2024-11-05"}


def test_a_header_that_comes_twice_is_refused(program: RunningProgram) -> None:
    body, said = modern("tools/list")
    headers = [*said.items(), ("Mcp-Method", "tools/list"), ("Authorization", f"Bearer {program.key}")]
    response = program.client.post(address(program), json=body, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (400, -32020)


def test_a_name_that_is_no_visible_ascii_comes_in_base64(program: RunningProgram) -> None:
    body, headers = modern("tools/call", SHOW)
    headers["Mcp-Name"] = f"=?base64?{base64.b64encode(b'queue_show').decode()}?="
    response = post(program, body, headers)
    assert (response.status_code, response.json()["result"]["isError"]) == (200, False)


@pytest.mark.parametrize("version", SPOKEN)
def test_a_resource_that_is_not_there_has_the_code_of_its_era(program: RunningProgram, version: str) -> None:
    for uri in (f"hivebus://task/{UNKNOWN_ID}", "hivebus://agent/a", "file:///etc/passwd", "hivebus://task/../x"):
        if version == MODERN:
            response, status, code = post(program, *modern("resources/read", {"uri": uri})), 400, -32602
        else:
            body = request("resources/read", {"uri": uri})
            response, status, code = post(program, body, {"MCP-Protocol-Version": version}), 200, -32002
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["data"]) == (status, code, {"uri": uri})


# --- tools ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "pointer"),
    [
        ({"type": 5, "parameters": {}}, "invalid_field", "/type"),
        ({"type": "a"}, "missing_field", "/parameters"),
        (ECHO | {"argv": []}, "unknown_field", "/argv"),
        (ECHO | {"wait": "soon"}, "invalid_field", "/wait"),
        (ECHO | {"executor": None}, "executor_required", "/executor"),
        (ECHO | {"depends_on": [UNKNOWN_ID]}, "unknown_dependency", "/depends_on/0"),
        (ECHO | {"max_cost": 0}, "zero_budget", "/max_cost"),
        (ECHO | {"parameters": {"argv": ["a", "--token=abcdefgh"]}}, "literal_secret", "/parameters/argv/1"),
    ],
)
def test_bad_arguments_are_a_result_that_says_how_to_do_better(
    program: RunningProgram, arguments: dict[str, Any], code: str, pointer: str
) -> None:
    answer = call(program, "task_submit", **arguments)
    error = answer["structuredContent"]["error"]
    assert (answer["isError"], error["code"], error["pointer"]) == (True, code, pointer)
    [said] = answer["content"]
    assert all(part in said["text"] for part in (code, error["detail"], error["remedy"], pointer))


@pytest.mark.parametrize("depth", [40, 400, 4000])
def test_arguments_may_be_nested_only_so_deeply(program: RunningProgram, depth: int) -> None:
    nested = '{"a":' * depth + "1" + "}" * depth
    arguments = {"type": "deep", "executor": "python", "parameters": {"function": "noop", "arguments": "NESTED"}}
    frame = json.dumps(request("tools/call", {"name": "task_submit", "arguments": arguments}))
    response = post(program, frame.replace('"NESTED"', nested).encode())
    answer = response.json()
    code = answer["error"]["code"] if "error" in answer else answer["result"]["structuredContent"]["error"]["code"]
    assert code in ("too_deep", -32700), response.text


def test_a_decision_that_says_no_is_a_result_too(program: RunningProgram) -> None:
    answer = call(program, "task_cancel", task_id=UNKNOWN_ID)
    assert (answer["isError"], answer["structuredContent"]["error"]["code"]) == (True, "unknown_task")


@pytest.mark.parametrize(
    "params",
    [{"name": "task_submti"}, {"name": "task.submit"}, {}, {"name": 5}, {"name": "queue_show", "arguments": []}],
    ids=["a misspelt tool", "an action's own name", "no name", "a number", "arguments in an array"],
)
def test_a_tool_that_there_is_none_of_is_an_error_of_the_protocol(
    program: RunningProgram, params: dict[str, Any]
) -> None:
    answer = post(program, request("tools/call", params), {"MCP-Protocol-Version": LEGACY}).json()
    assert answer["error"]["code"] == -32602


def test_a_submitted_task_answers_at_once_and_can_be_waited_for(program: RunningProgram) -> None:
    submitted = done(program, "task_submit", **ECHO)
    after, status = submitted["position"], submitted["status"]
    assert status == "queued"
    while status != "completed":
        page = done(program, "event_list", id=submitted["task_id"], after=after, wait=15)
        assert page["events"], "nothing happened to the task within 15 s"
        after = page["next"]
        status = done(program, "task_show", task_id=submitted["task_id"], min_position=after)["status"]
    [content] = result(program, "resources/read", {"uri": f"hivebus://task/{submitted['task_id']}/result"})["contents"]
    came_out = json.loads(content["text"])
    assert (content["mimeType"], came_out["status"], came_out["exit_code"]) == ("application/json", "completed", 0)
    assert came_out["result"]["stdout"] == "hi\n"


def test_a_submit_under_a_key_is_carried_out_once(program: RunningProgram) -> None:
    key = str(uuid4())
    first, second = (done(program, "task_submit", **ECHO, idempotency_key=key) for _ in range(2))
    assert (first["task_id"], second["repeated"]) == (second["task_id"], True)


def test_what_came_out_of_a_task_that_has_not_ended_is_unknown_and_says_why(program: RunningProgram) -> None:
    waiting = done(program, "task_submit", **ECHO | {"requires": ["no-agent-has-this"]}, wait="recorded")
    uri = f"hivebus://task/{waiting['task_id']}"
    [content] = result(program, "resources/read", {"uri": f"{uri}/result"})["contents"]
    came_out = json.loads(content["text"])
    assert (came_out["result"], came_out["unknown"]) == (None, {"result": "the task has not ended"})
    cancelled = done(program, "task_cancel", task_id=waiting["task_id"], wait="recorded")
    assert cancelled["status"] == "cancelled"
    [content] = result(program, "resources/read", {"uri": f"{uri}/timeline"})["contents"]
    types = [event["type"] for event in json.loads(content["text"])["events"]]
    assert (types[0], types[-1]) == ("task.submitted", "task.cancelled")


def test_an_answer_that_is_too_long_is_cut_and_names_the_resource_with_the_rest(program: RunningProgram) -> None:
    argv = ["true", *("x" * 900 for _ in range(60))]
    submitted = done(program, "task_submit", type="long", executor="command", parameters={"argv": argv}, wait=10)
    shown = call(program, "task_show", task_id=submitted["task_id"])
    uri = f"hivebus://task/{submitted['task_id']}"
    assert uri in shown["structuredContent"]["cut"]["hint"]
    assert shown["structuredContent"]["cut"]["bytes"] > 48 * 1024 >= len(shown["content"][0]["text"].encode())
    assert json.loads(shown["content"][0]["text"]) == shown["structuredContent"]
    [content] = result(program, "resources/read", {"uri": uri})["contents"]
    assert json.loads(content["text"])["parameters"]["argv"] == argv


def test_the_whole_of_a_long_output_is_a_resource(program: RunningProgram) -> None:
    def blob_of(*argv: str) -> str:
        task = program.ended(program.submit(*argv)["task_id"])
        return f"hivebus://blob/{task['result']['stdout_blob']['sha256']}"

    [text] = result(program, "resources/read", {"uri": blob_of("seq", "10000")})["contents"]
    assert (text["mimeType"], text["text"].split()[-1]) == ("text/plain", "10000")
    [octets] = result(program, "resources/read", {"uri": blob_of("head", "-c", "50000", "/dev/urandom")})["contents"]
    assert len(base64.b64decode(octets["blob"])) == 50_000
    too_long = request("resources/read", {"uri": blob_of("head", "-c", "1048577", "/dev/zero")})
    error = post(program, too_long, {"MCP-Protocol-Version": LEGACY}).json()["error"]
    assert (error["code"], error["data"]["code"]) == (-32603, "too_large")
    nothing = request("resources/read", {"uri": f"hivebus://blob/{'0' * 64}"})
    assert post(program, nothing, {"MCP-Protocol-Version": LEGACY}).json()["error"]["code"] == -32002


# --- the tasks submitted last -----------------------------------------------------------------------------------------


def test_pages_of_recent_tasks_neither_repeat_nor_hide_one(program: RunningProgram) -> None:
    given = [done(program, "task_submit", **ECHO, wait="recorded")["task_id"] for _ in range(52)]
    first = result(program, "resources/list")
    done(program, "task_submit", **ECHO, wait="recorded")
    second = result(program, "resources/list", {"cursor": first["nextCursor"]})
    uris = [entry["uri"] for entry in first["resources"] + second["resources"]]
    assert uris[:52] == [f"hivebus://task/{task_id}" for task_id in reversed(given)]
    assert len(set(uris)) == len(uris)


@pytest.mark.parametrize("cursor", ["", "next", "1.1000", "1.5.5", 5, "-1.50"])
@pytest.mark.parametrize("method", ["resources/list", "tools/list", "resources/templates/list"])
def test_a_cursor_that_was_never_given_leads_nowhere(program: RunningProgram, method: str, cursor: Any) -> None:
    answer = post(program, request(method, {"cursor": cursor}), {"MCP-Protocol-Version": LEGACY}).json()
    assert answer["error"]["code"] == -32602


def test_info_names_this_way_in(program: RunningProgram) -> None:
    assert "mcp" in program.get("/api/info")["capabilities"]["supported_protocols"]
