"""`hivebus agent-host`: agents in a process of their own, over NATS and HTTP."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.entrypoints.problem import problem
from tests.entrypoints.program import FREE_PORTS, REPOSITORY, START_S, RunningProgram, alive, until

HOST = (sys.executable, "-c", "import sys; from entrypoints.agent_host import serve; sys.exit(serve())")


FIRST_IS_LONG = 'test "$HIVEBUS_ATTEMPT" != 1 || exec sleep 60'


class RunningHost:
    """An agent host beside a program, found by the program's data directory."""

    def __init__(self, root: Path, name: str, **settings: str) -> None:
        self.root = root
        self.name = name
        self._said = root.with_name(f"{root.name}.{name}.log")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("HIVEBUS_")}
        environment = inherited | FREE_PORTS | {"HIVEBUS_DATA_DIR": str(root), "HIVEBUS_HOST_NAME": name} | settings
        with self._said.open("ab") as said:
            self.process = subprocess.Popen(
                HOST, cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )

    @property
    def said(self) -> str:
        return self._said.read_text()

    def begun(self) -> RunningHost:
        """Once it has a session."""
        until(lambda: "runs agents now" in self.said or self.process.poll() is not None, START_S, what="the host")
        assert self.process.poll() is None, self.said
        return self

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def program(data_dir: Path) -> Iterator[RunningProgram]:
    with RunningProgram(data_dir) as running:
        yield running


@pytest.fixture
def host(program: RunningProgram) -> Iterator[RunningHost]:
    """A host elsewhere, and its agent `shell@far` is there."""
    running = RunningHost(program.root, "far")
    try:
        until(lambda: agent_of(program), START_S, what="the agent of the host elsewhere")
        yield running.begun()
    finally:
        running.close()


def agent_of(program: RunningProgram, name: str = "shell@far") -> str:
    agents = program.get("/api/agents")["agents"]
    return next((agent["id"] for agent in agents if agent["name"] == name and agent["status"] != "starting"), "")


def test_a_task_runs_on_a_host_elsewhere_with_its_own_secrets_and_large_results(
    program: RunningProgram, host: RunningHost
) -> None:
    secrets = program.root / "hosts" / "far" / "secrets"
    secrets.mkdir(mode=0o700)
    (secrets / "FAR_TOKEN").write_text("only-far-away-knows\n")
    (secrets / "FAR_TOKEN").chmod(0o600)
    script = 'test "$TOKEN" = only-far-away-knows && pwd && yes abc | head -c 100000'
    parameters = {"argv": ["sh", "-c", script], "env": {"TOKEN": {"secret": "FAR_TOKEN"}}}
    body = {"task_type": "far", "parameters": parameters}
    response = program.request("POST", f"/api/agents/{agent_of(program)}/tasks", json=body)
    assert response.status_code in (200, 202), response.text
    task = program.ended(response.json()["task_id"])
    assert task["status"] == "completed", task
    result = task["result"]
    assert result["stdout"].startswith(str(program.root / "hosts" / "far" / "workspaces"))
    blob = program.request("GET", f"/api/blobs/{result['stdout_blob']['sha256']}")
    assert (blob.status_code, len(blob.content)) == (200, result["stdout_bytes"])


def test_a_host_that_is_told_to_stop_gives_its_work_back_and_says_goodbye(
    program: RunningProgram, host: RunningHost
) -> None:
    agent_id = agent_of(program)
    body = {"task_type": "long", "parameters": {"argv": ["sh", "-c", FIRST_IS_LONG]}}
    answer = program.request("POST", f"/api/agents/{agent_id}/tasks", json=body).json()
    program.reaches(answer["task_id"], "running")
    assert host.terminate() == 0
    assert program.ended(answer["task_id"])["status"] == "completed"
    kinds = [event["type"] for event in program.events(after=0, limit=1000)]
    assert "hivebus.host.left" in kinds
    assert "hivebus.host.lost" not in kinds
    assert program.task(answer["task_id"])["attempts"][0]["outcome"] == "interrupted"


def test_what_a_killed_host_ran_runs_elsewhere_and_nothing_of_it_survives(
    program: RunningProgram, host: RunningHost
) -> None:
    body = {"task_type": "long", "parameters": {"argv": ["sh", "-c", FIRST_IS_LONG]}}
    answer = program.request("POST", f"/api/agents/{agent_of(program)}/tasks", json=body).json()
    program.reaches(answer["task_id"], "running")
    family = psutil.Process(host.process.pid).children(recursive=True)
    host.process.kill()
    host.process.wait()
    assert program.ended(answer["task_id"])["status"] == "completed"
    until(lambda: not any(alive(process.pid) for process in family), what="the ghosts to be gone")
    lost = [event for event in program.events(after=0, limit=1000) if event["type"] == "hivebus.host.lost"]
    assert [event["data"]["reason"] for event in lost] == ["its connection ended and did not come back"]


def test_two_hosts_of_one_name_on_one_machine_are_one_too_many(program: RunningProgram, host: RunningHost) -> None:
    second = RunningHost(program.root, "far")
    assert second.process.wait(START_S) == 1
    assert "Another Hivebus" in second.said
    assert host.process.poll() is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, ("No server with a broker of its own runs", "HIVEBUS_NATS_URL")),
        ({"HIVEBUS_NATS_URL": "nats://127.0.0.1:1"}, ("HIVEBUS_URL or HIVEBUS_KEY is not set", "host.key")),
        ({"HIVEBUS_HOST_NAME": "a/b"}, ("cannot name an agent host", "HIVEBUS_HOST_NAME")),
    ],
    ids=["no server", "no API", "a bad name"],
)
def test_why_a_host_cannot_start_is_said(data_dir: Path, settings: dict[str, str], words: tuple[str, ...]) -> None:
    data_dir.mkdir()
    host = RunningHost(data_dir, "far", **settings)
    assert host.process.wait(START_S) == 1
    for word in words:
        assert word in host.said


def test_an_agent_host_starts_without_what_only_a_server_needs() -> None:
    code = "import sys, entrypoints.agent_host; print(sorted({'sanic', 'sqlalchemy', 'aiosqlite'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_host_with_a_port_for_metrics_says_how_it_is_and_what_it_runs(
    program: RunningProgram, host: RunningHost
) -> None:
    [url] = re.findall(r"metrics +(http://127.0.0.1:[0-9]+)/metrics", host.said)
    assert program.client.get(f"{url}/health/live").json() == {"status": "live"}
    assert program.client.get(f"{url}/health/ready").json() == {"status": "ready"}
    assert "hivebus_host_attempts_running 0.0\n" in program.client.get(f"{url}/metrics").text
    task = program.submit("sleep", "60", agent_id=agent_of(program))
    program.reaches(task["task_id"], "running")
    text = program.client.get(f"{url}/metrics").text
    assert "hivebus_host_attempts_running 1.0\n" in text
    assert "hivebus_process_resident_memory_bytes" in text
    # What only a server knows is absent.
    assert not re.search(r"^hivebus_(tasks|log_head)", text, re.MULTILINE)
    foreign = program.client.get(f"{url}/metrics", headers={"Host": "evil.example"})
    problem(foreign, 403, "forbidden_host")


def test_a_host_without_such_a_port_listens_nowhere(program: RunningProgram) -> None:
    running = RunningHost(program.root, "quiet", HIVEBUS_METRICS_PORT="")
    try:
        running.begun()
        assert "metrics" not in running.said
        listens = [c for c in psutil.Process(running.process.pid).net_connections() if c.status == psutil.CONN_LISTEN]
        assert listens == []
    finally:
        running.close()
