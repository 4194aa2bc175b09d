"""The budgets as the fold counts them, and which of them holds a project's tasks back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from core.budget import ALL, PERIODS, BudgetCarried, BudgetChanged, CarryBudget, Period, Purse, budget_id, changed
from core.task import NOTHING, Used

# How many positions a budget is left without a new mark: the log is trimmed up to the one before the last.
CARRY_EVERY = 20_000


class Held(NamedTuple):
    """The project whose budget is spent, and when it begins anew; None where only a change helps."""

    key: str
    renews_ms: int | None


class Budgets:
    """All budgets that are set, with what is spent of each. Projects without one cost nothing."""

    def __init__(self, purses: dict[tuple[str, Period], Purse] | None = None) -> None:
        self.purses = purses or {}

    def fold(self, event: BudgetChanged | BudgetCarried, now_ms: int, position: int) -> None:
        """A budget was set, changed, removed, or carried."""
        at = event.key, event.period
        known = self.purses.get(at)
        if isinstance(event, BudgetCarried):
            purse = known.carried(event, position) if known is not None else None
        else:
            purse = changed(known, event, now_ms, position)
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

    def due(self, position: int, under_way: set[str], *, every: int = CARRY_EVERY) -> Iterator[tuple[str, CarryBudget]]:
        """The words that are due about budgets whose mark lies far back, each with what it is about."""
        for (key, period), purse in self.purses.items():
            name = f"{period} {budget_id(key)}"
            if position - purse.mark >= every and purse.spent != NOTHING and name not in under_way:
                yield name, CarryBudget(budget_id=budget_id(key), mark=purse.mark, carried=purse.to_carry())

    def known_to(self, position: int) -> int:
        """The position up to which the log may lose tasks that have ended, and the budgets stay as they are."""
        return min((purse.known_to for purse in self.purses.values() if purse.spent != NOTHING), default=position)

    def held_by(self, project: str | None, now_ms: int) -> Held | None:
        """The first spent budget that a project's tasks wait for."""
        for key in (project or "", ALL):
            for period in PERIODS:
                purse = self.purses.get((key, period))
                if purse is not None and purse.used_up(now_ms):
                    return Held(key, purse.renews_ms)
        return None
