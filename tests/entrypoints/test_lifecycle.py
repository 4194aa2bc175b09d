"""The program starts when all is ready, ends without losing a request, and leaves nothing behind however it ends."""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest

from entrypoints.process import end
from tests.entrypoints.problem import problem
from tests.entrypoints.program import RunningProgram, alive, until

BODY = {"type": "load", "executor": "command", "parameters": {"argv": ["true"]}, "requires": ["nobody"]}


@pytest.fixture
def program(data_dir: Path) -> Iterator[RunningProgram]:
    """A program of the test's own: it will not survive it."""
    with RunningProgram(data_dir) as running:
        yield running


class Load:
    """Clients that post tasks until nobody answers any more, and remember what came of each request."""

    def __init__(self, program: RunningProgram, clients: int = 8) -> None:
        self._url, self._key = program.url, program.key
        self.answers: list[tuple[int, str | None]] = []
        self.lost: list[str] = []
        self._threads = [threading.Thread(target=self._post) for _ in range(clients)]

    def start(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def join(self) -> "Load":
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        return self

    def _post(self) -> None:
        with httpx.Client(
            timeout=20, trust_env=False, verify=False, headers={"Authorization": f"Bearer {self._key}"}
        ) as client:
            while True:
                try:
                    response = client.post(f"{self._url}/api/tasks", json=BODY)
                except httpx.ConnectError:
                    return  # nobody listens any more: nothing was sent
                except httpx.TransportError as error:
                    self.lost.append(repr(error))
                    return
                self.answers.append((response.status_code, response.json().get("task_id")))


def long_poll(program: RunningProgram) -> Callable[[], tuple[int, float]]:
    """Ask for events that do not come, in a thread; the code and the time it took."""
    url = f"{program.url}/api/events?after={10**9}&wait=25"
    headers, got = {"Authorization": f"Bearer {program.key}"}, []

    def ask() -> None:
        started = time.monotonic()
        code = httpx.get(url, headers=headers, timeout=40, trust_env=False, verify=False).status_code
        got.append((code, time.monotonic() - started))

    thread = threading.Thread(target=ask)
    thread.start()

    def answer() -> tuple[int, float]:
        thread.join(40)
        return got[0]

    return answer


# --- ending -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_ends_it_with_0_and_every_request_answered(program: RunningProgram, number: int) -> None:
    url = program.url
    waiting = long_poll(program)
    load = Load(program).start()
    until(lambda: len(load.answers) > 100, what="the load to run")
    started = time.monotonic()
    program.signal(number)
    assert program.wait(10) == 0
    assert time.monotonic() - started < 10
    load.join()
    assert load.lost == []
    assert {code for code, _ in load.answers} <= {202, 503}
    code, waited_s = waiting()
    assert code == 200
    assert waited_s < 20
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health/ready", trust_env=False, verify=False)
    assert program.connection == {}
    assert "Traceback" not in program.stderr

    program.start()
    acknowledged = {task_id for code, task_id in load.answers if code == 202}
    total = program.get("/api/tasks?type=load&limit=1")["pagination"]["total"]
    assert total >= len(acknowledged)
    stored = {
        row["id"]
        for offset in range(0, total, 1000)
        for row in program.get(f"/api/tasks?type=load&limit=1000&offset={offset}")["tasks"]
    }
    assert acknowledged <= stored


def test_readiness_is_red_while_it_ends(program: RunningProgram) -> None:
    task_id = program.submit("sh", "-c", "trap 'sleep 1; exit 0' TERM; while :; do sleep 0.05; done")["task_id"]
    program.reaches(task_id, "running")
    connected = httpx.Client(base_url=program.url, trust_env=False, verify=False)
    assert connected.get("/health/ready").status_code == 200
    program.signal(signal.SIGTERM)
    until(lambda: program.connection == {}, what="the end to begin")
    body = problem(connected.get("/health/ready"), 503, "not_ready")  # on the connection that was open before
    assert "stopping" in body["detail"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{connected.base_url}/health/ready", trust_env=False, verify=False)
    assert program.wait() == 0


def test_a_running_task_is_interrupted_and_runs_again_after_the_restart(program: RunningProgram) -> None:
    script = 'if [ "$HIVEBUS_ATTEMPT" = 1 ]; then sleep 300; fi; echo done'
    task_id = program.submit("sh", "-c", script)["task_id"]
    program.reaches(task_id, "running")
    started = time.monotonic()
    assert program.terminate() == 0
    assert time.monotonic() - started < 10

    program.start()
    task = program.ended(task_id)
    assert (task["status"], task["result"]["stdout"]) == ("completed", "done\n")
    assert [attempt["outcome"] for attempt in task["attempts"]] == ["interrupted", "completed"]


def test_a_task_that_does_not_listen_does_not_hold_it_up(data_dir: Path) -> None:
    with RunningProgram(data_dir, HIVEBUS_GRACE_S="1") as program:
        task_id = program.submit("sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")["task_id"]
        program.reaches(task_id, "running")
        family = [child.pid for child in program.children()]
        started = time.monotonic()
        assert program.terminate() == 0
        assert time.monotonic() - started < 6
        until(lambda: not any(alive(pid) for pid in family), what="all processes to be gone")


@pytest.mark.parametrize("delay_s", [0.4, 0.7])
def test_a_signal_during_the_start_ends_it_too(data_dir: Path, delay_s: float) -> None:
    program = RunningProgram(data_dir)
    program.launch()
    time.sleep(delay_s)
    family = [child.pid for child in program.children()]
    assert program.terminate() in (0, -signal.SIGTERM)
    until(lambda: not any(alive(pid) for pid in family), what="all processes to be gone")
    assert "Traceback" not in program.stderr


async def test_a_service_that_loses_one_cancellation_ends_all_the_same() -> None:
    """What asyncio.wait_for of Python 3.11 does when a result and a cancellation meet."""
    ended = asyncio.Event()

    async def inner() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def service() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(inner())

    task = asyncio.create_task(service())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await end([task])
    assert ended.is_set()
    assert task.cancelled()


def test_an_idle_program_ends_at_once_every_time(program: RunningProgram) -> None:
    for _ in range(2):
        started = time.monotonic()
        assert program.terminate() == 0
        assert time.monotonic() - started < 5
        program.start()


# --- being killed -----------------------------------------------------------------------------------------------------


def test_nothing_outlives_a_kill_and_the_next_start_goes_on(program: RunningProgram) -> None:
    task_id = program.submit("sh", "-c", "sleep 300 & sleep 300")["task_id"]
    program.reaches(task_id, "running")
    names = {child.name() for child in program.children()}
    family = [child.pid for child in program.children()]
    assert "nats-server" in names
    assert "sleep" in names
    program.kill()
    until(lambda: not any(alive(pid) for pid in family), what="broker, warden and task to be gone")

    program.start()
    program.reaches(task_id, "running")
    program.request("DELETE", f"/api/tasks/{task_id}")
    assert [attempt["outcome"] for attempt in program.ended(task_id)["attempts"]] == ["crashed", "cancelled"]


def stand_still(pid: int) -> None:
    """SIGSTOP, and wait until every thread has stopped: the signal alone lets the others finish what they do."""
    os.kill(pid, signal.SIGSTOP)

    def stopped() -> bool:
        states = [stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
        return all(state == "T" for state in states)

    until(stopped, what="the broker to stand still")


# --- the broker is away -----------------------------------------------------------------------------------------------


def test_a_broker_that_was_killed_is_started_again(program: RunningProgram) -> None:
    before = program.broker_pid
    assert before is not None
    acknowledged = program.submit("true", requires=["nobody"])["task_id"]
    os.kill(before, signal.SIGKILL)

    def accepted() -> bool:
        return program.request("POST", "/api/tasks", json=BODY).status_code == 202

    until(accepted, what="a submit to succeed again")
    assert program.broker_pid not in (None, before)
    assert program.task(acknowledged)["status"] == "queued"
    assert program.ended(program.submit("echo", "back")["task_id"])["status"] == "completed"
    assert httpx.get(f"{program.url}/health/ready", trust_env=False, verify=False).status_code == 200


def test_a_broker_that_stands_still_is_a_503_and_its_unknown_command_is_resolved(program: RunningProgram) -> None:
    broker = program.broker_pid
    assert broker is not None
    known = program.ended(program.submit("true")["task_id"])["id"]
    key, kind = str(uuid4()), f"unknown-{uuid4()}"
    body = BODY | {"type": kind}
    stand_still(broker)
    try:
        stopped = time.monotonic()
        unknown = program.request("POST", "/api/tasks", json=body, headers={"Idempotency-Key": key})
        assert unknown.status_code in (503, 504), unknown.text

        def red() -> httpx.Response | None:
            response = program.client.get(f"{program.url}/health/ready")
            return response if response.status_code == 503 else None

        problem(until(red, what="readiness to be red"), 503, "not_ready")
        refused = program.request("POST", "/api/tasks", json=BODY)
        problem(refused, 503, "log_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        assert time.monotonic() - stopped < 9
        started = time.monotonic()
        assert program.task(known)["status"] == "completed"
        assert program.get("/api/queue")["depth"] >= 0
        assert program.get("/api/agents")["agents"]
        assert time.monotonic() - started < 1
        status = program.client.get(f"{program.url}/api/status").json()
        assert (status["status"], status["services"]["broker"]) == ("unhealthy", "unhealthy")
        assert program.client.get(f"{program.url}/health/live").status_code == 200
    finally:
        os.kill(broker, signal.SIGCONT)

    def ready() -> bool:
        return program.client.get(f"{program.url}/health/ready").status_code == 200

    until(ready, what="readiness to come back")
    program.submit("true", type=kind, key=key, requires=["nobody"])
    assert program.ended(program.submit("true")["task_id"])["status"] == "completed"
    assert program.get(f"/api/tasks?type={kind}")["pagination"]["total"] == 1
    assert program.broker_pid == broker


def test_it_ends_although_the_broker_stands_still(data_dir: Path) -> None:
    with RunningProgram(data_dir, HIVEBUS_GRACE_S="1") as program:
        task_id = program.submit("sleep", "30")["task_id"]
        program.reaches(task_id, "running")
        family = [child.pid for child in program.children()]
        assert program.broker_pid is not None
        stand_still(program.broker_pid)
        started = time.monotonic()
        assert program.terminate() == 0
        assert time.monotonic() - started < 12
        until(lambda: not any(alive(pid) for pid in family), what="all processes to be gone")
        program.start()
        program.reaches(task_id, "running")


def processes_of(root: Path) -> list[Any]:
    """Everything that names this data directory on its command line."""
    return [
        process.info["pid"]
        for process in psutil.process_iter(["pid", "cmdline"])
        if any(str(root) in argument for argument in process.info["cmdline"] or [])
    ]


def test_a_normal_end_leaves_no_process(program: RunningProgram) -> None:
    program.ended(program.submit("sh", "-c", "(setsid sleep 300 &) ; echo left")["task_id"])
    family = [child.pid for child in program.children()]
    assert processes_of(program.root)
    assert program.terminate() == 0
    until(lambda: not any(alive(pid) for pid in family), what="all processes to be gone")
    assert [pid for pid in processes_of(program.root) if alive(pid)] == []
