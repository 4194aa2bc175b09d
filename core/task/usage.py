"""What was used, as sums: costs in billionths, so that a sum of many is exact."""

from __future__ import annotations

from msgspec import Struct

from core.task.events import Used

NANO = 10**9


def nano(cost: float) -> int:
    """A cost in billionths."""
    return round(cost * NANO)


class Spent(Struct, frozen=True, gc=False):
    """Tokens, cost in billionths, and milliseconds on a slot."""

    tokens: int = 0
    cost_n: int = 0
    wall_ms: int = 0

    def plus(self, used: Used) -> Spent:
        """With what came on top; what nobody told counts nothing."""
        return Spent(
            self.tokens + (used.tokens or 0),
            self.cost_n + nano(used.cost or 0.0),
            self.wall_ms + (used.wall_ms or 0),
        )


NOTHING = Spent()
