"""Whatever is sent, the answer is a problem document that says what is wrong; nothing a caller sends is a 5xx."""

import json
import random
import socket
from typing import Any

import httpx
import pytest

from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram

JSON = {"Content-Type": "application/json"}
GOOD: dict[str, Any] = {"type": "x", "executor": "command", "parameters": {"argv": ["true"]}}
PYTHON = b'{"type":"x","executor":"python","parameters":{"function":"echo","arguments":{"n":%b}}}'


def post(program: RunningProgram, body: bytes, path: str = "/api/tasks") -> httpx.Response:
    return program.request("POST", path, content=body, headers=JSON)


def raw(program: RunningProgram, sent: bytes) -> bytes:
    """What comes back for bytes on the wire; @HOST and @KEY in them are replaced."""
    host, port = program.url.removeprefix("http://").split(":")
    sent = sent.replace(b"@HOST", f"{host}:{port}".encode()).replace(b"@KEY", program.key.encode())
    received = b""
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass
    return received


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer.split(b" ", 2)[1])


# --- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"type":}',
        b"nothing",
        b"\xff\xfe",
        b'{"type":"\xff"}',
        b'{"type":"\\ud800"}',
        b'{"type":NaN}',
        b'{"type":Infinity}',
        b'{"type":01}',
        json.dumps(GOOD).encode() + b" {}",
        b'{"type":"x",}',
        b"{'type':'x'}",
        b"\xef\xbb\xbf{}",
        b"{" * 10_000,
        PYTHON % (b"[" * 10_000 + b"]" * 10_000),
        PYTHON % (b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_no_json_is_a_400(program: RunningProgram, body: bytes) -> None:
    problem(post(program, body), 400, "malformed_json")


@pytest.mark.parametrize("body", [b"null", b"17", b'"x"', b"true", b"1e5"])
def test_json_that_is_no_object_is_a_422(program: RunningProgram, body: bytes) -> None:
    problem(post(program, body), 422, "invalid_field", "")


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"bogus": 1}, "unknown_field", "/bogus"),
        ({"a/b~c": 1}, "unknown_field", "/a~1b~0c"),
        ({"type": None}, "invalid_field", "/type"),
        ({"type": ""}, "invalid_field", "/type"),
        ({"type": "two words"}, "invalid_field", "/type"),
        ({"type": "x" * 101}, "invalid_field", "/type"),
        ({"parameters": []}, "invalid_field", "/parameters"),
        ({"parameters": {}}, "missing_field|invalid_field", "/parameters/argv"),
        ({"parameters": {"argv": []}}, "invalid_field", "/parameters/argv"),
        ({"parameters": {"argv": "ls -l"}}, "invalid_field", "/parameters/argv"),
        ({"parameters": {"argv": ["a", 1]}}, "invalid_field", "/parameters/argv/1"),
        ({"parameters": {"argv": [""]}}, "invalid_field", "/parameters/argv/0"),
        ({"parameters": {"argv": ["a\0b"]}}, "invalid_field", "/parameters/argv/0"),
        ({"parameters": {"argv": ["a"], "shell": True}}, "invalid_field", "/parameters/shell"),
        ({"parameters": {"argv": ["a"], "stdin": {"blob": "x"}}}, "invalid_field", "/parameters/stdin/blob"),
        ({"parameters": {"argv": ["a", {"secret": "TOKEN"}]}}, "invalid_field", "/parameters/argv/1"),
        ({"executor": "rocket"}, "unknown_executor", "/executor"),
        ({"executor": None}, "executor_required", "/executor"),
        ({"executor": None, "agent_type": "poet"}, "unknown_agent_type", "/agent_type"),
        ({"priority": "urgent"}, "invalid_field", "/priority"),
        ({"priority": 10}, "invalid_field", "/priority"),
        ({"priority": -1}, "invalid_field", "/priority"),
        ({"priority": 1.5}, "invalid_field", "/priority"),
        ({"priority": 10**30}, "invalid_field", "/priority"),
        ({"timeout_s": 0}, "invalid_field", "/timeout_s"),
        ({"timeout_s": 1e300}, "invalid_field", "/timeout_s"),
        ({"timeout_s": "60"}, "invalid_field", "/timeout_s"),
        ({"retry": {"max_attempts": 0}}, "invalid_field", "/retry/max_attempts"),
        ({"retry": {"max_attempts": 3, "bogus": 1}}, "unknown_field", "/retry/bogus"),
        ({"retry": {"non_retryable": ["sad"]}}, "invalid_field", "/retry/non_retryable/0"),
        ({"requires": ["shell", "no good"]}, "invalid_field", "/requires/1"),
        ({"requires": ["x"] * 33}, "invalid_field", "/requires"),
        ({"labels": {"a": 1}}, "invalid_field", "/labels"),
        ({"name": "n" * 201}, "invalid_field", "/name"),
        ({"agent_id": ""}, "invalid_field", "/agent_id"),
        ({"depends_on": ["a"]}, "unknown_dependency", "/depends_on/0"),
        ({"on_dependency_failure": "shrug"}, "invalid_field", "/on_dependency_failure"),
        ({"parent": "a"}, "unknown_parent", "/parent"),
        ({"fairness_key": ""}, "invalid_field", "/fairness_key"),
        ({"concurrency_key": "k" * 201}, "invalid_field", "/concurrency_key"),
        ({"rate_key": "k"}, "unknown_limit", "/rate_key"),
        ({"deadline": "2020-01-01T00:00:00Z"}, "deadline_passed", "/deadline"),
        (
            {"deadline": "2090-01-01T00:00:00Z", "not_before": "2091-01-01T00:00:00Z"},
            "deadline_before_start",
            "/deadline",
        ),
        ({"not_before": "tomorrow"}, "invalid_field", "/not_before"),
        ({"queue_timeout_s": 0}, "invalid_field", "/queue_timeout_s"),
        ({"total_timeout_s": -1}, "invalid_field", "/total_timeout_s"),
        ({"silence_timeout_s": 0}, "invalid_field", "/silence_timeout_s"),
        ({"max_tokens": 0}, "zero_budget", "/max_tokens"),
        ({"max_cost": -0.5}, "zero_budget", "/max_cost"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_a_field_that_does_not_fit_is_a_422_that_points_at_it(
    program: RunningProgram, change: dict[str, Any], code: str, pointer: str
) -> None:
    response = post(program, json.dumps(GOOD | change).encode())
    assert response.status_code == 422, response.text
    assert response.json()["code"] in code.split("|")
    problem(response, 422, response.json()["code"], pointer)


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"9" * 5000])
def test_a_number_that_no_machine_holds_is_a_422(program: RunningProgram, number: bytes) -> None:
    problem(post(program, PYTHON % number), 422, "invalid_field", "/parameters")


