"""How far a long piece of work is, how fast it goes, and how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Callable

SAY_EVERY_S = 2.0


class Told:
    """Hears (position, end) often, and says now and then where that is."""

    def __init__(self, say: Callable[[str], object], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._monotonic = monotonic
        self._began = self._said = monotonic()
        self._first = self._last = 0

    def __call__(self, position: int, end: int) -> None:
        """After each page; one that is not behind the last begins anew."""
        now = self._monotonic()
        if position <= self._last:
            self._began, self._first = now, position
        self._last = position
        if now - self._said >= SAY_EVERY_S:
            self._said = now
            self._say(in_words(position, end, (position - self._first) / max(now - self._began, 1e-9)))


def in_words(position: int, end: int, per_s: float) -> str:
    """`40,000 of 100,000 commits, 20,000/s, about 3 s left`."""
    left = f", about {(end - position) / per_s:,.0f} s left" if per_s > 0 else ""
    return f"{position:,} of {end:,} commits, {per_s:,.0f}/s{left}"
