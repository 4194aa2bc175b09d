"""The budgets as the fold counts them, and which of them holds a project's tasks back."""

from __future__ import annotations

from typing import NamedTuple

from core.budget import ALL, PERIODS, BudgetChanged, Period, Purse, changed
from core.task import Used


class Held(NamedTuple):
    """The project whose budget is spent, and when it begins anew; None where only a change helps."""

    key: str
    renews_ms: int | None


class Budgets:
    """All budgets that are set, with what is spent of each. Projects without one cost nothing."""

    def __init__(self, purses: dict[tuple[str, Period], Purse] | None = None) -> None:
        self.purses = purses or {}

    def fold(self, event: BudgetChanged, now_ms: int) -> None:
        """A budget was set, changed or removed."""
        at = event.key, event.period
        purse = changed(self.purses.get(at), event, now_ms)
        if purse is None:
            self.purses.pop(at, None)
        else:
            self.purses[at] = purse

    def spend(self, used: Used, now_ms: int) -> None:
        """An attempt told what it used."""
        for key in (used.project, ALL):
            for period in PERIODS:
                purse = self.purses.get((key, period))
                if purse is not None:
                    self.purses[key, period] = purse.plus(used, now_ms)

    def held_by(self, project: str | None, now_ms: int) -> Held | None:
        """The first spent budget that a project's tasks wait for."""
        for key in (project or "", ALL):
            for period in PERIODS:
                purse = self.purses.get((key, period))
                if purse is not None and purse.used_up(now_ms):
                    return Held(key, purse.renews_ms)
        return None
