"""A task's own budget: what its attempts say they used, counted over all of them.

An attempt says what it has used from its beginning, so that a word which is lost, or comes twice, changes nothing; an
event holds what came on top of what is known.
"""

from __future__ import annotations

from core.execution import Usage
from core.kernel.errors import Unprocessable
from core.task.events import Used
from core.task.state import Task
from core.task.usage import NANO, nano


def more_than_zero(value: float | None, pointer: str) -> None:
    """Raises Unprocessable for a budget that nothing fits into."""
    if value is not None and not value > 0:
        raise Unprocessable(
            f"A budget of {value:g} is spent before anything begins.",
            code="zero_budget",
            pointer=pointer,
            remedy="Give more than 0, or leave it out: then it is not limited.",
        )


def used_on(state: Task, usage: Usage | None) -> Used | None:
    """What an attempt used on top of what it has told; None where it tells nothing."""
    if usage is None:
        return None
    return Used(tokens=_more_tokens(state, usage), cost=_more_cost(state, usage), project=state.spec.project)


def used_at_end(state: Task, usage: Usage | None, now_ms: int) -> Used | None:
    """The same at its end, with the time that it held its slot."""
    # Where the clock went back nobody knows how long it was.
    wall_ms = now_ms - state.assigned_ms if now_ms > state.assigned_ms else None
    if usage is None:
        return Used(wall_ms=wall_ms, project=state.spec.project) if wall_ms is not None else None
    return Used(
        tokens=_more_tokens(state, usage),
        cost=_more_cost(state, usage),
        wall_ms=wall_ms,
        project=state.spec.project,
    )


def _more_tokens(state: Task, usage: Usage) -> int | None:
    return None if usage.tokens is None else max(0, usage.tokens - state.told.tokens)


def _more_cost(state: Task, usage: Usage) -> float | None:
    return None if usage.cost is None else max(0, nano(usage.cost) - state.told.cost_n) / NANO


def overrun(state: Task, used: Used | None) -> str | None:
    """The sentence for a task that has used more than its budget, None for any other.

    What is being stopped for another reason ends for that one.
    """
    if state.expires is not None or (state.cancelling and not state.overrun):
        return None
    spec = state.spec
    if spec.max_tokens is None and spec.max_cost is None:
        return None
    spent = state.spent if used is None else state.spent.plus(used)
    if spec.max_tokens is not None and spent.tokens > spec.max_tokens:
        return f"It used {spent.tokens} tokens; its budget is {spec.max_tokens} (max_tokens)."
    if spec.max_cost is not None and spent.cost_n > nano(spec.max_cost):
        return f"It cost {spent.cost_n / NANO:g}; its budget is {spec.max_cost:g} (max_cost)."
    return None


def nothing_left(state: Task, used: Used | None) -> str | None:
    """The sentence for a task whose budget leaves nothing to another attempt, None for any other."""
    left = left_of(state, used)
    if left.tokens == 0:
        return f"Its attempts used the {state.spec.max_tokens} tokens of its budget (max_tokens)."
    if left.cost == 0:
        return f"Its attempts used the {state.spec.max_cost:g} of its budget (max_cost)."
    return None


def left_of(state: Task, used: Used | None = None) -> Usage:
    """What a task's budget leaves to its next attempt; null where it has none."""
    spec = state.spec
    if spec.max_tokens is None and spec.max_cost is None:
        return Usage()
    spent = state.spent if used is None else state.spent.plus(used)
    return Usage(
        tokens=None if spec.max_tokens is None else max(0, spec.max_tokens - spent.tokens),
        cost=None if spec.max_cost is None else max(0, nano(spec.max_cost) - spent.cost_n) / NANO,
    )
