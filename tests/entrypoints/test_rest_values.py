"""Values that must not lie in the log as they were said: secrets, private ones, large ones."""

import hashlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProgram]:
    """A program that finds a secret when it starts."""
    root = tmp_path_factory.mktemp("hive") / "data"
    folder = root / "secrets"
    folder.mkdir(parents=True, mode=0o700)
    file = folder / "DEPLOY"
    file.touch(mode=0o600)
    file.write_text(f"plain {secrets.token_hex(8)} words")
    with RunningProgram(root) as running:
        yield running


def files_with(root: Path, text: str) -> list[str]:
    """The files under the data directory that hold a text, as it is or in hex."""
    needles = (text.encode(), text.encode().hex().encode())
    found = []
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            if any(needle in content for needle in needles):
                found.append(str(path.relative_to(root)))
    return found


def command(argv: list[Any], **parameters: Any) -> dict[str, Any]:
    return {"type": "value", "executor": "command", "parameters": {"argv": argv} | parameters}


def secret_key() -> str:
    return f"sk-{secrets.token_hex(24)}"


def test_a_search_finds_what_is_stored(program: RunningProgram) -> None:
    """The searches below mean something: an ordinary value is found, in the log, in the store and in the views."""
    marker = f"marker{secrets.token_hex(8)}"
    program.ended(program.submit("echo", marker)["task_id"])
    places = {path.split("/")[0].split("-")[0] for path in files_with(program.root, marker)}
    assert {"nats", "store.db", "views.db"} <= places


@pytest.mark.parametrize(
    ("place", "pointer"),
    [
        (lambda text: command(["curl", "-H", f"Authorization: Bearer {text}"]), "/parameters/argv/2"),
        (lambda text: command(["deploy", "--token", text]), "/parameters/argv/2"),
        (lambda text: command(["deploy", f"--api-key={text}"]), "/parameters/argv/1"),
        (lambda text: command(["env"], env={"DATABASE_PASSWORD": text}), "/parameters/env/DATABASE_PASSWORD"),
        (lambda text: command(["cat"], stdin=f"the key is {text}, keep it"), "/parameters/stdin"),
        (
            lambda text: {
                "type": "value",
                "executor": "python",
                "parameters": {"function": "echo", "arguments": {"a": [{"client_secret": text}]}},
            },
            "/parameters/arguments/a/0/client_secret",
        ),
    ],
    ids=["key in a header", "option", "assignment", "environment", "text", "deep"],
)
def test_a_literal_secret_is_refused_and_stored_nowhere(program: RunningProgram, place: Any, pointer: str) -> None:
    text = secret_key()
    before = program.get("/api/tasks")["pagination"]["total"]
    body = problem(program.request("POST", "/api/tasks", json=place(text)), 422, "literal_secret", pointer)
    assert text not in json.dumps(body)
    marker = program.submit("true", requires=["nobody"])
    assert program.get(f"/api/tasks?min_position={marker['position']}")["pagination"]["total"] == before + 1
    assert files_with(program.root, text) == []
    assert text not in program.stderr


def test_a_known_secret_is_recognised_and_a_reference_reaches_the_task_alone(program: RunningProgram) -> None:
    value = (program.root / "secrets" / "DEPLOY").read_text()
    body = command(["sh", "-c", 'printf %s "$DEPLOY" | sha256sum'], env={"DEPLOY": {"secret": "DEPLOY"}})
    task = program.ended(program.request("POST", "/api/tasks", json=body).json()["task_id"])
    assert task["result"]["stdout"].split()[0] == hashlib.sha256(value.encode()).hexdigest()
    assert task["parameters"]["env"] == {"DEPLOY": {"secret": "DEPLOY"}}
    assert files_with(program.root, value) == ["secrets/DEPLOY"]
    problem(
        program.request("POST", "/api/tasks", json=command(["echo", value])),
        422,
        "literal_secret",
        "/parameters/argv/1",
    )


def test_a_private_value_is_in_its_blob_and_nowhere_else(program: RunningProgram) -> None:
    value = f"private {secrets.token_hex(8)}"
    body = command(["sh", "-c", 'printf %s "$WHO" | sha256sum'], env={"WHO": {"private": value}})
    headers = {"Idempotency-Key": secrets.token_hex(16)}
    first = program.request("POST", "/api/tasks", json=body, headers=headers).json()
    task = program.ended(first["task_id"])
    assert task["result"]["stdout"].split()[0] == hashlib.sha256(value.encode()).hexdigest()
    blob = task["parameters"]["env"]["WHO"]["private"]["blob"]
    assert files_with(program.root, value) == [f"blobs/{blob[:2]}/{blob}"]

    again = program.request("POST", "/api/tasks", json=body, headers=headers).json()
    assert (again["task_id"], again["repeated"]) == (first["task_id"], True)
    other = command(body["parameters"]["argv"], env={"WHO": {"private": value + "!"}})
    problem(program.request("POST", "/api/tasks", json=other, headers=headers), 409, "idempotency_key_reused")


def test_a_large_value_goes_to_a_blob_and_the_task_still_gets_it(program: RunningProgram) -> None:
    text = "ä" * 50_000
    body = command(["wc", "-c"], stdin=text)
    task = program.ended(program.request("POST", "/api/tasks", json=body).json()["task_id"])
    assert task["result"]["stdout"].strip() == "100000"
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert task["parameters"]["stdin"] == {"blob": digest, "size": 100_000}
    assert program.request("GET", f"/api/blobs/{digest}").text == text


def test_a_value_at_the_border_stays_in_the_log(program: RunningProgram) -> None:
    text = "x" * (64 * 1024)
    at_border = program.request("POST", "/api/tasks", json=command(["wc", "-c"], stdin=text)).json()
    beyond = program.request("POST", "/api/tasks", json=command(["wc", "-c"], stdin=text + "x")).json()
    assert program.ended(at_border["task_id"])["parameters"]["stdin"] == text
    assert program.ended(beyond["task_id"])["parameters"]["stdin"].keys() == {"blob", "size"}


def test_a_blob_that_was_put_feeds_a_task(program: RunningProgram) -> None:
    content = b"\0\xff" * 1000
    digest = hashlib.sha256(content).hexdigest()
    headers = {"Content-Type": "application/octet-stream"}
    assert program.request("PUT", f"/api/blobs/{digest}", content=content, headers=headers).status_code == 201
    body = command(["sha256sum"], stdin={"blob": digest, "size": len(content)})
    task = program.ended(program.request("POST", "/api/tasks", json=body).json()["task_id"])
    assert task["result"]["stdout"].split()[0] == digest


def test_a_number_beyond_64_bits_harms_nobody(tmp_path: Path) -> None:
    """Refused or kept, but never a reason for the program to end: a poisoned log would end every later start too."""
    with RunningProgram(tmp_path / "data") as program:
        for number in (2**64, -(2**63) - 1, 10**30):
            body = {"type": "x", "executor": "python", "parameters": {"function": "echo", "arguments": {"n": number}}}
            response = program.request("POST", "/api/tasks", json=body)
            if response.status_code == 202:
                task = program.ended(response.json()["task_id"])
                assert task["parameters"]["arguments"] == {"n": number}
            else:
                problem(response, 422, response.json()["code"])
            assert program.ended(program.submit("true")["task_id"])["status"] == "completed"
