"""The budget: what a project, or everything (`*`), may use in a day or altogether, and the fold that counts it.

While one is spent, no task of its project is started; what runs goes on. It counts from the moment it is set what
attempts tell (tokens, cost), and how long they held their slots. A day is one of its time zone and never comes twice,
whatever the clock does.

The log may be trimmed of tasks that have ended, and what they used goes with them. So now and then the budget itself
says what was spent up to its last mark, and that word is a new mark: a fold takes the word, adds what it has read since
the last mark, and needs nothing that stands before that.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from typing import Annotated, Any, Literal, TypedDict, assert_never

from msgspec import Meta, Struct
from msgspec.structs import replace

from core.cron import zone_of
from core.execution import COST_MAX, TOKENS_MAX
from core.kernel.commit import Event, Moment
from core.kernel.errors import Unprocessable
from core.kernel.ids import named
from core.kernel.registry import Aggregate, Context, Route, Scope
from core.task import NOTHING, POSITIVE, Spent, Used, more_than_zero, nano

budget = Aggregate("budget")

ALL = "*"
Period = Literal["day", "total"]
PERIODS: tuple[Period, ...] = ("day", "total")
Project = Annotated[str, Meta(pattern=r"^(\*|[A-Za-z0-9][A-Za-z0-9._:/-]*)$(?!\n)", max_length=100)]
WALL_S_MAX = 10**12


@budget.event("budget.changed")
class BudgetChanged(Event, frozen=True):
    """From here on this is the budget of the project for this period; without a figure there is none any more."""

    key: str
    period: Period
    timezone: str | None = None
    tokens: int | None = None
    cost: float | None = None
    wall_s: float | None = None

    @property
    def is_one(self) -> bool:
        """Whether it limits anything."""
        return (self.tokens, self.cost, self.wall_s) != (None, None, None)


@budget.event("budget.carried")
class BudgetCarried(Event, frozen=True):
    """What was spent of it up to its last mark, with the cost in billionths; this is the next mark."""

    key: str
    period: Period
    since_ms: int
    tokens: int
    cost_n: int
    wall_ms: int
    renews_ms: int | None = None


BudgetEvent = BudgetChanged | BudgetCarried


class Budget(Struct, frozen=True):
    """The newest budgets of a project, and their marks (the positions where they were set or carried), by period."""

    specs: dict[Period, BudgetChanged]
    marks: dict[Period, int]

    @property
    def status(self) -> str:
        """Whether there is one."""
        return "set" if any(spec.is_one for spec in self.specs.values()) else "removed"


@budget.evolves
def evolve(state: Budget | None, event: BudgetEvent, moment: Moment) -> Budget:
    """The last one of a period counts."""
    specs, marks = (state.specs, state.marks) if state is not None else ({}, {})
    match event:
        case BudgetCarried():
            return Budget(specs, {**marks, event.period: moment.position})
        case BudgetChanged():
            before = specs.get(event.period)
            if before is None or not before.is_one:
                marks = {**marks, event.period: moment.position}
            return Budget({**specs, event.period: event}, marks)
        case _:
            assert_never(event)


class SetBudget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Set the budget of a project, or of everything (`*`), for each day or altogether.

    It counts from now on: the tokens and the cost that attempts report, and the time that they hold their slots. While
    a figure is used up, no task of the project is started: a day's budget begins anew at midnight of its time zone, one
    of `total` when more is set. What is left out is not limited; without any figure the budget is removed. Changing one
    keeps what is counted.
    """

    key: Project
    period: Period = "day"
    timezone: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_+/-]{1,64}$(?!\n)")] | None = None
    tokens: Annotated[int, Meta(le=TOKENS_MAX, extra_json_schema=POSITIVE)] | None = None
    cost: Annotated[float, Meta(le=COST_MAX, extra_json_schema=POSITIVE)] | None = None
    wall_s: Annotated[float, Meta(le=WALL_S_MAX, extra_json_schema=POSITIVE)] | None = None


def budget_id(key: str) -> str:
    """The aggregate's id: a hash, for a subject is never text of a user."""
    return named("budget", key)


class Budgeted(TypedDict):
    """What the budget is from here on; null is not limited."""

    key: str
    period: Period
    timezone: str | None
    tokens: int | None
    cost: float | None
    wall_s: float | None


def _answer(command: SetBudget, accepted: Any) -> Budgeted:
    spec: BudgetChanged = accepted.state.specs[command.period]
    return {
        "key": spec.key,
        "period": spec.period,
        "timezone": spec.timezone,
        "tokens": spec.tokens,
        "cost": spec.cost,
        "wall_s": spec.wall_s,
    }


@budget.decides(
    "budget.set",
    route=Route("PUT", "/api/budgets/{key}", 202),
    upserts=True,
    target="key",
    identify=budget_id,
    answer=_answer,
    faults={"zero_budget": Unprocessable, "empty_budget": Unprocessable, "unknown_timezone": Unprocessable},
)
def set_budget(command: SetBudget, state: Budget | None, context: Context) -> list[BudgetChanged]:
    """Set to what it is already, it is no change."""
    more_than_zero(command.tokens, "/tokens")
    more_than_zero(command.cost, "/cost")
    more_than_zero(command.wall_s, "/wall_s")
    asked = BudgetChanged(
        key=command.key,
        period=command.period,
        timezone=_timezone(command),
        tokens=command.tokens,
        cost=command.cost,
        wall_s=command.wall_s,
    )
    known = state.specs.get(command.period) if state is not None else None
    if known is None and not asked.is_one:
        raise Unprocessable(
            "A budget of nothing in particular limits nothing.",
            code="empty_budget",
            remedy="Give tokens, cost or wall_s; a budget that is set is removed by setting it without any.",
        )
    return [] if known == asked else [asked]


