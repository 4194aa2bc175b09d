"""JSON-RPC 2.0, row by row: the same table for the engine and for every way to it.

The rows named `spec` are the cases of https://www.jsonrpc.org/specification with methods that there are.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec import Struct
from websockets.exceptions import ConnectionClosed

import entrypoints.rpc.engine
from core.kernel.errors import AgentUnavailable, TooMany, Unprocessable
from core.services.dispatch import Principal
from entrypoints.calls import Action, Calls, QueryOptions
from entrypoints.rpc.engine import IN_FLIGHT_MAX, Rpc, Session
from entrypoints.rpc.errors import SENTENCE_CHARS_MAX
from entrypoints.rpc.frame import BATCH_MAX, FRAME_BYTES_MAX
from entrypoints.rpc.methods import methods
from projections.agents import ListAgents
from tests.entrypoints.frames import frames
from tests.entrypoints.jsonrpc import OverWebSocket, Way, decoded, outline, over_http, post, request
from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram
from tests.entrypoints.program import until as awaited
from tests.given import quiet, until

PARSE, REQUEST, METHOD, PARAMS = -32700, -32600, -32601, -32602
MALFORMED = (None, PARSE, "malformed_json")
INVALID = (None, REQUEST, "invalid_request")
PONG = (1, "pong")

NOTE = '{"jsonrpc": "2.0", "method": "ping"}'
PING = '{"jsonrpc": "2.0", "method": "ping", "id": 1}'


def with_id(text: str) -> str:
    return f'{{"jsonrpc": "2.0", "method": "ping", "id": {text}}}'


def with_params(text: str) -> str:
    return f'{{"jsonrpc": "2.0", "method": "ping", "params": {text}, "id": 1}}'


BATCH = f"""[
    {PING},
    {{"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}},
    {{"jsonrpc": "2.0", "method": "ping", "id": "2"}},
    {{"foo": "boo"}},
    {{"jsonrpc": "2.0", "method": "foo.get", "params": {{"name": "myself"}}, "id": "5"}},
    {{"jsonrpc": "2.0", "method": "ping", "id": "9"}}
]"""

ROWS: dict[str, tuple[str | bytes, Any]] = {
    # the cases of the specification
    "spec: a call with positional params": (with_params("[42, 23]"), (1, PARAMS, "params_by_position")),
    "spec: a call with named params": (with_params("{}"), PONG),
    "spec: a notification": (NOTE, None),
    "spec: a notification of no method": ('{"jsonrpc": "2.0", "method": "foobar"}', None),
    "spec: a notification with positional params": ('{"jsonrpc": "2.0", "method": "update", "params": [1, 2]}', None),
    "spec: a call of no method": ('{"jsonrpc": "2.0", "method": "foobar", "id": "1"}', ("1", METHOD, "unknown_action")),
    "spec: invalid JSON": ('{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]', MALFORMED),
    "spec: an invalid request": ('{"jsonrpc": "2.0", "method": 1, "params": "bar"}', INVALID),
    "spec: a batch of invalid JSON": (f'[{PING}, {{"jsonrpc": "2.0", "method"]', MALFORMED),
    "spec: an empty batch": ("[]", (None, REQUEST, "empty_batch")),
    "spec: an invalid batch of one": ("[1]", [INVALID]),
    "spec: an invalid batch": ("[1,2,3]", [INVALID, INVALID, INVALID]),
    "spec: a batch": (BATCH, [PONG, ("2", "pong"), INVALID, ("5", METHOD, "unknown_action"), ("9", "pong")]),
    "spec: a batch of notifications": (f"[{NOTE}, {NOTE}]", None),
    # what is no JSON
    "nothing": ("", MALFORMED),
    "blanks": (" \n", MALFORMED),
    "text": ("hello", MALFORMED),
    "a byte that is no UTF-8": (b'{"jsonrpc": "2.0", "method": "\xff", "id": 1}', MALFORMED),
    "half a surrogate pair": (with_id('"\\ud800"'), MALFORMED),
    "a byte order mark": (b"\xef\xbb\xbf" + PING.encode(), MALFORMED),
    "two values": (PING + PING, MALFORMED),
    "NaN": (with_id("NaN"), MALFORMED),
    "a number that nothing can hold": (with_params('{"a": 1e999}'), MALFORMED),
    "an id that nothing can hold": (with_id("1E400"), MALFORMED),
    "arrays nested without end": ("[" * 100_000, MALFORMED),
    "arrays nested deeply": ("[" * 100_000 + "]" * 100_000, MALFORMED),
    "objects nested deeply in params": (with_params('{"a":' * 50_000 + "1" + "}" * 50_000), MALFORMED),
    # what is no request
    "a string": ('"ping"', INVALID),
    "null": ("null", INVALID),
    "an object without anything": ("{}", INVALID),
    "no version": ('{"method": "ping", "id": 1}', (1, REQUEST, "invalid_request")),
    "version 1.0": ('{"jsonrpc": "1.0", "method": "ping", "id": 1}', (1, REQUEST, "invalid_request")),
    "a version that is a number": ('{"jsonrpc": 2.0, "method": "ping", "id": 1}', (1, REQUEST, "invalid_request")),
    "no method": ('{"jsonrpc": "2.0", "id": 1}', (1, REQUEST, "invalid_request")),
    "a method that is null": ('{"jsonrpc": "2.0", "method": null, "id": 1}', (1, REQUEST, "invalid_request")),
    "params that are a string": (with_params('"x"'), (1, REQUEST, "invalid_request")),
    "params that are null": (with_params("null"), (1, REQUEST, "invalid_request")),
    "a notification with params that are no structure": ('{"jsonrpc":"2.0","method":"ping","params":7}', INVALID),
    "an answer": ('{"jsonrpc": "2.0", "result": 1, "id": 1}', (1, REQUEST, "invalid_request")),
    "a batch in a batch": (f"[[{PING}]]", [INVALID]),
    # ids
    "an id that is true": (with_id("true"), INVALID),
    "an id that is an object": (with_id("{}"), INVALID),
    "an id that is an array": (with_id("[1]"), INVALID),
    "an id that is null": (with_id("null"), (None, "pong")),
    # methods and params
    "an empty method": ('{"jsonrpc": "2.0", "method": "", "id": 1}', (1, METHOD, "unknown_action")),
    "a method of the system that is none": (
        '{"jsonrpc": "2.0", "method": "rpc.x", "id": 1}',
        (1, METHOD, "unknown_action"),
    ),
    "a command that no client may give": (request("task.assign").decode(), (1, METHOD, "unknown_action")),
    "a field of the wrong type": (request("agent.list", limit="many").decode(), (1, PARAMS, "invalid_field")),
    "a field beyond its bound": (request("agent.list", limit=10**30).decode(), (1, PARAMS, "invalid_field")),
    "a field that is none": (request("agent.list", limt=1).decode(), (1, PARAMS, "unknown_field")),
    "params of ping": (request("ping", x=1).decode(), (1, PARAMS, "unknown_field")),
    "members beside those of the standard": ('{"jsonrpc":"2.0","method":"ping","id":1,"traceparent":"00-1"}', PONG),
    "a name twice: the last counts": ('{"jsonrpc":"2.0","method":"x","id":2,"method":"ping","id":1}', PONG),
    # batches
    "a batch of as many as are taken": (f"[{','.join([PING] * BATCH_MAX)}]", [PONG] * BATCH_MAX),
    "a batch of one more": (f"[{','.join([PING] * (BATCH_MAX + 1))}]", (None, REQUEST, "batch_too_long")),
    "a batch of notifications of one more": (
        f"[{','.join([NOTE] * (BATCH_MAX + 1))}]",
        (None, REQUEST, "batch_too_long"),
    ),
    "a batch with the same id twice": (f"[{PING}, {PING}]", [PONG, PONG]),
    # initialize
    "a version of the protocol that nobody speaks": (
        request("initialize", protocolVersion={"major": 3}).decode(),
        (1, PARAMS, "unsupported_protocol_version"),
    ),
    "initialize without a version": (request("initialize").decode(), (1, PARAMS, "missing_field")),
}

IDS = ["0", "-1", "7", "1.5", "1.0", "1e2", "-0", "123456789012345678901234567890", "0.1000000000000000000001"]
TEXTS = ['""', '"7"', '"\\u00e9\\n"', '"' + "x" * 5000 + '"']


# --- the ways ---------------------------------------------------------------------------------------------------------


async def _listed(query: ListAgents, _options: Struct, _principal: Principal) -> dict[str, Any]:
    return {"agents": [], "position": query.limit}


LIST = Action(name="agent.list", doc="List.", struct=ListAgents, options=QueryOptions, read_only=True, carry=_listed)
CALLS = Calls([LIST])


def session(**changed: Any) -> Session:
    given: dict[str, Any] = {"principal": Principal("key:test"), "transport": "http", "initialized": True}
    return Session(**(given | changed))


def engine(rpc: Rpc, one: Session) -> Way:
    return lambda frame: asyncio.run(rpc.answer(frame, one))


@pytest.fixture(params=["engine", "POST /api/", "POST /api/ beside the page", "/ws"])
def ask(request: pytest.FixtureRequest) -> Iterator[Way]:
    if request.param == "engine":
        yield engine(Rpc(CALLS, methods(CALLS, "1.2.3")), session())
        return
    program: RunningProgram = request.getfixturevalue("program")
    if request.param == "/ws":
        socket = OverWebSocket(program.urls["ui"], program.key)
        yield socket
        socket.close()
    else:
        yield over_http(program, program.urls["api" if request.param == "POST /api/" else "ui"])


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS)
def test_the_table(row: str, ask: Way) -> None:
    frame, expected = ROWS[row]
    assert outline(ask(frame if isinstance(frame, bytes) else frame.encode())) == expected


@pytest.mark.parametrize("text", IDS)
def test_a_number_as_id_comes_back_digit_by_digit(text: str, ask: Way) -> None:
    assert ask(with_id(text).encode()) == f'{{"jsonrpc":"2.0","id":{text},"result":"pong"}}'.encode()
    assert ask(f"[{with_id(text)}]".encode()) == f'[{{"jsonrpc":"2.0","id":{text},"result":"pong"}}]'.encode()


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_as_id_comes_back_as_the_same_text(text: str, ask: Way) -> None:
    assert outline(ask(with_id(text).encode())) == (json.loads(text), "pong")


def test_initialize_says_who_answers_and_what_it_can_do(ask: Way) -> None:
    tells = isinstance(ask, OverWebSocket)  # over HTTP nothing is told without being asked
    for version in ({"major": 1, "minor": 0, "patch": 0}, {"major": 2024, "minor": 11, "patch": 5}):
        client = {"name": "console", "version": "2.0", "title": "unknown to us"}
        frame = request("initialize", protocolVersion=version, clientInfo=client, capabilities={"streaming": True})
        result = decoded(ask(frame))["result"]
        assert result["protocolVersion"] == version
        assert result["serverInfo"]["name"] == "hivebus"
        assert result["serverInfo"]["version"]
        assert result["capabilities"]["tools"] is True
        assert result["capabilities"]["streaming"] is tells
        assert result["capabilities"]["notifications"] is tells


def test_before_initialize_a_socket_answers_nothing_else_and_stays(program: RunningProgram) -> None:
    ask = OverWebSocket(program.urls["ui"], program.key, initialize=False)
    early = (1, REQUEST, "not_initialized")
    assert [outline(ask(frame)) for frame in (PING.encode(), request("task.list"), b"{")] == [early, early, MALFORMED]
    assert ask(NOTE.encode()) is None, "and the call that shows it is initialize"
    assert outline(ask(PING.encode())) == PONG
    ask.close()


def test_a_message_over_the_bound_closes_the_socket_and_no_other(program: RunningProgram) -> None:
    one, other = (OverWebSocket(program.urls["ui"], program.key) for _ in range(2))
    assert outline(one(PING.encode().ljust(FRAME_BYTES_MAX))) == PONG
    assert outline(other(PING.encode())) == PONG
    with pytest.raises(ConnectionClosed) as closed:
        one(PING.encode().ljust(FRAME_BYTES_MAX + 1))
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009
    assert outline(other(PING.encode())) == PONG
    other.close()


# --- the engine alone -------------------------------------------------------------------------------------------------


def test_a_frame_over_the_bound_is_refused_as_a_whole() -> None:
    ask = engine(Rpc(CALLS, methods(CALLS, "1.2.3")), session())
    assert outline(ask(PING.encode().ljust(FRAME_BYTES_MAX))) == PONG
    assert outline(ask(PING.encode().ljust(FRAME_BYTES_MAX + 1))) == (None, REQUEST, "too_large")


def test_before_initialize_nothing_else_is_answered_and_the_connection_goes_on() -> None:
    one = session(transport="websocket", initialized=False)
    ask = engine(Rpc(CALLS, methods(CALLS, "1.2.3")), one)
    early = (1, REQUEST, "not_initialized")
    assert outline(ask(PING.encode())) == early
    assert outline(ask(request("foobar"))) == early
    assert ask(NOTE.encode()) is None
    assert outline(ask(b"{")) == MALFORMED
    assert outline(ask(request("initialize", protocolVersion={"major": 3}))) == (
        1,
        PARAMS,
        "unsupported_protocol_version",
    )
    assert not one.initialized
    hello = request("initialize", protocolVersion={"major": 1}, clientInfo={"name": "a"}).decode()
    first, *others = outline(ask(f"[{PING}, {hello}, {PING}, {PING}]".encode()))
    assert (first, others[1:], one.initialized, one.client) == (early, [PONG, PONG], True, "a ")


def answering(method: Callable[..., Any], **changed: Any) -> Way:
    return engine(Rpc(CALLS, {"ping": method}), session(**changed))


def test_what_breaks_is_logged_and_the_caller_learns_nothing_of_it(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(params: dict[str, Any], one: Session) -> None:
        raise ZeroDivisionError("a password")

    answer = answering(broken)(PING.encode())
    assert outline(answer) == (1, -32603, "internal")
    assert b"password" not in (answer or b"")
    assert "a password" in caplog.text


def test_a_result_that_no_json_can_say_is_a_bug_and_a_long_number_is_none(caplog: pytest.LogCaptureFixture) -> None:
    async def unspeakable(params: dict[str, Any], one: Session) -> object:
        return object()

    async def long(params: dict[str, Any], one: Session) -> int:
        return 10**30

    assert outline(answering(unspeakable)(PING.encode())) == (1, -32603, "internal")
    assert outline(answering(long)(PING.encode())) == (1, 10**30)
    assert "ping failed" in caplog.text


def test_an_error_carries_its_number_its_field_and_when_to_come_back() -> None:
    async def full(params: dict[str, Any], one: Session) -> None:
        raise TooMany("Too many.", remedy="Wait.", pointer="/x", retry_after_s=5, bound=3)

    async def draining(params: dict[str, Any], one: Session) -> None:
        raise AgentUnavailable("The agent is draining.")

    data = {"code": "too_many", "field": "/x", "reason": "Too many.", "remedy": "Wait.", "status": 429}
    assert decoded(answering(full)(PING.encode()))["error"] == {
        "code": -32002,
        "message": "Too many.",
        "data": data | {"retry_after_s": 5, "bound": 3},
    }
    assert outline(answering(draining)(PING.encode())) == (1, -32000, "agent_unavailable")


def test_an_error_does_not_repeat_a_megabyte() -> None:
    async def quoting(params: dict[str, Any], one: Session) -> None:
        raise Unprocessable(f"There is no {'x' * 100_000}.")

    error = decoded(answering(quoting)(PING.encode()))["error"]
    assert len(error["message"]) == len(error["data"]["reason"]) == SENTENCE_CHARS_MAX + len("...")


def test_a_method_of_the_connection_goes_before_one_of_all() -> None:
    async def own(params: dict[str, Any], one: Session) -> str:
        return one.principal.actor

    async def never(params: dict[str, Any], one: Session) -> str:
        raise AssertionError

    assert outline(answering(never, methods={"ping": own})(PING.encode())) == (1, "key:test")


async def test_requests_of_a_batch_run_side_by_side_within_a_bound_and_are_answered_in_order() -> None:
    begun, gate = 0, asyncio.Event()

    async def slow(params: dict[str, Any], one: Session) -> int:
        nonlocal begun
        begun += 1
        await gate.wait()
        return int(params["n"])

    rpc = Rpc(CALLS, {"slow": slow})
    batch = b"[" + b",".join(request("slow", n, n=n) for n in range(BATCH_MAX)) + b"]"
    answer = asyncio.create_task(rpc.answer(batch, session()))
    await until(lambda: begun >= IN_FLIGHT_MAX, "half of the batch")
    await quiet()
    assert begun == IN_FLIGHT_MAX
    gate.set()
    assert outline(await answer) == [(n, n) for n in range(BATCH_MAX)]


@pytest.mark.parametrize("bound", ["BEGIN_WITHIN_S", "BATCH_ANSWER_BYTES"])
def test_what_a_batch_has_no_time_or_room_for_is_not_begun(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Any] = []

    async def count(params: dict[str, Any], one: Session) -> str:
        begun.append(params)
        return "done"

    monkeypatch.setattr(entrypoints.rpc.engine, bound, 0)
    batch = b"[" + b",".join([PING.encode()] * 3 + [NOTE.encode()]) + b"]"
    assert outline(answering(count)(batch)) == [(1, -32002, "not_begun")] * 3
    assert begun == []


# --- what HTTP says before the engine is asked ------------------------------------------------------------------------


def test_what_is_wrong_with_the_http_request_is_a_problem_document(program: RunningProgram) -> None:
    url, ping = program.url, PING.encode()
    problem(post(program, url, ping, **{"Content-Type": "text/plain"}), 415, "unsupported_media_type")
    problem(post(program, url, ping, Authorization="Bearer hive_x_wrong"), 401, "unauthenticated")
    problem(post(program, url, ping, Origin="http://evil.example"), 403, "forbidden_origin")
    problem(post(program, url, ping.ljust(FRAME_BYTES_MAX + 1)), 413, "too_large")
    problem(program.request("GET", "/api/"), 405, "method_not_allowed")
    problem(
        program.request("POST", "/api/?x=1", content=ping, headers={"Content-Type": "application/json"}),
        422,
        "unknown_field",
        "/x",
    )
    tools = program.urls["tools"]
    problem(post(program, tools, ping), 404, "unknown_path")


def test_refusals_are_counted_those_of_notifications_too(program: RunningProgram) -> None:
    def count() -> float:
        lines = program.request("GET", "/metrics").text.splitlines()
        name = 'hivebus_requests_total{action="unknown",outcome="unknown_action",transport="http"} '
        return next((float(line.removeprefix(name)) for line in lines if line.startswith(name)), 0.0)

    before = count()
    post(program, program.url, b'{"jsonrpc": "2.0", "method": "foobar"}')
    post(program, program.url, b'{"jsonrpc": "2.0", "method": "foobar", "id": 1}')
    assert count() == before + 2


# --- actions through the program --------------------------------------------------------------------------------------


def test_an_action_is_a_method_with_its_options_beside_its_fields(program: RunningProgram) -> None:
    ask = over_http(program, program.url)
    task = {"type": "greet", "executor": "command", "parameters": {"argv": ["true"]}}
    first = decoded(ask(request("task.submit", **task, idempotency_key="once", wait="recorded")))["result"]
    again = decoded(ask(request("task.submit", **task, idempotency_key="once")))["result"]
    assert (again["task_id"], again["repeated"]) == (first["task_id"], True)
    other = request("task.submit", **(task | {"type": "other"}), idempotency_key="once")
    assert outline(ask(other)) == (1, -32001, "idempotency_key_reused")
    shown = decoded(ask(request("task.show", task_id=first["task_id"], at=first["position"])))["result"]
    assert (shown["type"], shown["status"]) == ("greet", "queued")
    assert outline(ask(request("task.show", task_id="nobody"))) == (1, PARAMS, "unknown_task")


def test_the_older_names_do_what_they_say(program: RunningProgram) -> None:
    ask = over_http(program, program.url)

    def idle() -> list[dict[str, Any]]:
        found = decoded(ask(request("agents/list", filter={"type": "shell", "status": "idle"})))["result"]["agents"]
        assert isinstance(found, list)
        return found

    agent_id = awaited(idle, what="an idle shell agent")[0]["id"]
    frame = request("agent/execute", agent_id=agent_id, command="greet", parameters={"argv": ["echo", "hello"]})
    answer = decoded(ask(frame))["result"]
    assert (answer["agent_id"], answer["status"], answer["estimated_start"]) == (agent_id, "queued", None)
    assert answer["unknown"]["estimated_start"]
    done = program.ended(answer["task_id"])
    assert (done["type"], done["agent_id"], done["result"]["stdout"]) == ("greet", agent_id, "hello\n")


def test_an_older_name_is_refused_with_the_place_in_its_own_params(program: RunningProgram) -> None:
    ask = over_http(program, program.url)

    def refused(method: str, **params: Any) -> tuple[int, str, str | None]:
        error = decoded(ask(request(method, **params)))["error"]
        return error["code"], error["data"]["code"], error["data"]["field"]

    assert refused("agents/list", filter={"status": "asleep"}) == (PARAMS, "invalid_field", "/filter/status")
    assert refused("agents/list", status="idle") == (PARAMS, "unknown_field", "/status")
    assert refused("agent/execute", agent_id="x", command="rm -rf") == (PARAMS, "invalid_field", "/command")
    assert refused("agent/execute", agent_id="nobody", command="x") == (PARAMS, "unknown_agent", None)
    spawned = decoded(ask(request("agent.spawn", type="shell")))["result"]["agent_id"]
    decoded(ask(request("agent.retire", agent_id=spawned)))
    frame = {"agent_id": spawned, "command": "x", "parameters": {"argv": ["true"]}}
    assert refused("agent/execute", **frame) == (-32000, "agent_unavailable", None)


# --- frames that nobody would send ------------------------------------------------------------------------------------


def test_random_frames_are_each_answered_in_due_form_or_not_at_all() -> None:
    """The real program gets more of them: `make accept ONLY=random-frames`."""
    ask = engine(Rpc(CALLS, methods(CALLS, "1.2.3")), session())
    codes = {code for frame in frames(7, 1_000) for _, *error in flat(outline(ask(frame))) for code in error[1:]}
    assert {"malformed_json", "invalid_request", "unknown_action", "invalid_field", "batch_too_long"} <= codes
    assert "internal" not in codes


def flat(told: Any) -> list[Any]:
    return told if isinstance(told, list) else [] if told is None else [told]
