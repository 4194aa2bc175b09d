"""The limit: how many tasks that name a key run at a time, how fast they may start, and how much a share weighs."""

from __future__ import annotations

import math
from typing import Annotated, Any, TypedDict

from msgspec import Meta, Struct

from core.kernel.commit import Event, Moment
from core.kernel.errors import Unprocessable
from core.kernel.ids import named
from core.kernel.registry import Aggregate, Context, Route

limit = Aggregate("limit")

Key = Annotated[str, Meta(min_length=1, max_length=200)]


@limit.event("limit.changed")
class LimitChanged(Event, frozen=True):
    """From here on this is the limit of the key; whatever it does not say is not limited by it."""

    key: str
    concurrency: int | None = None
    rate_per_s: float | None = None
    burst: int | None = None
    weight: float | None = None


class Limit(Struct, frozen=True):
    """The newest limit of a key."""

    spec: LimitChanged
    status: str = "set"


@limit.evolves
def evolve(state: Limit | None, event: LimitChanged, moment: Moment) -> Limit:
    """The last one counts."""
    return Limit(event)


class SetLimit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Set the limit of a key, for the whole fleet.

    `concurrency` counts tasks with this `concurrency_key` that run at a time (0 holds all of them back), `rate_per_s`
    and `burst` say how fast tasks with this `rate_key` may start, `weight` is this `fairness_key`'s share beside the
    other keys of its principal. What is left out is not limited; a concurrency_key without a limit lets one run.
    """

    key: Key
    concurrency: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    # The least rate is one start in twelve days; what is divided by it, or by a weight, must stay a number.
    rate_per_s: Annotated[float, Meta(ge=1e-6, le=100_000)] | None = None
    burst: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    weight: Annotated[float, Meta(ge=0.001, le=1_000)] | None = None


def limit_id(key: str) -> str:
    """The aggregate's id: a hash, for a subject is never text of a user."""
    return named("limit", key)


class Limited(TypedDict):
    """What the limit of a key is from here on; null is not limited."""

    key: str
    concurrency: int | None
    rate_per_s: float | None
    burst: int | None
    weight: float | None


def _answer(command: SetLimit, accepted: Any) -> Limited:
    spec: LimitChanged = accepted.state.spec
    return {
        "key": spec.key,
        "concurrency": spec.concurrency,
        "rate_per_s": spec.rate_per_s,
        "burst": spec.burst,
        "weight": spec.weight,
    }


@limit.decides(
    "limit.set",
    route=Route("PUT", "/api/limits/{key}", 202),
    upserts=True,
    target="key",
    identify=limit_id,
    answer=_answer,
)
def set_limit(command: SetLimit, state: Limit | None, context: Context) -> list[LimitChanged]:
    """Set to what it is already, it is no change."""
    if command.burst is not None and command.rate_per_s is None:
        raise Unprocessable("burst says nothing without rate_per_s.", pointer="/burst", remedy="Add rate_per_s.")
    burst = None if command.rate_per_s is None else command.burst or max(1, math.ceil(command.rate_per_s))
    asked = LimitChanged(
        key=command.key,
        concurrency=command.concurrency,
        rate_per_s=command.rate_per_s,
        burst=burst,
        weight=command.weight,
    )
    return [] if state is not None and state.spec == asked else [asked]