def test_nesting_is_bounded_and_the_pointer_says_where(program: RunningProgram) -> None:
    body = problem(post(program, PYTHON % (b"[" * 40 + b"]" * 40)), 422, "too_deep")
    assert body["pointer"].startswith("/parameters/arguments/n/0/0")


def test_the_last_of_two_equal_keys_counts(program: RunningProgram) -> None:
    body = b'{"type":"first","type":"second","executor":"command","parameters":{"argv":["true"]},"requires":["nobody"]}'
    task_id = post(program, body).json()["task_id"]
    assert program.task(task_id)["type"] == "second"


@pytest.mark.parametrize(
    "media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "\xff"]
)
@pytest.mark.parametrize("path", ["/api/tasks", "/api/agents", "/api/session", "/api/agents/nobody/tasks"])
def test_a_body_that_a_page_could_send_is_a_415(program: RunningProgram, path: str, media: str) -> None:
    headers: Any = {"Authorization": f"Bearer {program.key}", "Content-Type": media.encode("latin-1")}
    body = problem(
        program.client.post(program.url + path, content=json.dumps(GOOD), headers=headers),
        415,
        "unsupported_media_type",
    )
    assert "application/json" in body["remedy"]


# --- the wire ---------------------------------------------------------------------------------------------------------

KEYED = b"Host: @HOST\r\nAuthorization: Bearer @KEY\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/9\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /api/\xff HTTP/1.1\r\n" + KEYED + b"\r\n", 400),
        (b"GET /api/tasks?x=\xff HTTP/1.1\r\n" + KEYED + b"\r\n", 400),
        (b"GET /api/tasks HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST /api/tasks HTTP/1.1\r\n" + KEYED + b"Content-Length: -5\r\n\r\n", 400),
        (b"POST /api/tasks HTTP/1.1\r\n" + KEYED + b"Content-Length: many\r\n\r\n", 400),
        (b"POST /api/tasks HTTP/1.1\r\n" + KEYED + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (
            b"POST /api/tasks HTTP/1.1\r\n"
            + KEYED
            + b"Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\nzz\r\n",
            400,
        ),
        (b"POST /api/tasks HTTP/1.1\r\n" + KEYED + b"Expect: cake\r\nContent-Length: 2\r\n\r\n{}", 400),
        (b"GET /api/tasks/" + b"x" * 20_000 + b" HTTP/1.1\r\n" + KEYED + b"\r\n", 431),
        (b"GET /api/tasks HTTP/1.1\r\n" + KEYED + b"X-Long: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /api/tasks HTTP/1.1\r\nHost: @HOST\r\nAuthorization: Bearer \xff\xfe\r\n\r\n", 401),
        (b"GET /api/tasks HTTP/1.1\r\nHost: @HOST\r\nAuthorization: \xff\r\n\r\n", 401),
        (b"GET /api/tasks HTTP/1.1\r\nHost: \xff\r\nAuthorization: Bearer @KEY\r\n\r\n", 403),
        (b"GET /api/tasks HTTP/1.1\r\nAuthorization: Bearer @KEY\r\n\r\n", 403),
        (b"GET /api/tasks HTTP/1.1\r\nOrigin: http://\xff\r\n" + KEYED + b"\r\n", 403),
        (b"POST /api/tasks HTTP/1.1\r\n" + KEYED + b"Content-Type: \xff\r\nContent-Length: 2\r\n\r\n{}", 415),
        (
            b"POST /api/tasks HTTP/1.1\r\n" + KEYED + b"Content-Type: application/json\r\nIdempotency-Key: \xff\r\n"
            b"Content-Length: 2\r\n\r\n{}",
            400,
        ),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else "",
)
def test_broken_http_is_answered_in_kind(program: RunningProgram, sent: bytes, status: int) -> None:
    answer = raw(program, sent)
    assert status_of(answer) == status, answer
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    document = json.loads(body)
    assert document.keys() >= {"type", "title", "status", "code", "detail", "remedy"}
    assert document["status"] == status


