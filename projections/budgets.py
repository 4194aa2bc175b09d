"""The budgets: what was set, and what is spent of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any, TypedDict

import msgspec
from msgspec import Meta, Struct
from sqlalchemy import JSON, BigInteger, Column, Index, MetaData, String, Table, select

from core.budget import ALL, PERIODS, BudgetChanged, Period, Project, Purse, changed
from core.kernel.answers import Position, Time
from core.kernel.commit import Commit, Event
from core.kernel.errors import NotFound
from core.kernel.ids import named
from core.kernel.registry import QuerySpec, Route, doc_of
from core.kernel.times import rfc3339
from core.projection import Row, RowView
from core.task import NANO, Used
from projections.pages import Pagination, page_of
from projections.view import Reader, true_at, versioned

metadata = MetaData()

budgets = Table(
    "budgets",
    metadata,
    Column("id", String(36), primary_key=True),
    *versioned(),
    Column("key", String(100), nullable=False),
    Column("period", String(8), nullable=False),
    Column("purse", JSON, nullable=False),
    Column("set_ms", BigInteger, nullable=False),
    Column("set_by", String(200), nullable=False),
)
Index("budgets_now", budgets.c.valid_to, budgets.c.key, budgets.c.period)


class Budgets(RowView):
    """A row per budget that is set; it changes with all that is spent of it."""

    name = "budgets"
    table = budgets
    nouns = frozenset({"budget", "task"})

    def touched(self, commit: Commit, event: Event) -> Iterable[str]:
        """The budget that was set; or those of the project that used something, and of everything."""
        if isinstance(event, BudgetChanged):
            return (_row_id(event.key, event.period),)
        used: Used | None = getattr(event, "used", None)
        return [_row_id(key, period) for key in (used.project, ALL) for period in PERIODS] if used is not None else ()

    def fold(self, row: Row | None, commit: Commit, event: Event) -> Row | None:
        """The same counting as the scheduler's."""
        purse = None if row is None else _purse(row)
        now_ms = commit.body.occurred_at
        if isinstance(event, BudgetChanged):
            purse = changed(purse, event, now_ms, commit.position)
            if purse is None:
                return None
            return {
                "id": _row_id(event.key, event.period),
                "key": event.key,
                "period": event.period,
                "purse": msgspec.to_builtins(purse),
                "set_ms": now_ms,
                "set_by": commit.body.actor,
            }
        used: Used | None = getattr(event, "used", None)
        if row is None or purse is None or used is None:
            return row
        return {**row, "purse": msgspec.to_builtins(purse.plus(used, now_ms))}


@lru_cache(maxsize=1024)
def _row_id(key: str, period: Period) -> str:
    return named("budget", f"{period} {key}")


def _purse(row: Mapping[str, Any]) -> Purse:
    return msgspec.convert(row["purse"], Purse)


class ListBudgets(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List the budgets that are set, by project, with what is spent of each."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 50
    offset: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class BudgetSummary(TypedDict):
    """A budget; a figure that is null is not limited. What is spent counts since `since`."""

    key: str
    period: Period
    timezone: str | None
    tokens: int | None
    cost: float | None
    wall_s: float | None
    spent_tokens: int
    spent_cost: float
    spent_wall_s: float
    used_up: Annotated[bool, Meta(description="Whether its tasks wait.")]
    since: Time
    renews_at: Annotated[Time | None, Meta(description="When it begins anew; null for one of `total`.")]
    set_at: Time
    set_by: str


class BudgetPage(TypedDict):
    """A page of budgets, by project."""

    budgets: list[BudgetSummary]
    pagination: Pagination
    position: Position


class BudgetDetails(TypedDict):
    """The budgets of a project, of a day and altogether, as of a position."""

    key: str
    budgets: list[BudgetSummary]
    position: Position


async def list_budgets(query: ListBudgets, reader: Reader) -> BudgetPage:
    """One page of them."""
    order = [budgets.c.key, budgets.c.period]
    rows, pagination = await page_of(budgets, [true_at(budgets, reader.at)], order, query, reader)
    return {
        "budgets": [_document(row, reader.now_ms) for row in rows],
        "pagination": pagination,
        "position": reader.position,
    }


class ShowBudget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show the budgets of a project, or of everything (`*`), with what is spent of each."""

    key: Project


async def show_budget(query: ShowBudget, reader: Reader) -> BudgetDetails:
    """The budgets of a key; NotFound where none is set."""
    rows = await _rows(reader, [query.key])
    if not rows:
        raise NotFound(
            f"No budget is set for the project {query.key!r}.",
            code="unknown_budget",
            remedy="Set one: PUT /api/budgets/{key}, or `hivebus budget set`.",
        )
    return {
        "key": query.key,
        "budgets": [_document(row, reader.now_ms) for row in rows],
        "position": reader.position,
    }


async def spent_of(reader: Reader, project: str) -> list[BudgetSummary]:
    """The spent budgets that a project's tasks wait for."""
    found = [_document(row, reader.now_ms) for row in await _rows(reader, [project, ALL])]
    return [budget for budget in found if budget["used_up"]]


async def _rows(reader: Reader, keys: list[str]) -> list[Mapping[str, Any]]:
    ids = [_row_id(key, period) for key in keys for period in PERIODS]
    statement = select(budgets).where(budgets.c.id.in_(ids), true_at(budgets, reader.at, selective=False))
    return sorted(await reader.rows(statement), key=lambda row: ids.index(row["id"]))


def _document(row: Mapping[str, Any], now_ms: int) -> BudgetSummary:
    purse = _purse(row).at(now_ms)
    spec, spent = purse.spec, purse.spent
    return {
        "key": spec.key,
        "period": spec.period,
        "timezone": spec.timezone,
        "tokens": spec.tokens,
        "cost": spec.cost,
        "wall_s": spec.wall_s,
        "spent_tokens": spent.tokens,
        "spent_cost": spent.cost_n / NANO,
        "spent_wall_s": spent.wall_ms / 1000,
        "used_up": purse.used_up(now_ms),
        "since": rfc3339(purse.since_ms),
        "renews_at": rfc3339(purse.renews_ms),
        "set_at": rfc3339(row["set_ms"]),
        "set_by": row["set_by"],
    }


def sentence_of(budget: BudgetSummary) -> str:
    """Why a spent budget holds tasks back, and when it lets them go."""
    whose = "of all projects" if budget["key"] == ALL else f"of project {budget['key']!r}"
    figures = (
        ("tokens", budget["spent_tokens"], budget["tokens"]),
        ("cost", budget["spent_cost"], budget["cost"]),
        ("wall_s", budget["spent_wall_s"], budget["wall_s"]),
    )
    spent = [f"{name} {used} of {most}" for name, used, most in figures if most is not None and used >= most]
    until = f"begins anew at {budget['renews_at']}" if budget["renews_at"] is not None else "has to be raised"
    for_what = "of the day" if budget["period"] == "day" else "altogether"
    return f"the budget {whose} {for_what} is spent ({', '.join(spent)}): it {until}"


QUERIES = (
    QuerySpec("budget.list", ListBudgets, list_budgets, Route("GET", "/api/budgets"), doc_of(ListBudgets)),
    QuerySpec("budget.show", ShowBudget, show_budget, Route("GET", "/api/budgets/{key}"), doc_of(ShowBudget)),
)
