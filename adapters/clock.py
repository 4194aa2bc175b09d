"""The machine's clock."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """Real time (see core.kernel.ports.Clock)."""

    def now_ms(self) -> int:
        """Unix time in milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait on the loop."""
        await asyncio.sleep(seconds)
