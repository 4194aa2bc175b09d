"""The real program tells what it records, to sockets and to streams, and says goodbye."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram, until


@pytest.fixture
def program(data_dir: Path) -> Iterator[RunningProgram]:
    """A program of the test's own: it will not survive it."""
    with RunningProgram(data_dir) as running:
        yield running


def socket_of(program: RunningProgram, path: str = "/ws", **headers: str) -> ClientConnection:
    address = program.urls["ui"].replace("http", "ws", 1) + path
    return connect(address, additional_headers=headers, proxy=None)


def call(ws: ClientConnection, method: str, **params: Any) -> Any:
    ws.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
    answer = json.loads(ws.recv(10))
    assert "result" in answer, answer
    return answer["result"]


def test_commands_queries_and_events_go_over_one_socket_and_1012_ends_it(program: RunningProgram) -> None:
    bearer = {"Authorization": f"Bearer {program.key}"}
    with socket_of(program, **bearer) as ws:
        call(ws, "initialize", protocolVersion={"major": 1})
        status = call(ws, "system.status")
        assert status["services"]["websocket"] == "healthy"
        assert status["websocket"]["connections"] == 1
        assert "websocket" in call(ws, "system.info")["capabilities"]["supported_protocols"]
        parameters = {"argv": ["true"]}
        task = call(ws, "task.submit", type="t", executor="command", parameters=parameters, wait="recorded")
        answer = call(ws, "events/subscribe", after=0, filter={"id": task["task_id"]})
        types: list[str] = []
        last = 0
        while "hivebus.task.completed" not in types:
            params = json.loads(ws.recv(10))["params"]
            assert params["subscription_id"] == answer["subscription_id"]
            assert params["from"] == last
            last = params["to"]
            types += [event["type"] for event in params["events"]]
        assert types[:2] == ["hivebus.task.submitted", "hivebus.task.queued"]
        assert types == [event["type"] for event in program.events(id=task["task_id"])]
        program.signal(15)
        until(lambda: ended(ws), what="the socket to be closed")
        assert ws.close_code == 1012
    assert program.wait() == 0
    assert "0 connections or commands had to be cut" in program.stderr
    assert "Traceback" not in program.stderr


def ended(ws: ClientConnection) -> bool:
    with contextlib.suppress(ConnectionClosed):
        for _ in ws:
            pass
    return True


def test_a_page_with_its_cookie_comes_in_and_a_stranger_does_not(program: RunningProgram) -> None:
    with httpx.Client(base_url=program.urls["ui"], trust_env=False) as page:
        problem(page.get("/ws"), 401, "unauthenticated")
        problem(page.post("/api/ticket", json={}), 401, "unauthenticated")
        assert page.post("/api/session", json={"key": program.key}).status_code == 201
        cookie = "; ".join(f"{name}={value}" for name, value in page.cookies.items())
        origin = program.urls["ui"]
        with socket_of(program, Cookie=cookie, Origin=origin) as ws:
            call(ws, "initialize", protocolVersion={"major": 1})
        ticket = page.post("/api/ticket", json={}, headers={"Origin": origin}).json()["ticket"]
        with socket_of(program, f"/ws?ticket={ticket}", Origin=origin) as ws:
            call(ws, "initialize", protocolVersion={"major": 1})


def test_an_event_stream_follows_and_ends_with_the_program(program: RunningProgram) -> None:
    headers = {"Authorization": f"Bearer {program.key}", "Accept": "text/event-stream"}
    task_id = program.submit("true")["task_id"]
    types: list[str] = []
    with (
        httpx.Client(base_url=program.url, trust_env=False, headers=headers, timeout=10) as client,
        client.stream("GET", f"/api/events?id={task_id}") as response,
    ):
        for line in response.iter_lines():
            if line.startswith("event: "):
                types.append(line.removeprefix("event: "))
            if types[-1:] == ["hivebus.task.completed"] and program.process is not None:
                program.signal(15)
                types.append("the end")
    assert [kind for kind in types if kind != "the end"] == [
        f"hivebus.task.{verb}" for verb in ("submitted", "queued", "assigned", "completed")
    ]
    assert program.wait() == 0


def test_a_process_that_does_not_record_tells_what_another_records(data_dir: Path) -> None:
    core = RunningProgram(data_dir.with_name("core"), HIVEBUS_ROLES="recorder,scheduler,agents")
    core.settings["HIVEBUS_DATA_DIR"] = str(data_dir)
    with (
        contextlib.closing(core.launch()),
        _beside(core, data_dir) as program,
        socket_of(program, Authorization=f"Bearer {program.key}") as ws,
    ):
        call(ws, "initialize", protocolVersion={"major": 1})
        position = call(ws, "events/subscribe", filter={"noun": "task"})["position"]
        task_id = program.submit("true")["task_id"]
        types: list[str] = []
        while "hivebus.task.completed" not in types:
            params = json.loads(ws.recv(10))["params"]
            assert params["from"] == position
            position = params["to"]
            types += [event["type"] for event in params["events"]]
        assert types == [event["type"] for event in program.events(id=task_id)]


def _beside(core: RunningProgram, data_dir: Path) -> RunningProgram:
    until(lambda: "This process runs" in core.stdout, 30, what="recorder and scheduler")
    return RunningProgram(data_dir, HIVEBUS_ROLES="api")
