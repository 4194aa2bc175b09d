"""Who gets the processor: commands first, and views soon.

Recorder and projector share a process, and its one interpreter lock, with the commands that callers wait for. After
each batch they rest in proportion to the work it was: commands keep most of the processor, and what comes meanwhile
goes into one larger batch, which costs less for each commit (docs/decisions/0006). Nobody rests once commands have
paused, while a caller waits for the views, or when the lag has reached its bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from core.kernel.ports import Clock

REST_S_MAX = 1.0
LOOK_S = 0.01


class Pace:
    """The rests of one background loop: `share` of the time is its own."""

    def __init__(self, clock: Clock, *, share: float, commands: Callable[[], int], urgent: Callable[[], bool]) -> None:
        """`commands` counts those executed so far; `urgent` says that the batch must not wait."""
        self._clock = clock
        self._commands = commands
        self._factor = (1 - share) / share
        self._urgent = urgent
        self._began = time.perf_counter()

    @property
    def hurries(self) -> bool:
        """Whether the next batch will not be waited for."""
        return self._urgent()

    def begin(self) -> None:
        """A batch begins."""
        self._began = time.perf_counter()

    async def rest(self) -> None:
        """A batch has ended."""
        left_s = min(REST_S_MAX, (time.perf_counter() - self._began) * self._factor)
        while left_s > 0 and not self._urgent():
            before = self._commands()
            await self._clock.sleep(min(LOOK_S, left_s))
            left_s -= LOOK_S
            if self._commands() == before:
                return
