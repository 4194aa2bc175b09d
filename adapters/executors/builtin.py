"""Task functions that every installation has: for trying things out, for tests, and for measuring."""

from __future__ import annotations

import asyncio
from typing import Any

from adapters.executors.python_child import Task


async def noop() -> None:
    """Do nothing, and succeed."""


async def echo(**arguments: Any) -> dict[str, Any]:
    """Return the arguments."""
    return arguments


async def sleep(seconds: float) -> float:
    """Return after so many seconds."""
    await asyncio.sleep(seconds)
    return seconds


async def ask(question: str, task: Task, choices: list[str] | None = None) -> Any:
    """Ask, and return the answer."""
    return task.ask(question, choices)
