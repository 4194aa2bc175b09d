"""Who comes in, and from where."""

import re
import stat
import time
from typing import Any

import httpx
import pytest

from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram

CALLS = [
    ("GET", "/api/tasks"),
    ("POST", "/api/tasks"),
    ("GET", "/api/tasks/x"),
    ("DELETE", "/api/tasks/x"),
    ("GET", "/api/agents"),
    ("POST", "/api/agents"),
    ("GET", "/api/agents/x"),
    ("DELETE", "/api/agents/x"),
    ("POST", "/api/agents/x/tasks"),
    ("GET", "/api/agents/tasks"),
    ("GET", "/api/queue"),
    ("GET", "/api/info"),
    ("GET", "/api/events"),
    ("GET", "/api/blobs/" + "0" * 64),
    ("PUT", "/api/blobs/" + "0" * 64),
    ("GET", "/metrics"),
]


def ask(program: RunningProgram, method: str, path: str, listener: str = "api", **headers: str) -> httpx.Response:
    """One request from a client that knows nothing but these headers."""
    return httpx.request(
        method, program.urls[listener] + path, headers=headers, trust_env=False, verify=False, timeout=10
    )


def cookie_of(program: RunningProgram, body: dict[str, Any]) -> str:
    response = httpx.post(program.urls["ui"] + "/api/session", json=body, trust_env=False, verify=False)
    assert response.status_code == 201, response.text
    header = response.headers["set-cookie"]
    assert re.search(r"; HttpOnly", header)
    assert re.search(r"; SameSite=Strict", header)
    return header.partition(";")[0]


@pytest.mark.parametrize("listener", ["api", "ui"])
@pytest.mark.parametrize(("method", "path"), CALLS)
def test_without_the_key_nothing_is_said(program: RunningProgram, method: str, path: str, listener: str) -> None:
    response = ask(program, method, path, listener)
    problem(response, 401, "unauthenticated")
    assert response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "credentials",
    [
        "Bearer wrong",
        "Bearer",
        "Basic {key}",
        "{key}",
        "Bearer {key}x",
        "Bearer hive_00000000_{tail}",
        "bearer{key}",
    ],
)
def test_another_key_is_no_key(program: RunningProgram, credentials: str) -> None:
    header = credentials.format(key=program.key, tail=program.key.split("_", 2)[2])
    problem(ask(program, "GET", "/api/queue", Authorization=header), 401, "unauthenticated")


def test_the_scheme_is_read_in_any_case(program: RunningProgram) -> None:
    assert ask(program, "GET", "/api/queue", Authorization=f"bEARER {program.key}").status_code == 200


def test_the_key_lies_in_a_file_of_its_owner_and_stays_the_same(program: RunningProgram) -> None:
    path = program.root / "admin.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((program.root / "connection.json").stat().st_mode) == 0o600
    assert re.fullmatch(r"hive_[0-9a-f]{8}_[A-Za-z0-9_-]{40,}", program.key)
    assert program.key not in program.stderr + program.stdout
    assert program.submit("true", requires=["nobody"])
    assert program.events(type="task.submitted", wait=5)[0]["actor"] == "key:" + program.key.split("_")[1]


@pytest.mark.parametrize("path", ["/api/queue", "/api/status"])
@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:3001", "[::2]:3001", "0.0.0.0", "localhost.evil"]
)
def test_a_foreign_host_is_refused_with_the_key_and_without(program: RunningProgram, path: str, host: str) -> None:
    for headers in ({"Authorization": f"Bearer {program.key}"}, {}):
        problem(ask(program, "GET", path, Host=host, **headers), 403, "forbidden_host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:3001"])
def test_every_name_of_this_machine_is_taken(program: RunningProgram, host: str) -> None:
    assert ask(program, "GET", "/api/queue", Host=host, Authorization=f"Bearer {program.key}").status_code == 200


@pytest.mark.parametrize("path", ["/api/queue", "/api/status"])
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "", "http://127.0.0.1", "http://127.0.0.1:1", "http://ä"]
)
def test_another_sites_page_is_refused(program: RunningProgram, path: str, origin: str) -> None:
    headers: Any = {"Authorization": f"Bearer {program.key}", "Origin": origin.encode()}
    response = program.client.get(program.url + path, headers=headers)
    problem(response, 403, "forbidden_origin")
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_the_own_page_is_let_in(program: RunningProgram) -> None:
    url = program.urls["ui"]
    headers = {"Authorization": f"Bearer {program.key}", "Origin": url}
    assert program.client.get(f"{url}/api/queue", headers=headers).status_code == 200


def test_the_pages_need_no_key(program: RunningProgram) -> None:
    response = ask(program, "GET", "/", "ui")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in response.headers["content-security-policy"]
    etag = response.headers["etag"]
    assert ask(program, "GET", "/", "ui", **{"If-None-Match": etag}).status_code == 304


def test_the_link_of_the_start_becomes_a_cookie_once(program: RunningProgram) -> None:
    match = re.search(r"\?ticket=(\S+)", program.stdout)
    assert match is not None
    cookie = cookie_of(program, {"ticket": match[1]})
    assert ask(program, "GET", "/api/queue", "ui", Cookie=cookie).status_code == 200
    assert ask(program, "GET", "/api/queue", "api", Cookie=cookie).status_code == 200
    again = httpx.post(program.urls["ui"] + "/api/session", json={"ticket": match[1]}, trust_env=False, verify=False)
    problem(again, 401, "unauthenticated")
    problem(
        ask(program, "GET", "/api/queue", "ui", Cookie=cookie, Origin="http://evil.example"), 403, "forbidden_origin"
    )


def test_the_key_becomes_a_cookie_too_another_word_does_not(program: RunningProgram) -> None:
    assert ask(program, "GET", "/api/queue", "ui", Cookie=cookie_of(program, {"key": program.key})).status_code == 200
    for body in ({}, {"ticket": "x"}, {"key": "x"}, {"key": None, "ticket": None}):
        problem(
            httpx.post(f"{program.url}/api/session", json=body, trust_env=False, verify=False), 401, "unauthenticated"
        )
    problem(
        httpx.post(f"{program.url}/api/session", json={"password": "x"}, trust_env=False, verify=False),
        422,
        "unknown_field",
    )


def test_a_cookie_that_was_not_written_here_is_no_cookie(program: RunningProgram) -> None:
    good = cookie_of(program, {"key": program.key}).partition("=")[2]
    until, _, signature = good.partition(".")
    later = str(int(until) + 1)
    forged = [
        "", ".", "x", until, f"{until}.", f"{later}.{signature}", f"{until}.{signature[:-1]}", f"{until}.{'0' * 64}",
        f".{signature}", "²²²", f"{until}.ü", "9" * 5000 + ".x", f"{int(time.time()) - 5}.{signature}", "1.2.3",
    ]  # fmt: skip
    for value in forged:
        headers: Any = {"Cookie": b"hivebus_session=" + value.encode()}
        problem(program.client.get(f"{program.url}/api/queue", headers=headers), 401, "unauthenticated")


def test_the_key_of_agent_hosts_opens_blobs_and_nothing_else(program: RunningProgram) -> None:
    path = program.root / "host.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = {"Authorization": f"Bearer {path.read_text().strip()}"}
    for method, target in CALLS:
        response = ask(program, method, target, **key)
        if target.startswith("/api/blobs"):
            assert response.status_code in (404, 415), response.text
        else:
            problem(response, 403, "forbidden")