# --- at random --------------------------------------------------------------------------------------------------------

PATHS = [
    "/api/tasks", "/api/tasks/{}", "/api/agents", "/api/agents/{}", "/api/agents/{}/tasks", "/api/agents/tasks",
    "/api/queue", "/api/status", "/api/info", "/api/events", "/api/blobs/{}", "/api/session", "/health/ready", "/{}",
    "/metrics", "/api/{}/{}",
]  # fmt: skip
METHODS = ["GET", "GET", "POST", "POST", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]
NAMES = ["limit", "offset", "at", "min_position", "after", "wait", "status", "type", "id", "noun", "bogus", "%ff"]
ATOMS: list[Any] = [None, True, 0, -1, 2**63 - 1, -(2**63), 1e308, "", "x", "*", "a.b", "é\0", "²", "x" * 300, [], {}]
WORDS = [
    "", "0", "1", "-1", "²", "1e3", "*", ">", "a.b", "%00", "%2e%2e", "%ff", "nul\0"[:3], "9" * 30, "x" * 200,
    "2026-01-01T00:00:00Z", "2026-99-99T00:00:00Z", "recorded", "queued", "💥", "a b", "'", '"', "<script>", "{}", "//",
]  # fmt: skip
FIELDS = [*GOOD, "requires", "retry", "labels", "name", "timeout_s", "priority", "task_type", "slots", "ticket", "key"]
HEADERS = [
    "Idempotency-Key",
    "X-Correlation-Id",
    "Prefer",
    "Content-Type",
    "Cookie",
    "Origin",
    "If-None-Match",
    "Range",
]


