"""The real program as a process of its own, and a plain client for it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psutil

START_S_MAX = 30.0


class Answer:
    """A response: status, headers and the body as JSON where it is."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.raw = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.raw.splitlines() if line]


class Client:
    """One connection of one thread, opened again when it broke."""

    def __init__(self, url: str, key: str | None, timeout_s: float = 40.0) -> None:
        self._address = urlsplit(url)
        self._key = key
        self._timeout_s = timeout_s
        self._connection: http.client.HTTPConnection | None = None

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """Send once. Raises OSError or HTTPException when the connection breaks."""
        sent = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        sent |= headers or {}
        if self._connection is None:
            assert self._address.hostname is not None
            self._connection = http.client.HTTPConnection(
                self._address.hostname, self._address.port, timeout=self._timeout_s
            )
        try:
            self._connection.request(method, path, data, sent)
            return Answer(self._connection.getresponse())
        except (OSError, http.client.HTTPException):
            self.close()
            raise

    def get(self, path: str) -> Any:
        """GET and its JSON; raises RuntimeError for anything but 200."""
        answer = self.request("GET", path)
        if answer.status != 200:
            raise RuntimeError(f"GET {path}: {answer.status} {answer.raw[:300]!r}")
        return answer.json

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def events(self, after: int = 0, **filters: str) -> list[dict[str, Any]]:
        """All events after a position, page by page, to the end of what is recorded now."""
        query = "".join(f"&{name}={value}" for name, value in filters.items())
        found: list[dict[str, Any]] = []
        while True:
            answer = self.request("GET", f"/api/events?after={after}&limit=1000{query}")
            assert answer.status == 200, answer.raw
            found += answer.lines
            following = int(answer.headers["hivebus-next"])
            if following == after:
                return found
            after = following


class Program:
    """`hivebus up` on a data directory; ports are free ones and kept over restarts."""

    def __init__(self, root: Path, **settings: str) -> None:
        self.root = root
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self.log = root.parent / f"{root.name}.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.terminate()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def connection(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / "connection.json").read_text())
        return found

    @property
    def key(self) -> str:
        return (self.root / "admin.key").read_text().strip()

    def environment(self) -> dict[str, str]:
        """The environment of the program, and of command lines that shall find it."""
        ports = {f"HIVEBUS_{name}_PORT": "0" for name in ("API", "UI", "TOOLS", "METRICS")}
        return os.environ | ports | {"HIVEBUS_DATA_DIR": str(self.root), **self._settings}

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start without waiting: a process without the role `api` says nowhere that it is ready."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "entrypoints", "up"], env=self.environment(), stdout=log, stderr=log
            )

    def start(self) -> float:
        """Start and wait until it is ready; the seconds it took."""
        (self.root / "connection.json").unlink(missing_ok=True)
        began = time.monotonic()
        self.launch()
        assert self._process is not None
        while time.monotonic() - began < START_S_MAX:
            if self._process.poll() is not None:
                break
            if (self.root / "connection.json").exists() and self._is_ready():
                self._keep_ports()
                return time.monotonic() - began
            time.sleep(0.005)
        raise RuntimeError(f"the program did not start:\n{self.log.read_text()[-3000:]}")

    def client(self, *, key: bool = True) -> Client:
        return Client(self.connection["url"], self.key if key else None)

    def command(
        self, *words: str, stdin: bytes | None = None, timeout_s: float = 900.0
    ) -> subprocess.CompletedProcess[bytes]:
        """A command line beside the program."""
        return subprocess.run(
            [sys.executable, "-m", "entrypoints", *words],
            env=self.environment(),
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )

    def family(self) -> list[psutil.Process]:
        """The program and everything that it started."""
        own = psutil.Process(self.pid)
        return [own, *own.children(recursive=True)]

    def kill(self) -> None:
        """SIGKILL, to the program alone: its children must die by themselves."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def terminate(self, timeout_s: float = 20.0) -> int:
        """SIGTERM; the exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def _is_ready(self) -> bool:
        try:
            return self.client(key=False).request("GET", "/health/ready").status == 200
        except (OSError, ValueError, http.client.HTTPException):
            return False

    def _keep_ports(self) -> None:
        urls = {"API": "url", "UI": "ui_url", "TOOLS": "tools_url", "METRICS": "metrics_url"}
        for name, field in urls.items():
            self._settings[f"HIVEBUS_{name}_PORT"] = str(urlsplit(self.connection[field]).port)


def gone(processes: list[psutil.Process], within_s: float) -> list[psutil.Process]:
    """Those of the processes that still run after the time."""
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
