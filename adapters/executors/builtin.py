"""Task functions that every installation has: for trying things out, for tests, and for measuring."""

from __future__ import annotations

import asyncio
from typing import Any


async def noop() -> None:
    """Do nothing, and succeed."""


async def echo(**arguments: Any) -> dict[str, Any]:
    """Return the arguments."""
    return arguments


async def sleep(seconds: float) -> float:
    """Return after so many seconds."""
    await asyncio.sleep(seconds)
    return seconds