def _timezone(command: SetBudget) -> str | None:
    if command.period == "total":
        if command.timezone is not None:
            raise Unprocessable(
                "What counts altogether has no days, so no time zone.", pointer="/timezone", remedy="Leave it out."
            )
        return None
    name = command.timezone or "UTC"
    try:
        zone_of(name)
    except ValueError as error:
        raise Unprocessable(
            f"{str(error)[:1].upper()}{str(error)[1:]}.",
            code="unknown_timezone",
            pointer="/timezone",
            remedy="An IANA name, such as Europe/Berlin.",
        ) from error
    return name


class CarryBudget(Struct, frozen=True, kw_only=True):
    """Say what was spent of a budget up to its last mark, as it was folded."""

    budget_id: str
    mark: int
    carried: BudgetCarried


@budget.decides("budget.carry", scope=Scope.INTERNAL)
def carry(command: CarryBudget, state: Budget, context: Context) -> list[BudgetCarried]:
    """Only what speaks of the last mark of a budget that is set."""
    said = command.carried
    spec = state.specs.get(said.period)
    known = spec is not None and spec.is_one and state.marks[said.period] == command.mark
    return [said] if known else []


# --- counting ---


class Purse(Struct, frozen=True):
    """A budget, and what is spent of it since `since_ms`. A day's one is full again from `renews_ms` on.

    `mark` is the position where it was set or last carried, `before` what was spent of it up to there, and `known_to`
    the position up to which a fold needs no task: the mark before that one.
    """

    spec: BudgetChanged
    since_ms: int
    renews_ms: int | None = None
    spent: Spent = NOTHING
    before: Spent = NOTHING
    mark: int = 0
    known_to: int = 0

    def used_up(self, now_ms: int) -> bool:
        """Whether nothing more may be started at its expense."""
        if self.renews_ms is not None and now_ms >= self.renews_ms:
            return False
        spec, spent = self.spec, self.spent
        return (
            (spec.tokens is not None and spent.tokens >= spec.tokens)
            or (spec.cost is not None and spent.cost_n >= nano(spec.cost))
            or (spec.wall_s is not None and spent.wall_ms >= int(spec.wall_s * 1000))
        )

    def plus(self, used: Used, now_ms: int) -> Purse:
        """With what came on top, in a new day if that has begun."""
        purse = self.at(now_ms)
        return replace(purse, spent=purse.spent.plus(used))

    def at(self, now_ms: int) -> Purse:
        """As it is at a time: a day that is over is followed by a new one, in which nothing is spent."""
        if self.renews_ms is None or now_ms < self.renews_ms:
            return self
        begins, ends = day_of(self.spec.timezone or "UTC", now_ms)
        return replace(self, since_ms=begins, renews_ms=ends, spent=NOTHING, before=NOTHING)

    def to_carry(self) -> BudgetCarried:
        """What the next word about it says."""
        return BudgetCarried(
            key=self.spec.key,
            period=self.spec.period,
            since_ms=self.since_ms,
            renews_ms=self.renews_ms,
            tokens=self.before.tokens,
            cost_n=self.before.cost_n,
            wall_ms=self.before.wall_ms,
        )

    def carried(self, event: BudgetCarried, position: int) -> Purse:
        """With the word about what was spent up to the last mark. A day that has begun since knows better."""
        purse = self
        if event.since_ms >= self.since_ms:
            spent = Spent(
                event.tokens + self.spent.tokens - self.before.tokens,
                event.cost_n + self.spent.cost_n - self.before.cost_n,
                event.wall_ms + self.spent.wall_ms - self.before.wall_ms,
            )
            purse = replace(self, since_ms=event.since_ms, renews_ms=event.renews_ms, spent=spent)
        return replace(purse, before=purse.spent, mark=position, known_to=self.mark)


def changed(purse: Purse | None, event: BudgetChanged, now_ms: int, position: int) -> Purse | None:
    """The purse of a budget that was set or changed: what is spent of it stays spent. None where it was removed."""
    if not event.is_one:
        return None
    if purse is not None and purse.spec.timezone == event.timezone:
        return replace(purse.at(now_ms), spec=event)
    renews_ms = None if event.period == "total" else day_of(event.timezone or "UTC", now_ms)[1]
    if purse is not None:
        return replace(purse.at(now_ms), spec=event, renews_ms=renews_ms)
    return Purse(event, now_ms, renews_ms, mark=position, known_to=position)


def day_of(timezone: str, now_ms: int) -> tuple[int, int]:
    """When the day of a time begins in a time zone, and when the next one does, in milliseconds."""
    zone = zone_of(timezone)
    day = datetime.fromtimestamp(now_ms / 1000, zone).date()
    return _midnight(day, timezone), _midnight(day + timedelta(days=1), timezone)


def _midnight(day: date, timezone: str) -> int:
    # Where a day's midnight is skipped, the zone's offset before it gives the moment of the jump.
    return int(datetime.combine(day, time(), zone_of(timezone)).timestamp() * 1000)
