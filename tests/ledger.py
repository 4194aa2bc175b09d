"""What the log says was spent of each budget: counted once more, by other means than the product's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.budget import BudgetChanged
from core.kernel.commit import Commit
from core.scheduling.fleet import Fleet

DAY_MS = 86_400_000


class Line:
    """A budget in UTC: tokens, cost in billionths, milliseconds, and the number of the newest day in it."""

    def __init__(self, spec: BudgetChanged, now_ms: int) -> None:
        self.spec = spec
        self.day = now_ms // DAY_MS
        self.spent = [0, 0, 0]

    def turn(self, now_ms: int) -> None:
        if self.spec.period == "day" and now_ms // DAY_MS > self.day:
            self.day, self.spent = now_ms // DAY_MS, [0, 0, 0]

    def has_more(self, now_ms: int) -> bool:
        if self.spec.period == "day" and now_ms // DAY_MS > self.day:
            return True
        most = (self.spec.tokens, self.spec.cost and self.spec.cost * 1e9, self.spec.wall_s and self.spec.wall_s * 1e3)
        return all(limit is None or spent < limit for spent, limit in zip(self.spent, most, strict=True))


class Ledger:
    """All budgets as of a position."""

    def __init__(self) -> None:
        self.position = 0
        self.lines: dict[tuple[str, str], Line] = {}

    def read(self, commits: Sequence[Commit], position: int) -> None:
        """Read on to a position."""
        for commit in commits[self.position : position]:
            for event in commit.events:
                self._read(event, commit.body.occurred_at)
        self.position = max(self.position, position)

    def _read(self, event: Any, now_ms: int) -> None:
        if isinstance(event, BudgetChanged):
            at = event.key, event.period
            if (event.tokens, event.cost, event.wall_s) == (None, None, None):
                self.lines.pop(at, None)
            elif at in self.lines:
                self.lines[at].turn(now_ms)
                self.lines[at].spec = event
            else:
                self.lines[at] = Line(event, now_ms)
        used = getattr(event, "used", None)
        for (key, _), line in self.lines.items() if used is not None else ():
            if key in (used.project, "*"):
                line.turn(now_ms)
                more = (used.tokens or 0, round((used.cost or 0) * 1e9), used.wall_ms or 0)
                line.spent = [had + came for had, came in zip(line.spent, more, strict=True)]

    def allows(self, project: str, now_ms: int) -> bool:
        """Whether no budget of the project, or of everything, is spent."""
        return all(line.has_more(now_ms) for (key, _), line in self.lines.items() if key in (project, "*"))

    def check(self, fleet: Fleet) -> None:
        """The fleet counts the same."""
        counted = {at: [p.spent.tokens, p.spent.cost_n, p.spent.wall_ms] for at, p in fleet.budgets.purses.items()}
        assert counted == {at: line.spent for at, line in self.lines.items()}
