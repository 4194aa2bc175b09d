"""The examples in docs/examples do what the documents say, against the real program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import nats_examples
from tests.entrypoints.program import RunningProgram, until
from tests.web.test_hivebus_js import node

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProgram]:
    with RunningProgram(tmp_path_factory.mktemp("hive") / "data") as running:
        yield running


def environment(program: RunningProgram, **more: str) -> dict[str, str]:
    return os.environ | {"HIVEBUS_URL": program.url, "HIVEBUS_KEY": program.key} | more


def submit(program: RunningProgram, *argv: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(EXAMPLES / "submit.py"), *argv]
    return subprocess.run(
        command, env=environment(program, **more), capture_output=True, text=True, timeout=50, check=False
    )


def test_submit_waits_for_the_end_and_prints_what_the_program_said(program: RunningProgram) -> None:
    done = submit(program, "echo", "good day")
    assert (done.returncode, done.stderr) == (0, "")
    said, output = done.stdout.splitlines()
    assert output == "good day"
    assert json.loads(said) | {"id": ""} == {"id": "", "status": "completed", "exit_code": 0, "error": None}


def test_submit_tells_a_failure_a_refusal_and_a_wrong_key_apart(program: RunningProgram) -> None:
    failed = submit(program, "/no/such/program")
    assert (failed.returncode, json.loads(failed.stdout)["status"]) == (1, "failed")
    refused = submit(program, "deploy", "--token=abcdefgh")
    assert (refused.returncode, refused.stderr.partition(":")[0]) == (2, "literal_secret")
    unknown = submit(program, "true", HIVEBUS_KEY="hive_0_wrong")
    assert (unknown.returncode, unknown.stderr.partition(":")[0]) == (2, "unauthenticated")


def test_submit_and_follow_prints_what_becomes_of_a_task(program: RunningProgram) -> None:
    def run(*argv: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", str(EXAMPLES / "submit_and_follow.py"), *argv]
        return subprocess.run(
            command, env=environment(program, **more), capture_output=True, text=True, timeout=50, check=False
        )

    done = run("echo", "good day")
    assert (done.returncode, done.stderr) == (0, "")
    *events, output = done.stdout.splitlines()
    assert output == "good day"
    positions = [int(line.partition(" ")[0]) for line in events]
    assert positions == sorted(positions)
    words = [line.partition(" ")[2] for line in events]
    assert (words[:2], words[-1]) == (["task.submitted", "task.queued"], "task.completed")
    failed = run("/no/such/program")
    assert (failed.returncode, failed.stderr.partition(":")[0]) == (1, "failed")
    refused = run("deploy", "--token=abcdefgh")
    assert (refused.returncode, refused.stderr.partition(":")[0]) == (2, "literal_secret")
    unknown = run("true", HIVEBUS_KEY="hive_0_wrong")
    assert (unknown.returncode, unknown.stderr.partition(":")[0]) == (2, "unauthenticated")


@pytest.mark.peers
@pytest.mark.timeout(120)
def test_follow_in_node_prints_each_event_once_through_a_restart(program: RunningProgram, tmp_path: Path) -> None:
    printed, ids = tmp_path / "events", []
    ports = {f"HIVEBUS_{name.upper()}_PORT": url.rpartition(":")[2] for name, url in program.urls.items()}
    first = program.submit("true", type="first")
    with printed.open("wb") as output, (tmp_path / "states").open("wb") as states:
        running = subprocess.Popen(
            [*node(), str(EXAMPLES / "follow.mjs"), "0"], env=environment(program), stdout=output, stderr=states
        )

        def has(task_id: str) -> bool:
            events = [json.loads(line) for line in printed.read_text().splitlines()]
            ids[:] = [event["id"] for event in events]
            ends = [event["subject"] for event in events if event["type"] == "hivebus.task.completed"]
            return f"task/{task_id}" in ends

        try:
            until(lambda: has(first["task_id"]), what="the first task's end")
            program.kill()
            program.settings |= ports
            program.start()
            second = program.submit("true", type="second")
            until(lambda: has(second["task_id"]), 30, what="the task's end after the restart")
        finally:
            running.terminate()
            running.wait(30)
    assert ids == [event["id"] for event in program.events(noun="task", limit=1000)][: len(ids)]
    said = (tmp_path / "states").read_text()
    assert "lost: " in said
    assert said.count("live\n") == 2


def test_who_follows_goes_on_behind_the_last_event_it_had(program: RunningProgram) -> None:
    first = program.submit("true", requires=["nobody"])
    command = [sys.executable, "-I", str(EXAMPLES / "follow.py"), f"{first['position']}/0"]
    following = subprocess.Popen(command, env=environment(program), stdout=subprocess.PIPE, text=True)
    try:
        assert following.stdout is not None
        lines = [following.stdout.readline()]
        second = program.submit("true", requires=["nobody"])
        lines += [following.stdout.readline() for _ in range(2)]
    finally:
        following.terminate()
        following.communicate()
    assert [line.split() for line in lines] == [
        [str(first["position"]), "hivebus.task.queued", f"task/{first['task_id']}"],
        [str(second["position"]), "hivebus.task.submitted", f"task/{second['task_id']}"],
        [str(second["position"]), "hivebus.task.queued", f"task/{second['task_id']}"],
    ]


def test_the_json_rpc_client_waits_for_the_end_and_tells_a_refusal(program: RunningProgram) -> None:
    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", str(EXAMPLES / "jsonrpc.py"), *argv]
        return subprocess.run(
            command, env=environment(program), capture_output=True, text=True, timeout=50, check=False
        )

    done = run("echo", "good day")
    assert (done.returncode, done.stdout, done.stderr) == (0, "completed\ngood day\n", "")
    refused = run("deploy", "--token=abcdefgh")
    assert (refused.returncode, refused.stderr.partition(":")[0]) == (1, "literal_secret")


@pytest.mark.peers  # curl
def test_the_calls_of_the_json_rpc_page_are_answered_as_it_says(program: RunningProgram) -> None:
    page = (EXAMPLES.parent / "how-to" / "speak-json-rpc.md").read_text()
    script = page.partition("```sh\n")[2].partition("```")[0]
    calls = "".join(line for line in script.splitlines(keepends=True) if not line.startswith("eval"))
    done = subprocess.run(
        ["sh", "-c", calls], env=environment(program), capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (0, page.partition("```json\n")[2].partition("```")[0])


@pytest.mark.peers  # curl
def test_the_event_loop_prints_each_event_once_through_a_restart(program: RunningProgram, tmp_path: Path) -> None:
    printed = tmp_path / "events"
    ports = {f"HIVEBUS_{name.upper()}_PORT": url.rpartition(":")[2] for name, url in program.urls.items()}
    first = program.submit("true", type="first")

    def types() -> list[str]:
        events = [json.loads(line) for line in printed.read_text().splitlines()]
        return [event["data"]["type"] for event in events]

    loop = ["sh", str(EXAMPLES / "events.sh"), str(first["position"] - 1), "&type=task.submitted"]
    with printed.open("wb") as output:
        running = subprocess.Popen(
            loop, env=environment(program), stdout=output, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            until(lambda: types() == ["first"], what="the first event")
            program.kill()
            program.settings |= ports
            program.start()
            program.submit("true", type="second")
            until(lambda: types() == ["first", "second"], what="the event after the restart")
        finally:
            os.killpg(running.pid, signal.SIGTERM)
            running.wait(30)


@pytest.mark.peers
@pytest.mark.timeout(420)
@pytest.mark.parametrize("language", ["python", "node"])
def test_a_ten_line_nats_program_submits_and_prints_accepted_or_the_reason(
    program: RunningProgram, tmp_path: Path, language: str
) -> None:
    command = nats_examples.python_example() if language == "python" else nats_examples.node_example(tmp_path)
    values = {name: value for name, value in nats_examples.printed(program.root).items() if name.startswith("NATS_")}
    accepted, _, task_id = nats_examples.submit(command, values, "echo", f"from {language}").partition(" ")
    assert accepted == "accepted"
    assert program.ended(task_id)["result"]["stdout"] == f"from {language}\n"
    refused = nats_examples.submit(command, values, "deploy", "--token=abcdefgh")
    assert refused == "literal_secret: This looks like a secret; the log would keep it for ever."


@pytest.mark.parametrize("name", ["nats_submit.py", "nats_submit.mjs"])
def test_the_nats_examples_are_as_short_as_they_are_said_to_be(name: str) -> None:
    lines = [line.strip() for line in (EXAMPLES / name).read_text().splitlines()]
    code = [line for line in lines if line and not line.startswith(("#", "//", "import ", "from "))]
    assert len(code) <= 10
