"""What budgets were, and what was spent of each, at every position."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.budget import BudgetChanged, budget_id
from core.kernel.errors import NotFound
from core.kernel.times import rfc3339
from core.scheduling.fleet import Fleet
from core.task import TaskProgressed, TaskQueued
from projections import budgets as b
from projections import explain as e
from projections.catalogue import VIEWS
from tests.given import NOW_MS, History, ask, assigned, projected, registered, spawned, started, submitted, using
from tests.ledger import Ledger

pytestmark = pytest.mark.usefixtures("each_database")
MIDNIGHT_MS = 1_800_057_600_000


def a_day() -> History:
    history = History()
    history.commit("host", "h", registered())  # 1
    history.commit("agent", "a", spawned(slots=8), started())  # 2
    daily = BudgetChanged(key="p", period="day", timezone="UTC", tokens=10, cost=0.3)
    history.commit("budget", budget_id("p"), daily)  # 3
    history.commit("budget", budget_id("*"), BudgetChanged(key="*", period="total", wall_s=60.0))  # 4
    history.commit("task", "t", submitted(project="p"), TaskQueued(), assigned())  # 5
    for used in (using(tokens=4, cost=0.1, project="p"), using(tokens=6, cost=0.1, wall_ms=500, project="p")):
        history.now_ms += 1_000
        history.commit("task", "t", TaskProgressed(fence=5, progress=0.5, used=used))  # 6, 7
    history.commit("task", "u", submitted(project="p"), TaskQueued())  # 8
    history.commit("task", "v", submitted(project="q"), TaskQueued())  # 9
    return history


async def test_a_budget_shows_what_is_spent_of_it_as_of_every_position(tmp_path: Path) -> None:
    history = a_day()
    async with projected(tmp_path, VIEWS, history) as views:
        page = await ask(views, b.list_budgets, b.ListBudgets())
        spent = [(one["key"], one["period"], one["spent_tokens"], one["used_up"]) for one in page["budgets"]]
        assert spent == [("*", "total", 10, False), ("p", "day", 10, True)]
        shown = await ask(views, b.show_budget, b.ShowBudget(key="p"), 6)
        [daily] = shown["budgets"]
        assert daily == {
            "key": "p",
            "period": "day",
            "timezone": "UTC",
            "tokens": 10,
            "cost": 0.3,
            "wall_s": None,
            "spent_tokens": 4,
            "spent_cost": 0.1,
            "spent_wall_s": 0.0,
            "used_up": False,
            "since": rfc3339(NOW_MS),
            "renews_at": rfc3339(MIDNIGHT_MS),
            "set_at": rfc3339(NOW_MS),
            "set_by": "ada",
        }
        tomorrow = await ask(views, b.show_budget, b.ShowBudget(key="p"), now_ms=MIDNIGHT_MS)
        assert [(one["spent_tokens"], one["used_up"]) for one in tomorrow["budgets"]] == [(0, False)]
        with pytest.raises(NotFound):
            await ask(views, b.show_budget, b.ShowBudget(key="q"))


async def test_a_removed_budget_is_gone_from_there_on(tmp_path: Path) -> None:
    history = a_day()
    history.commit("budget", budget_id("p"), BudgetChanged(key="p", period="day", timezone="UTC"))
    async with projected(tmp_path, VIEWS, history) as views:
        with pytest.raises(NotFound):
            await ask(views, b.show_budget, b.ShowBudget(key="p"))
        assert len((await ask(views, b.list_budgets, b.ListBudgets(), 9))["budgets"]) == 2


async def test_who_waits_for_a_spent_budget_is_told_which_and_until_when(tmp_path: Path) -> None:
    history = a_day()
    history.commit("budget", budget_id("*"), BudgetChanged(key="*", period="total", wall_s=0.5))  # 10
    async with projected(tmp_path, VIEWS, history) as views:
        answer = await ask(views, e.explain_task, e.ExplainTask(task_id="u"), 9)
        assert answer["waits_for"] == [
            {
                "kind": "budget",
                "sentence": "the budget of project 'p' of the day is spent (tokens 10 of 10): it begins anew at "
                "2027-01-16T00:00:00.000Z",
                "renews_at": "2027-01-16T00:00:00.000Z",
            }
        ]
        other = await ask(views, e.explain_task, e.ExplainTask(task_id="v"), 9)
        assert [reason["kind"] for reason in other["waits_for"]] == ["turn"]
        other = await ask(views, e.explain_task, e.ExplainTask(task_id="v"))
        assert other["waits_for"][0] == {
            "kind": "budget",
            "sentence": "the budget of all projects altogether is spent (wall_s 0.5 of 0.5): it has to be raised",
            "renews_at": None,
        }


async def test_the_view_counts_like_the_fleet_and_like_the_log(tmp_path: Path) -> None:
    history = a_day()
    history.now_ms = MIDNIGHT_MS + 5
    history.commit("task", "t", TaskProgressed(fence=5, used=using(tokens=3, project="p")))
    fleet, ledger = Fleet(), Ledger()
    for commit in history.commits:
        fleet.fold(commit)
    ledger.read(history.commits, history.head)
    ledger.check(fleet)
    async with projected(tmp_path, VIEWS, history) as views:
        page = await ask(views, b.list_budgets, b.ListBudgets(), now_ms=history.now_ms)
    shown = {(one["key"], one["period"]): one["spent_tokens"] for one in page["budgets"]}
    assert shown == {at: purse.spent.tokens for at, purse in fleet.budgets.purses.items()}
    assert shown == {("*", "total"): 13, ("p", "day"): 3}
