"""Budgets of projects: what they count, whom they hold back, and when they begin anew."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given as sampled
from hypothesis import settings
from hypothesis import strategies as st

from core.budget import ALL, BudgetCarried, BudgetChanged, CarryBudget, Purse, SetBudget, budget_id, changed, day_of
from core.kernel.errors import Unprocessable
from core.kernel.times import parse_rfc3339
from core.scheduling.budgets import Budgets, Held
from core.scheduling.images import fleet_of, image_of
from core.scheduling.policy import next_due_ms
from core.task import Spent, TaskProgressed, Used
from tests.given import NOW_MS, Simulation, assigned, given, trimmed_of, using
from tests.scene import Scene, names

DAY = {"period": "day", "timezone": "UTC"}
GOLDEN = [
    (
        BudgetChanged(key="p", period="day", timezone="UTC", tokens=7, cost=0.5, wall_s=60.0),
        'budget.changed/1 {"key":"p","period":"day","timezone":"UTC","tokens":7,"cost":0.5,"wall_s":60.0}',
    ),
    (
        BudgetCarried(key="p", period="day", since_ms=1, renews_ms=9, tokens=7, cost_n=5, wall_ms=3),
        'budget.carried/1 {"key":"p","period":"day","since_ms":1,"tokens":7,"cost_n":5,"wall_ms":3,"renews_ms":9}',
    ),
    (BudgetChanged(key="*", period="total"), 'budget.changed/1 {"key":"*","period":"total"}'),
]
MIDNIGHT_MS = parse_rfc3339("2027-01-16T00:00:00Z")  # the first one after NOW_MS


def daily(key: str = "p", **figures: Any) -> BudgetChanged:
    return BudgetChanged(key=key, period="day", timezone="UTC", **figures)


def total(key: str = "p", **figures: Any) -> BudgetChanged:
    return BudgetChanged(key=key, period="total", **figures)


# Setting


def test_a_budget_is_set_changed_and_removed_and_twice_is_once() -> None:
    spec = daily(tokens=5)
    state = given().when(SetBudget(key="p", tokens=5)).then(spec)
    assert (state.status, state.specs) == ("set", {"day": spec})
    given(spec).when(SetBudget(key="p", tokens=5, timezone="UTC")).then()
    given(spec).when(SetBudget(key="p", tokens=6)).then(daily(tokens=6))
    both = given(spec).when(SetBudget(key="p", period="total", cost=1.5)).then(total(cost=1.5))
    assert both.specs == {"day": spec, "total": total(cost=1.5)}
    assert given(spec).when(SetBudget(key="p")).then(daily()).status == "removed"
    given(spec, daily()).when(SetBudget(key="p")).then()


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize("field", ["tokens", "cost", "wall_s"])
def test_a_budget_of_nothing_is_refused_by_its_own_name(field: str, value: int) -> None:
    given().when(SetBudget(key="p", **{field: value})).then_raises(
        Unprocessable, code="zero_budget", pointer=f"/{field}"
    )


def test_what_says_nothing_is_refused() -> None:
    given().when(SetBudget(key="p")).then_raises(Unprocessable, code="empty_budget")
    given(daily(tokens=1)).when(SetBudget(key="p", period="total")).then_raises(Unprocessable, code="empty_budget")
    zoned = SetBudget(key="p", tokens=1, timezone="Mars/Olympus")
    given().when(zoned).then_raises(Unprocessable, code="unknown_timezone", pointer="/timezone")
    timeless = SetBudget(key="p", tokens=1, period="total", timezone="UTC")
    given().when(timeless).then_raises(Unprocessable, code="invalid_field", pointer="/timezone")


# Counting


@pytest.mark.parametrize(
    ("zone", "at", "begins", "ends"),
    [
        ("UTC", "2027-01-15T08:00:00Z", "2027-01-15T00:00:00Z", "2027-01-16T00:00:00Z"),
        ("UTC", "2027-01-15T00:00:00Z", "2027-01-15T00:00:00Z", "2027-01-16T00:00:00Z"),
        ("Europe/Berlin", "2027-03-28T12:00:00Z", "2027-03-27T23:00:00Z", "2027-03-28T22:00:00Z"),
        ("Pacific/Auckland", "2027-01-15T12:00:00Z", "2027-01-15T11:00:00Z", "2027-01-16T11:00:00Z"),
        ("Asia/Beirut", "2027-03-28T12:00:00Z", "2027-03-27T22:00:00Z", "2027-03-28T21:00:00Z"),  # 00:00 is skipped
        ("Pacific/Apia", "2011-12-30T09:00:00Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"),  # no 30th there
    ],
)
def test_a_day_is_that_of_its_time_zone(zone: str, at: str, begins: str, ends: str) -> None:
    assert day_of(zone, parse_rfc3339(at)) == (parse_rfc3339(begins), parse_rfc3339(ends))


@pytest.mark.parametrize(
    ("figures", "used", "spent"),
    [
        ({"tokens": 10}, using(tokens=9, cost=5.0, wall_ms=5_000), False),
        ({"tokens": 10}, using(tokens=10), True),
        ({"cost": 0.3}, using(cost=0.299999999), False),
        ({"cost": 0.3}, using(cost=0.3), True),
        ({"wall_s": 1.5}, using(wall_ms=1_499), False),
        ({"wall_s": 1.5}, using(wall_ms=1_500), True),
        ({"tokens": 10, "cost": 0.3}, using(cost=0.4), True),
    ],
)
def test_a_budget_is_spent_when_any_of_its_figures_is_reached(
    figures: dict[str, Any], used: Used, *, spent: bool
) -> None:
    for spec in (daily(**figures), total(**figures)):
        purse = changed(None, spec, NOW_MS, 1)
        assert purse is not None
        assert purse.plus(used, NOW_MS).used_up(NOW_MS) is spent


def test_ten_times_a_tenth_is_one() -> None:
    purse = Purse(total(cost=1.0), NOW_MS)
    for _ in range(10):
        assert not purse.used_up(NOW_MS)
        purse = purse.plus(using(cost=0.1), NOW_MS)
    assert purse.used_up(NOW_MS)


def test_a_day_begins_with_nothing_spent_and_never_comes_twice() -> None:
    purse = Purse(daily(tokens=5), NOW_MS, MIDNIGHT_MS).plus(using(tokens=5), NOW_MS)
    assert purse.used_up(MIDNIGHT_MS - 1)
    assert not purse.used_up(MIDNIGHT_MS)
    tomorrow = purse.plus(using(tokens=2), MIDNIGHT_MS + 5)
    assert tomorrow == Purse(daily(tokens=5), MIDNIGHT_MS, MIDNIGHT_MS + 86_400_000, Spent(2))
    # The clock went back: what is used counts in the newest day that there was.
    assert tomorrow.plus(using(tokens=3), NOW_MS).spent == Spent(5)


def test_what_is_spent_stays_spent_when_the_budget_changes_and_is_gone_when_it_is_removed() -> None:
    purse = Purse(total(tokens=5), NOW_MS, None, Spent(4))
    assert changed(purse, total(tokens=9), NOW_MS + 9, 7) == Purse(total(tokens=9), NOW_MS, None, Spent(4))
    assert changed(purse, total(), NOW_MS + 9, 7) is None
    today = Purse(daily(tokens=5), NOW_MS, MIDNIGHT_MS, Spent(4))
    assert changed(today, daily(tokens=9), MIDNIGHT_MS, 7) == Purse(
        daily(tokens=9), MIDNIGHT_MS, MIDNIGHT_MS + 86_400_000
    )
    berlin = BudgetChanged(key="p", period="day", timezone="Europe/Berlin", tokens=5)
    assert changed(today, berlin, NOW_MS + 9, 7) == Purse(berlin, NOW_MS, MIDNIGHT_MS - 3_600_000, Spent(4))


@sampled(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 10**6), st.sampled_from("pq")), max_size=30))
def test_what_is_spent_is_the_sum_of_what_was_told(words: list[tuple[int, int, str]]) -> None:
    budgets = Budgets()
    for key in ("p", ALL):
        budgets.fold(total(key, tokens=1), NOW_MS, 1)
    for tokens, cost, project in words:
        budgets.spend(using(tokens=tokens, cost=cost / 1000, project=project), NOW_MS)
    mine = [word for word in words if word[2] == "p"]
    for key, told in (("p", mine), (ALL, words)):
        spent = budgets.purses[key, "total"].spent
        assert spent == Spent(sum(word[0] for word in told), sum(word[1] for word in told) * 1_000_000)


def test_the_budget_of_the_project_or_of_everything_holds_it_back() -> None:
    budgets = Budgets()
    budgets.fold(daily("p", tokens=5), NOW_MS, 1)
    budgets.fold(total(ALL, tokens=9), NOW_MS, 2)
    assert budgets.held_by("p", NOW_MS) is None
    budgets.spend(using(tokens=5, project="p"), NOW_MS)
    assert budgets.held_by("p", NOW_MS) == Held("p", MIDNIGHT_MS)
    assert budgets.held_by("q", NOW_MS) is None
    budgets.spend(using(tokens=4, project="q"), NOW_MS)
    assert (budgets.held_by("q", NOW_MS), budgets.held_by("p", MIDNIGHT_MS)) == (Held(ALL, None), Held(ALL, None))


# What the log forgets


def test_what_was_spent_is_carried_from_mark_to_mark_and_needs_no_task_from_before() -> None:
    budgets, trimmed = Budgets(), Budgets()
    words: list[tuple[int, Any]] = [(1, total(tokens=99)), (2, 10), (3, None), (4, 20), (5, None), (6, 5)]
    for position, word in words:
        said = word if word is not None else next(budgets.due(position, set(), every=1))[1].carried
        for one in (budgets,) if word == 10 else (budgets, trimmed):
            if isinstance(word, int):
                one.spend(using(tokens=word, project="p"), NOW_MS)
            else:
                one.fold(said, NOW_MS, position)
    # The word at position 5 tells what was spent up to 3, so that 2 may go.
    assert trimmed.purses == budgets.purses
    purse = budgets.purses["p", "total"]
    assert (purse.spent, purse.mark, budgets.known_to(6)) == (Spent(35), 5, 3)
    assert [name for name, _ in budgets.due(6, set(), every=2)] == []
    [(name, _)] = budgets.due(7, set(), every=2)
    assert list(budgets.due(7, {name}, every=2)) == []


def test_a_word_about_an_older_mark_or_a_removed_budget_is_passed_over() -> None:
    said = BudgetCarried(key="p", period="total", since_ms=NOW_MS, tokens=1, cost_n=0, wall_ms=0)

    def carries(mark: int) -> CarryBudget:
        return CarryBudget(budget_id=budget_id("p"), mark=mark, carried=said)

    given(total(tokens=5)).when(carries(1)).then(said)
    given(total(tokens=5), total(tokens=6), said).when(carries(3)).then(said)
    given(total(tokens=5), said).when(carries(1)).then()
    given(total(tokens=5), total()).when(carries(1)).then()
    given(total(tokens=5), total(), total(tokens=5)).when(carries(1)).then()


SPENDING = (
    *("budget", "submit", "submit", "rest", "rest", "rest", "night", "clock"),
    *("spend", "complete", "complete", "fail", "carry", "carry"),
)


@settings(max_examples=100)
@sampled(
    st.lists(st.tuples(st.sampled_from(SPENDING), st.integers(0, 7)), min_size=30, max_size=80),
    st.integers(1, 300),
)
def test_a_trim_up_to_the_marks_takes_nothing_from_what_is_counted(steps: list[tuple[str, int]], limit: int) -> None:
    steps = [("budget", 0), ("budget", 4), ("submit", 0), ("submit", 2), ("rest", 0), *steps]
    whole, trimmed = trimmed_of(Simulation.after(steps).history, limit)
    assert trimmed.budgets.purses == whole.budgets.purses


# Whom it holds back


def scene(*specs: BudgetChanged) -> Scene:
    """Given a task of project p that runs and one that waits, and one of q, with these budgets."""
    made = Scene().host(slots=9).agent(slots=9)
    for spec in specs:
        made.has("budget", budget_id(spec.key), spec)
    made.task("p1", project="p", timeout_s=86_400.0).has("task", "p1", assigned())
    return made.task("p2", project="p").task("q1", project="q")


def uses(scene: Scene, task: str = "p1", project: str = "p", **used: Any) -> Scene:
    fence = scene.history.positions["task", task]
    return scene.has("task", task, TaskProgressed(fence=fence, used=using(project=project, **used)))


def assigned_by(scene: Scene, **more: Any) -> list[str]:
    found = sorted(task for task, _ in names(scene.decides(**more)))
    for task in found:
        scene.fleet.put_back(task)
    return found


@pytest.mark.parametrize("imaged", [False, True])
def test_while_its_budget_is_spent_a_project_waits_and_the_others_go_on(*, imaged: bool) -> None:
    given_scene = scene(daily(tokens=10))
    assert assigned_by(given_scene) == ["p2", "q1"]
    uses(given_scene, tokens=10)
    assert assigned_by(given_scene) == ["q1"]
    if imaged:
        given_scene.fleet = fleet_of(image_of(given_scene.fleet))
        assert assigned_by(given_scene) == ["q1"]
    assert next_due_ms(given_scene.fleet) == MIDNIGHT_MS
    assert assigned_by(given_scene, now_ms=MIDNIGHT_MS - 1) == ["q1"]
    assert assigned_by(given_scene, now_ms=MIDNIGHT_MS) == ["p2", "q1"]


def test_a_larger_budget_lets_who_waited_go() -> None:
    given_scene = uses(scene(total(tokens=10)), tokens=12)
    assert assigned_by(given_scene) == ["q1"]
    assert assigned_by(given_scene.has("budget", budget_id("p"), total(tokens=12))) == ["q1"]
    assert assigned_by(given_scene.has("budget", budget_id("p"), total(tokens=13))) == ["p2", "q1"]
    uses(given_scene, tokens=1)
    assert assigned_by(given_scene) == ["q1"]
    assert assigned_by(given_scene.has("budget", budget_id("p"), total())) == ["p2", "q1"]


def test_a_spent_budget_of_everything_holds_all_projects_back() -> None:
    given_scene = uses(scene(total(ALL, cost=0.5), daily(tokens=10)), cost=0.5)
    assert assigned_by(given_scene) == []
    assert assigned_by(given_scene.has("budget", budget_id(ALL), total(ALL, cost=1.0))) == ["p2", "q1"]


def test_the_time_on_slots_counts_when_an_attempt_ends() -> None:
    given_scene = scene(total(wall_s=2.0))
    assert assigned_by(given_scene) == ["p2", "q1"]
    uses(given_scene, wall_ms=2_000)
    assert assigned_by(given_scene) == ["q1"]
