"""The silence of an attempt: how long since it last said anything, and its end where that is too long.

Progress is a word, and so is a program's output. It is the host that listens: what is heard reaches the log at most
every ten seconds, so that nobody else could tell.
"""

from __future__ import annotations

from core.execution import CancelToken
from core.kernel.ports import Clock

SILENT = "it said nothing"


class Silence:
    """Listens to one attempt."""

    def __init__(self, clock: Clock, token: CancelToken) -> None:
        self._clock = clock
        self._token = token
        self._heard_at = clock.monotonic()

    def end(self) -> None:
        """It said something."""
        self._heard_at = self._clock.monotonic()

    async def watch(self, limit_s: float) -> None:
        """Cancel the attempt once it has said nothing for so long."""
        while (left_s := self._heard_at + limit_s - self._clock.monotonic()) > 0:
            await self._clock.sleep(left_s)
        self._token.cancel(SILENT)
