"""Who gets the processor: commands first, and views soon.

Recorder and projector share a process, and its one interpreter lock, with the commands that callers wait for. While
many are in flight they rest after each batch in proportion to the work it was, so commands keep most of the processor;
and because what waits meanwhile goes into one larger batch, each commit costs less. A bound on the lag ends the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from core.kernel.ports import Clock

BUSY_COMMANDS = 16
REST_S_MAX = 1.0


class Load:
    """How many commands are being executed now."""

    def __init__(self) -> None:
        self.commands = 0

    def __enter__(self) -> Self:
        self.commands += 1
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.commands -= 1

    @property
    def busy(self) -> bool:
        """Whether callers would notice a background batch."""
        return self.commands >= BUSY_COMMANDS


class Pace:
    """Rests of one background loop: `share` of the time is its own while commands are in flight."""

    def __init__(self, load: Load, clock: Clock, *, share: float, lag: Callable[[], int], lag_max: int) -> None:
        self._load = load
        self._clock = clock
        self._factor = (1 - share) / share
        self._lag = lag
        self._lag_max = lag_max
        self._began = time.perf_counter()

    def begin(self) -> None:
        """A batch begins."""
        self._began = time.perf_counter()

    async def rest(self) -> None:
        """A batch has ended; returns at once unless commands are in flight and the lag is within its bound."""
        if self._load.busy and self._lag() < self._lag_max:
            worked_s = time.perf_counter() - self._began
            await self._clock.sleep(min(REST_S_MAX, worked_s * self._factor))
