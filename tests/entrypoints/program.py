"""The real program as a subprocess: started, asked, killed, started again. Used by tests and by acceptance scripts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
import psutil

REPOSITORY = Path(__file__).parents[2]
COMMAND = (sys.executable, "-c", "import sys; from entrypoints.lifecycle import serve; sys.exit(serve())")
FREE_PORTS = {f"HIVEBUS_{name}_PORT": "0" for name in ("API", "UI", "TOOLS", "METRICS")}

START_S = 30.0
STOP_S = 30.0
WAIT_S = 15.0
STEP_S = 0.01
TAIL_CHARS = 8000

FINAL = ("completed", "failed", "cancelled", "expired")

T = TypeVar("T")


class NotStarted(AssertionError):
    """The program ended, or did not get ready, instead of serving."""


class RunningProgram:
    """One data directory and the program on it, if it runs. As a context manager it leaves nothing running.

    `settings` are environment variables beside the free ports. What the program writes to its streams is kept beside
    the data directory, never in it, so that a search for a secret under the directory meets only what is stored.
    """

    def __init__(self, root: Path, **settings: str) -> None:
        self.root = root
        self.settings = settings
        self.process: subprocess.Popen[bytes] | None = None
        # Everything here is plain HTTP on loopback: loading the certificates would cost more than most requests.
        self.client = httpx.Client(timeout=40.0, trust_env=False, verify=False)
        self._streams = {name: root.with_name(f"{root.name}.{name}") for name in ("stdout", "stderr")}

    def __enter__(self) -> RunningProgram:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        finally:
            if error is not None:
                print(f"--- stderr of the program on {self.root}\n{self.stderr[-TAIL_CHARS:]}", file=sys.stderr)

    # --- its life ---

    def launch(self) -> RunningProgram:
        """Start the process without waiting for anything."""
        assert self.process is None or self.process.poll() is not None, "it runs already"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HIVEBUS_")}
        environment = inherited | FREE_PORTS | {"HIVEBUS_DATA_DIR": str(self.root)} | self.settings
        self.root.parent.mkdir(parents=True, exist_ok=True)
        with self._streams["stdout"].open("ab") as stdout, self._streams["stderr"].open("ab") as stderr:
            self.process = subprocess.Popen(
                COMMAND, cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
            )
        return self

    def start(self) -> RunningProgram:
        """Start, and return when it is ready. Raises NotStarted with what it said."""
        self.launch()
        until(self._is_up, START_S, what="the program to be ready", step_s=0.005)
        return self

    def _is_up(self) -> bool:
        assert self.process is not None
        code = self.process.poll()
        if code is not None:
            raise NotStarted(f"The program ended with {code}:\n{self.stderr[-TAIL_CHARS:]}")
        return self.connection.get("pid") == self.process.pid

    def signal(self, number: int) -> None:
        """Send a signal to the program, and to nobody else."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Its exit code, once it has ended."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL: nothing of it gets a last word."""
        self.signal(signal.SIGKILL)
        self.wait()

    def restart(self) -> RunningProgram:
        """End it if it runs, and start it on the same data."""
        if self.process is not None and self.process.poll() is None:
            self.terminate()
        return self.start()

    def refused(self) -> str:
        """Start, expect exit code 1 before it is ready, and return what this start said on stderr."""
        before = len(self.stderr)
        self.launch()
        try:
            code = self.wait(START_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"It started instead of refusing:\n{self.stderr[before:]}") from None
        assert code == 1, self.stderr[before:]
        return self.stderr[before:]

    def close(self) -> None:
        """Leave nothing running: SIGTERM, and SIGKILL for what does not end."""
        self.client.close()
        if self.process is None or self.process.poll() is not None:
            return
        broker = self.broker_pid
        if broker:
            _quietly(broker, signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"The program did not end after SIGTERM:\n{self.stderr[-TAIL_CHARS:]}") from None

    # --- what is known of it ---

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def broker_pid(self) -> int | None:
        """The nats-server of this data directory, if the program has one."""
        return next((child.pid for child in self.children() if child.name() == "nats-server"), None)

    def children(self) -> list[psutil.Process]:
        """All processes beneath it."""
        try:
            found: list[psutil.Process] = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return found

    @property
    def stderr(self) -> str:
        return self._said("stderr")

    @property
    def stdout(self) -> str:
        return self._said("stdout")

    def _said(self, name: str) -> str:
        path = self._streams[name]
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def connection(self) -> dict[str, Any]:
        """connection.json; empty while there is none."""
        try:
            content: dict[str, Any] = json.loads((self.root / "connection.json").read_text())
        except FileNotFoundError:
            return {}
        return content

    @property
    def url(self) -> str:
        return str(self.connection["url"])

    @property
    def urls(self) -> dict[str, str]:
        """Each listener's address: api, ui, tools, metrics."""
        content = self.connection
        fields = {"api": "url", "ui": "ui_url", "tools": "tools_url", "metrics": "metrics_url"}
        return {name: content[field] for name, field in fields.items()}

    @property
    def key(self) -> str:
        return (self.root / "admin.key").read_text().strip()

    # --- asking it ---

    def request(self, method: str, path: str, *, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        """One request to the API with the key; `path` may be a whole address."""
        address = path if path.startswith("http") else self.url + path
        return self.client.request(
            method, address, headers={"Authorization": f"Bearer {self.key}"} | (headers or {}), **more
        )

    def get(self, path: str, **more: Any) -> dict[str, Any]:
        """The body of a GET that must succeed."""
        response = self.request("GET", path, **more)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def submit(self, *argv: str, key: str | None = None, **fields: Any) -> dict[str, Any]:
        """Submit a command task that must be accepted; its answer."""
        body = {"type": "test", "executor": "command", "parameters": {"argv": list(argv)}} | fields
        headers = {"Idempotency-Key": key} if key else {}
        response = self.request("POST", "/api/tasks", json=body, headers=headers)
        assert response.status_code == 202, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def task(self, task_id: str) -> dict[str, Any]:
        return self.get(f"/api/tasks/{task_id}")

    def ended(self, task_id: str, timeout_s: float = WAIT_S) -> dict[str, Any]:
        """The task, once it has ended one way or another."""
        return self.reaches(task_id, *FINAL, timeout_s=timeout_s)

    def reaches(self, task_id: str, *statuses: str, timeout_s: float = WAIT_S) -> dict[str, Any]:
        """The task, once it has one of these statuses."""

        def look() -> dict[str, Any] | None:
            task = self.task(task_id)
            return task if task["status"] in statuses else None

        return until(look, timeout_s, what=f"task {task_id} to be {' or '.join(statuses)}")

    def events(self, **query: Any) -> list[dict[str, Any]]:
        """One page of events."""
        response = self.request("GET", "/api/events", params=query)
        assert response.status_code == 200, response.text
        return [json.loads(line) for line in response.text.splitlines()]


def until(condition: Callable[[], T | None], timeout_s: float = WAIT_S, *, what: str, step_s: float = STEP_S) -> T:
    """The condition's first true value. Raises AssertionError after the deadline."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain for {what}"
        time.sleep(step_s)
    return value


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _quietly(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