def a_value(draw: random.Random, depth: int = 0) -> Any:
    if depth < 3 and draw.random() < 0.3:
        if draw.random() < 0.5:
            return [a_value(draw, depth + 1) for _ in range(draw.randrange(4))]
        return {draw.choice(FIELDS + WORDS): a_value(draw, depth + 1) for _ in range(draw.randrange(4))}
    return draw.choice(ATOMS + WORDS)


def a_body(draw: random.Random) -> bytes:
    body = GOOD | {"requires": ["nobody"]} | {draw.choice(FIELDS): a_value(draw) for _ in range(draw.randrange(3))}
    encoded = json.dumps(draw.choice([body, body, [body, a_value(draw)], a_value(draw)])).encode()
    if draw.random() < 0.3:  # one byte is another one, or it ends early
        cut = draw.randrange(len(encoded) + 1)
        encoded = encoded[:cut] + draw.randbytes(1) + encoded[cut + 1 :] if draw.random() < 0.5 else encoded[:cut]
    return encoded


def test_nothing_that_anybody_sends_is_an_error_of_ours(program: RunningProgram) -> None:
    draw = random.Random(20260131)
    seen = set()
    for number in range(400):
        path = draw.choice(PATHS)
        while "{}" in path:
            path = path.replace("{}", draw.choice(WORDS).replace("?", "").replace("{}", "x"), 1)
        query = "&".join(f"{draw.choice(NAMES)}={draw.choice(WORDS)}" for _ in range(draw.randrange(3)))
        if "wait=1" in query:
            query = ""  # a long poll is no bad input
        headers: Any = {draw.choice(HEADERS): draw.choice(WORDS).encode() for _ in range(draw.randrange(3))}
        headers = {"Content-Type": draw.choice(["application/json"] * 3 + ["application/x-ndjson"])} | headers
        method, body = draw.choice(METHODS), a_body(draw)
        try:
            response = program.client.request(
                method,
                f"{program.url}{path}?{query}",
                content=body,
                headers={"Authorization": f"Bearer {program.key}"} | headers,
            )
        except (httpx.InvalidURL, httpx.LocalProtocolError):
            continue  # the client itself would not send it
        case = (number, method, path, query, headers, body, response.status_code, response.text)
        assert response.status_code < 500 or response.json()["code"] == "not_yet", case
        if response.status_code >= 400 and method != "HEAD":
            assert response.headers["content-type"] == "application/problem+json", case
            assert response.json().keys() >= {"type", "title", "status", "code", "detail", "remedy"}, case
        seen.add(response.status_code)
    assert seen >= {200, 202, 400, 404, 405, 415, 422}
    assert "hivebus.http" not in program.stderr


def test_random_bytes_on_the_wire_do_no_harm(program: RunningProgram) -> None:
    draw = random.Random(20260201)
    whole = b"POST /api/tasks HTTP/1.1\r\n" + KEYED + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    for _ in range(60):
        sent = bytearray(whole)
        for _ in range(draw.randrange(1, 6)):
            sent[draw.randrange(len(sent))] = draw.randrange(256)
        answer = raw(program, bytes(sent))
        assert not answer or 400 <= status_of(answer) < 500, (bytes(sent), answer)
    assert "hivebus.http" not in program.stderr  # whoever logs there had no answer of its own
    assert program.get("/api/status")["status"] == "healthy"
