"""What the executor tests share: attempts, a host without a sandbox, and conditions with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

from adapters.executors.host import Host
from adapters.executors.sandbox import Sandbox
from adapters.executors.warden import Warden
from adapters.executors.workspace import Workspaces
from adapters.memory.blobs import MemoryBlobs
from core.execution import Attempt, Progress

DEADLINE_S = 20.0


class FixedSecrets:
    def __init__(self, **secrets: str) -> None:
        self._secrets = secrets

    def get(self, name: str) -> str | None:
        return self._secrets.get(name)

    def names(self) -> list[str]:
        return sorted(self._secrets)

    def values(self) -> Mapping[str, str]:
        return {value: name for name, value in self._secrets.items()}


@asynccontextmanager
async def a_host(data_dir: Path, *, sandbox: Sandbox | None = None, **secrets: str) -> AsyncIterator[Host]:
    warden = Warden(data_dir)
    await warden.start()
    try:
        yield Host(Workspaces(data_dir), warden, sandbox, MemoryBlobs(), FixedSecrets(**secrets))
    finally:
        await warden.close()


def an_attempt(executor: str, *, timeout_s: float = DEADLINE_S, task_id: str = "task", **parameters: Any) -> Attempt:
    return Attempt(
        task_id=task_id,
        agent_id="agent",
        attempt=1,
        executor=executor,
        type="test",
        parameters=parameters,
        timeout_s=timeout_s,
        fence=1,
    )


def silent(_progress: Progress) -> None:
    raise AssertionError("nothing should be reported here")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, at most DEADLINE_S."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return str(psutil.Process(pid).status()) != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
