"""Agent hosts as processes of their own, beside a program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from tests.accept.program import Client
from tests.accept.script import expect

BEGIN_S_MAX = 30.0


class Host:
    """`hivebus agent-host` on a data directory. `settings` are environment variables beside it."""

    def __init__(self, root: Path, name: str, **settings: str) -> None:
        self.root = root
        self.name = name
        self.log = root.parent / f"{root.name}.{name}.log"
        self._settings = settings
        self._session = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; `begun` says when it has a session."""
        named = {"HIVEBUS_DATA_DIR": str(self.root), "HIVEBUS_HOST_NAME": self.name}
        environment = os.environ | named | self._settings
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "entrypoints", "agent-host"], env=environment, stdout=log, stderr=log
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def id(self) -> str:
        return (self.root / "hosts" / self.name / "host.id").read_text().strip()

    def begun(self, client: Client) -> None:
        """Wait until a shell agent lives on its newest session."""
        deadline = time.monotonic() + BEGIN_S_MAX
        while True:
            shells = {agent["id"] for agent in client.get("/api/agents")["agents"] if agent["type"] == "shell"}
            homes: dict[str, tuple[str, str]] = {}
            session = ""
            for event in client.events():
                noun, _, aggregate_id = event["subject"].partition("/")
                if event["type"] == "hivebus.agent.started" and aggregate_id in shells:
                    homes[aggregate_id] = (event["data"]["host_id"], event["data"]["session"])
                elif event["type"] == "hivebus.host.registered" and noun == "host" and self._is(aggregate_id):
                    session = event["data"]["session"]
            if session != self._session and any(home == (self.id, session) for home in homes.values()):
                self._session = session
                return
            expect(self._process is not None and self._process.poll() is None, f"it ended: {self.log.read_text()}")
            expect(time.monotonic() < deadline, f"the host {self.name} has no agent after {BEGIN_S_MAX:g} s")
            time.sleep(0.02)

    def _is(self, host_id: str) -> bool:
        path = self.root / "hosts" / self.name / "host.id"
        return path.exists() and path.read_text().strip() == host_id

    def signal(self, number: int) -> None:
        """To the host alone; what it started must end by itself."""
        assert self._process is not None
        self._process.send_signal(number)

    def family(self) -> list[psutil.Process]:
        """What it started."""
        children: list[psutil.Process] = psutil.Process(self.pid).children(recursive=True)
        return children

    def kill(self) -> None:
        """SIGKILL, and wait."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()


def attempts_of(events: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """For each task its assignments, in order: {host, fence, started_ms, ended}."""
    found: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        kind, task = event["type"].removeprefix("hivebus."), event["subject"]
        data = event["data"]
        if kind == "task.assigned":
            attempt = {"host": data["host_id"], "fence": int(event["sequence"]), "started_ms": None, "ended": None}
            found.setdefault(task, []).append(attempt)
        elif kind in ("task.started", "task.completed", "task.attempt_ended"):
            attempt = next(a for a in found[task] if a["fence"] == data["fence"])
            attempt["started_ms"] = attempt["started_ms"] or data.get("started_ms")
            if kind != "task.started":
                expect(attempt["ended"] is None, f"fence {data['fence']} ended twice")
                attempt["ended"] = data.get("outcome", "completed")
    return found
