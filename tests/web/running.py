"""The real program on free ports, as `hivebus up` starts it; a test may kill it and start it again."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

READY_S_MAX = 30.0
STOP_S_MAX = 12.0
SERVES = "import sys; from entrypoints.lifecycle import serve; sys.exit(serve())"
ROOT = Path(__file__).parents[2]


class Running:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ui_port, api_port, tools_port, metrics_port = free_ports(4)
        self.origin = f"http://127.0.0.1:{self.ui_port}"
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("HIVEBUS_")} | {
            "HIVEBUS_DATA_DIR": str(directory / "data"),
            "HIVEBUS_UI_PORT": str(self.ui_port),
            "HIVEBUS_API_PORT": str(api_port),
            "HIVEBUS_TOOLS_PORT": str(tools_port),
            "HIVEBUS_METRICS_PORT": str(metrics_port),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.link = ""

    def start(self) -> None:
        """Until it printed its link."""
        out = self.directory / "out.txt"
        with out.open("wb") as stdout, (self.directory / "err.txt").open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-c", SERVES], cwd=ROOT, env=self._environment, stdout=stdout, stderr=stderr
            )
        deadline = time.monotonic() + READY_S_MAX
        while (found := re.search(r"http://\S+\?ticket=\S+", out.read_text())) is None:
            ended = self._process.poll()
            assert ended is None, f"ended with {ended}: {(self.directory / 'err.txt').read_text()[-2000:]}"
            assert time.monotonic() < deadline, "the program printed no link"
            time.sleep(0.02)
        self.link = found[0]

    def kill(self) -> None:
        """As a crash does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(STOP_S_MAX)
        self._process = None

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    @property
    def key(self) -> str:
        return (self.directory / "data" / "admin.key").read_text().strip()

    def submit(self, *argv: str, type_: str = "hello", **fields: Any) -> str:
        """Submit a command over REST; the task's id."""
        body = {"type": type_, "executor": "command", "parameters": {"argv": argv}, **fields}
        answer = httpx.post(
            f"{self.origin}/api/tasks", json=body, headers={"Authorization": f"Bearer {self.key}"}, timeout=10
        )
        assert answer.status_code == 202, answer.text
        return str(answer.json()["task_id"])

    def ended(self, task_id: str) -> None:
        """Wait until a task has ended."""
        deadline = time.monotonic() + READY_S_MAX
        headers = {"Authorization": f"Bearer {self.key}"}
        while True:
            task = httpx.get(f"{self.origin}/api/tasks/{task_id}", headers=headers, timeout=10).json()
            if task["status"] in ("completed", "failed", "cancelled"):
                return
            assert time.monotonic() < deadline, f"the task is {task['status']}"
            time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]
