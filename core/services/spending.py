"""What one attempt says that it has used, as its host keeps it: the newest figures, and whether the bus knows them."""

from __future__ import annotations

from core.execution import Usage


class Spending:
    """`left` is what the task's budget leaves to the attempt."""

    def __init__(self, left: Usage) -> None:
        self.newest: Usage | None = None
        self._left = left
        self._told: Usage | None = None
        self._passed = False

    def hear(self, usage: Usage | None) -> None:
        """It says what it has used from its beginning; a figure that it leaves out stays as it was."""
        if usage is not None:
            before = self.newest or Usage()
            self.newest = Usage(
                tokens=before.tokens if usage.tokens is None else usage.tokens,
                cost=before.cost if usage.cost is None else usage.cost,
            )

    @property
    def is_news(self) -> bool:
        """Whether the bus does not know the newest word."""
        return self.newest != self._told

    def passes(self) -> bool:
        """Whether it has used more than is left; said once, for then it is being stopped."""
        if self._passed or self.newest is None:
            return False
        self._passed = _more(self.newest.tokens, self._left.tokens) or _more(self.newest.cost, self._left.cost)
        return self._passed

    def tell(self) -> Usage | None:
        """The newest word, that the bus is about to hear."""
        self._told = self.newest
        return self.newest


def _more(used: float | None, left: float | None) -> bool:
    return used is not None and left is not None and used > left
