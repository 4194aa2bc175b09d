"""How far store and views are, in a process that writes neither."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from core.kernel.errors import Unavailable
from core.kernel.ports import Clock
from core.services.positions import PositionGate

STEP_S = 0.01
IDLE_S = 0.25

logger = logging.getLogger("hivebus")


class PositionFollower:
    """Looks up both positions: a hundred times a second while somebody waits, four times while nobody does."""

    def __init__(
        self,
        read: Callable[[], Awaitable[tuple[int, int]]],
        recorded: PositionGate,
        applied: PositionGate,
        clock: Clock,
    ) -> None:
        """`read` gives the recorded and the applied position, or raises Unavailable."""
        self._read = read
        self._recorded = recorded
        self._applied = applied
        self._clock = clock

    async def run(self) -> None:
        """Follow for ever."""
        looked_at = float("-inf")
        while True:
            now = self._clock.monotonic()
            if self._recorded.waiting or self._applied.waiting or now - looked_at >= IDLE_S:
                looked_at = now
                await self._look()
            await self._clock.sleep(STEP_S)

    async def _look(self) -> None:
        try:
            recorded, applied = await self._read()
        except Unavailable as error:
            logger.warning("The positions are not known: %s", error.sentence)
            await self._clock.sleep(1.0)
            return
        self._recorded.advance(recorded)
        self._applied.advance(applied)
