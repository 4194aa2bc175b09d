"""Bad input: each with its code, its sentence and its remedy, and nothing stored but what the design says."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

from tests.accept.program import Answer, Client, Program
from tests.accept.script import Figures, Options, expect, main, note

GOOD: dict[str, Any] = {"type": "x", "executor": "command", "parameters": {"argv": ["true"]}, "requires": ["nobody"]}
LITERAL = "sk-" + "a1B2" * 8


def run(options: Options) -> Figures:
    """The table of requests, the broker away, and the reasons not to start."""
    with tempfile.TemporaryDirectory() as folder:
        program = Program(Path(folder) / "data", HIVEBUS_GRACE_S="5")
        program.start()
        rows = _requests(program)
        away = _broker_away(program)
        starts = _starts(program, Path(folder))
        said = program.log.read_text()
    expect("Traceback" not in said, f"a traceback reached the user: {said[-3000:]}")
    return {"requests_refused": rows, **away, "starts_refused": starts}


# --- requests ---------------------------------------------------------------------------------------------------------


def _requests(program: Program) -> dict[str, int]:
    client = program.client()
    before = len(client.events())
    post, tasks = "POST", "/api/tasks"
    done = client.request(post, tasks, GOOD).json["task_id"]
    client.request("DELETE", f"/api/tasks/{done}")
    host = program.connection["url"].removeprefix("http://")
    table: list[tuple[str, int, Answer, str | None]] = [
        ("malformed_json", 400, client.request(post, tasks, b'{"type":'), None),
        ("unauthenticated", 401, program.client(key=False).request(post, tasks, GOOD), None),
        ("unauthenticated", 401, Client(program.connection["url"], "hive_x_wrong").request(post, tasks, GOOD), None),
        ("forbidden_origin", 403, client.request(post, tasks, GOOD, {"Origin": "http://evil.example"}), None),
        ("forbidden_host", 403, client.request(post, tasks, GOOD, {"Host": "evil.example"}), None),
        ("unknown_task", 404, client.request("GET", f"/api/tasks/{uuid4()}"), None),
        ("unknown_task", 404, client.request("DELETE", f"/api/tasks/{uuid4()}"), None),
        ("unknown_task", 404, client.request("GET", "/api/tasks/*"), None),
        ("unknown_agent", 404, client.request("DELETE", f"/api/agents/{uuid4()}"), None),
        ("unknown_path", 404, client.request("GET", "/api/nothing"), None),
        ("method_not_allowed", 405, client.request("PATCH", tasks), None),
        ("unsupported_media_type", 415, client.request(post, tasks, b"{}", {"Content-Type": "text/plain"}), None),
        ("unknown_field", 422, client.request(post, tasks, GOOD | {"typ": 1}), "/typ"),
        ("invalid_field", 422, client.request(post, tasks, GOOD | {"timeout_s": "soon"}), "/timeout_s"),
        ("invalid_field", 422, client.request(post, tasks, GOOD | {"parameters": {"argv": [1]}}), "/parameters/argv/0"),
        ("missing_field", 422, client.request(post, tasks, {"type": "x"}), "/parameters"),
        ("executor_required", 422, client.request(post, tasks, {"type": "x", "parameters": {}}), "/executor"),
        ("unknown_dependency", 422, client.request(post, tasks, GOOD | {"depends_on": ["x"]}), "/depends_on/0"),
        ("unknown_dependency", 422, client.request(post, tasks, GOOD | {"depends_on": ["@x"]}), "/depends_on/0"),
        ("unknown_parent", 422, client.request(post, tasks, GOOD | {"parent": str(uuid4())}), "/parent"),
        ("not_in_a_batch", 422, client.request(post, tasks, GOOD | {"ref": "x"}), "/ref"),
        ("unknown_limit", 422, client.request(post, tasks, GOOD | {"rate_key": "k"}), "/rate_key"),
        (
            "literal_secret",
            422,
            client.request(post, tasks, GOOD | {"parameters": {"argv": ["true"], "env": {"API_KEY": LITERAL}}}),
            "/parameters/env/API_KEY",
        ),
        ("unknown_agent_type", 422, client.request(post, "/api/agents", {"type": "wizard"}), "/type"),
    ]
    refused: Counter[str] = Counter()
    for code, status, answer, pointer in table:
        _is_problem(answer, code, status, pointer)
        refused[code] += 1
    _is_problem(_too_large(host, program.key), "too_large", 413, None)
    refused["too_large"] += 1
    stored = client.events()
    expect(len(stored) == before + 3, f"something was stored: {[event['type'] for event in stored[before:]]}")
    expect(not _holds(program.root, LITERAL.encode()), "the literal secret lies under the data directory")
    refused["illegal_transition"] = _illegal_transition(client)
    refused["idempotency_key_reused"] = _key_reused(client)
    note(f"{sum(refused.values())} requests refused with {len(refused)} codes")
    return dict(refused)


def _is_problem(answer: Answer, code: str, status: int, pointer: str | None) -> None:
    said = answer.raw[:400]
    expect(answer.status == status, f"{code}: {answer.status} instead of {status}: {said!r}")
    expect(answer.headers["content-type"] == "application/problem+json", f"{code}: {answer.headers}")
    body = answer.json
    expect(body["code"] == code and body["status"] == status, f"{code}: {said!r}")
    expect(body["detail"].endswith(".") and body.get("remedy"), f"{code} has no sentence or no remedy: {said!r}")
    expect(pointer is None or body.get("pointer") == pointer, f"{code}: pointer {body.get('pointer')} not {pointer}")
    expect("Traceback" not in answer.raw.decode(), f"{code}: a traceback")


class _Raw(Answer):
    def __init__(self, raw: bytes) -> None:
        head, _, self.raw = raw.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}


def _too_large(host: str, key: str) -> Answer:
    """Announces 2 MiB; the answer comes before the body does."""
    name, port = host.split(":")
    with socket.create_connection((name, int(port)), timeout=10) as connection:
        head = f"POST /api/tasks HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {2 << 20}\r\n\r\n"
        connection.sendall(head.encode() + b" " * 70_000)
        received = b""
        while b"}" not in received and (chunk := connection.recv(65536)):
            received += chunk
    return _Raw(received)


def _holds(root: Path, needle: bytes) -> bool:
    return any(needle in path.read_bytes() for path in root.rglob("*") if path.is_file())


def _illegal_transition(client: Client) -> int:
    """A decision that says no leaves a `command.refused`, without the payload."""
    task = {"type": "x", "executor": "python", "parameters": {"function": "noop"}}
    task_id = client.request("POST", "/api/tasks", task).json["task_id"]
    deadline = time.monotonic() + 20
    while client.get(f"/api/tasks/{task_id}")["status"] != "completed":
        expect(time.monotonic() < deadline, "the task did not complete")
        time.sleep(0.02)
    _is_problem(client.request("DELETE", f"/api/tasks/{task_id}"), "illegal_transition", 409, None)
    refusals = _eventually(client, "command.refused", 1)
    expect(refusals[-1]["data"]["target"] == task_id, f"{refusals}")
    return 1


def _key_reused(client: Client) -> int:
    key = {"Idempotency-Key": "one key"}
    client.request("POST", "/api/tasks", GOOD, key)
    _is_problem(client.request("POST", "/api/tasks", GOOD | {"name": "b"}, key), "idempotency_key_reused", 409, None)
    _is_problem(client.request("POST", "/api/agents", {"type": "shell"}, key), "idempotency_key_reused", 409, None)
    return 2


def _eventually(client: Client, kind: str, count: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 10
    while True:
        found = [event for event in client.events() if event["type"] == f"hivebus.{kind}"]
        if len(found) >= count:
            return found
        expect(time.monotonic() < deadline, f"{len(found)} of {count} {kind} events")
        time.sleep(0.05)


# --- the broker away --------------------------------------------------------------------------------------------------


def _broker_away(program: Program) -> Figures:
    """SIGSTOP: 503 with Retry-After and readiness red, reads go on; SIGCONT: as before. SIGKILL: started again."""
    client = program.client()
    broker = next(process for process in program.family() if process.name() == "nats-server")
    broker.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        while (answer := client.request("POST", "/api/tasks", GOOD)).status not in (503,):
            expect(answer.status in (202, 504), f"{answer.status} {answer.raw!r}")
            expect(time.monotonic() - began < 15, "no 503 while the broker stands still")
        _is_problem(answer, "log_unavailable", 503, None)
        expect(int(answer.headers["retry-after"]) >= 1, "no Retry-After")
        noticed_s = time.monotonic() - began
        expect(client.request("GET", "/health/ready").status == 503, "ready without a broker")
        expect(client.request("GET", "/health/live").status == 200, "not live without a broker")
        expect(client.request("GET", "/api/tasks").status == 200, "reads fail without a broker")
        expect(program.client(key=False).request("GET", "/api/status").json["status"] == "unhealthy", "healthy?")
    finally:
        broker.send_signal(signal.SIGCONT)
    back_s = _accepts_again(client)
    broker.kill()
    psutil.wait_procs([broker], timeout=5)
    killed_s = _accepts_again(client)
    return {
        "broker_stopped_noticed_s": round(noticed_s, 1),
        "accepted_again_after_continue_s": round(back_s, 2),
        "accepted_again_after_kill_s": round(killed_s, 2),
    }


def _accepts_again(client: Client) -> float:
    began = time.monotonic()
    while True:
        answer = client.request("POST", "/api/tasks", GOOD)
        if answer.status == 202 and client.request("GET", "/health/ready").status == 200:
            return time.monotonic() - began
        expect(answer.status in (202, 503, 504), f"{answer.status} {answer.raw!r}")
        expect(time.monotonic() - began < 30, "the broker is back and nothing is accepted")
        time.sleep(0.05)


# --- reasons not to start ---------------------------------------------------------------------------------------------


def _starts(program: Program, folder: Path) -> list[str]:
    refused = []

    def refuse(name: str, words: tuple[str, ...], **settings: str) -> None:
        environment = program.environment() | settings
        done = subprocess.run(
            [sys.executable, "-m", "entrypoints", "up"], env=environment, capture_output=True, timeout=60, check=False
        )
        said = (done.stdout + done.stderr).decode()
        expect(done.returncode == 1, f"{name}: exit {done.returncode}: {said[-500:]}")
        expect("Traceback" not in said, f"{name}: {said[-1500:]}")
        expect(all(word in said for word in words), f"{name}: {words} are not all in: {said[-800:]}")
        refused.append(name)

    port = program.connection["url"].rpartition(":")[2]
    refuse("second program", ("Another Hivebus", str(program.pid), "HIVEBUS_DATA_DIR"))
    other = str(folder / "other")
    refuse("port in use", (port, str(program.pid), "HIVEBUS_API_PORT"), HIVEBUS_DATA_DIR=other, HIVEBUS_API_PORT=port)
    file = folder / "file"
    file.write_text("")
    refuse("unwritable data directory", ("cannot be written", "HIVEBUS_DATA_DIR"), HIVEBUS_DATA_DIR=str(file / "x"))
    refuse("misspelt setting", ("HIVEBUS_API_PROT", "HIVEBUS_API_PORT"), HIVEBUS_DATA_DIR=other, HIVEBUS_API_PROT="1")
    refuse("bad value", ("HIVEBUS_SLOTS",), HIVEBUS_DATA_DIR=other, HIVEBUS_SLOTS="many")
    program.terminate()
    _tamper(program.root / "store.db")
    refuse("diverged log", ("store", "log", "differ"))
    return refused


def _tamper(path: Path) -> None:
    """The newest commit as another history would have it."""
    store = sqlite3.connect(path)
    store.execute("UPDATE commits SET leaf = ? WHERE position = (SELECT max(position) FROM commits)", (os.urandom(32),))
    store.commit()
    store.close()


if __name__ == "__main__":
    main("bad-input", run)
