"""Which agent type does a task type well: learned from the log, drawn by discounted Thompson sampling.

For each (task type, agent type) the fold keeps how many attempts ended well and badly and how long the good ones took,
each worth a little less with every outcome of that task type, so that what changes is found out again. A choice draws,
for each candidate, a probability of success (Beta) and a duration (log-normal) from what is known, and takes the least
time per success. The draw is recorded with its scores; a replay folds the record and draws nothing.

Thompson (Biometrika 1933); Raj and Kalyani, "Taming Non-stationary Bandits" (2017) for the discount.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable

import msgspec
from msgspec import Struct

# About the last seventy outcomes speak: what one is worth after each later one of its task type.
DISCOUNT = 0.985
# How far apart durations of one kind of work lie, as the deviation of their logarithm, before any is known.
SPREAD = 0.3
TYPES_MAX = 10_000
AGENT_TYPES_MAX = 64

WELL = frozenset({"completed"})
BADLY = frozenset({"failed", "timed_out", "output_limit", "budget_exceeded"})


class Arm(Struct):
    """What is known of an agent type's work on a task type, discounted. `log_ms` sums the logarithms of durations."""

    well: float = 0.0
    badly: float = 0.0
    log_ms: float = 0.0


class Statistics(Struct):
    """All arms, by task type and agent type."""

    arms: dict[str, dict[str, Arm]] = msgspec.field(default_factory=dict)

    def learn(self, task_type: str, agent_type: str, outcome: str, took_ms: float) -> None:
        """An attempt ended. One that was lost, cancelled or interrupted says nothing of who did it."""
        if not agent_type or (outcome not in WELL and outcome not in BADLY):
            return
        arms = self.arms.get(task_type)
        if arms is None:
            if len(self.arms) >= TYPES_MAX:
                del self.arms[next(iter(self.arms))]
            arms = self.arms[task_type] = {}
        for arm in arms.values():
            arm.well *= DISCOUNT
            arm.badly *= DISCOUNT
            arm.log_ms *= DISCOUNT
        if agent_type not in arms and len(arms) >= AGENT_TYPES_MAX:
            del arms[next(iter(arms))]
        arm = arms.setdefault(agent_type, Arm())
        if outcome in WELL:
            arm.well += 1.0
            arm.log_ms += math.log(max(1.0, took_ms))
        else:
            arm.badly += 1.0

    def scores(self, task_type: str, agent_types: Iterable[str], draw: float) -> dict[str, float]:
        """For each agent type the drawn milliseconds per success: the least is the best."""
        # Reproducible and not secret: what is drawn follows from the recorded draw.
        rng = random.Random(draw)  # noqa: S311
        arms = self.arms.get(task_type, {})
        known = [arm for arm in arms.values() if arm.well > 0]
        # Of whom nothing is known is thought to be as fast as the others.
        usual = sum(arm.log_ms for arm in known) / sum(arm.well for arm in known) if known else 0.0
        return {name: _draw(arms.get(name), usual, rng) for name in sorted(agent_types)}


def _draw(arm: Arm | None, usual: float, rng: random.Random) -> float:
    well, badly, log_ms = (0.0, 0.0, 0.0) if arm is None else (arm.well, arm.badly, arm.log_ms)
    success = max(1e-6, rng.betavariate(well + 1.0, badly + 1.0))
    # One imagined outcome at the usual duration keeps a single lucky one from deciding.
    mean = (log_ms + usual) / (well + 1.0)
    return math.exp(rng.gauss(mean, SPREAD / math.sqrt(well + 1.0))) / success


def draw_of(task_id: str, position: int) -> float:
    """The random number of a decision, in [0, 1): the same for whoever decides on the same fold."""
    digest = hashlib.sha256(f"route {task_id} {position}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)
