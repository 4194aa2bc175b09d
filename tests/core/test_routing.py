"""Which agent type gets a task: learned from how its attempts ended."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from core.scheduling.images import fleet_of, image_of
from core.scheduling.statistics import Arm, Statistics, draw_of
from core.task import AttemptEnded, TaskQueued
from tests.given import assigned
from tests.scene import Scene

LEARN, MEASURE, MORE_THAN = 300, 200, 0.8


class World:
    """Two agent types. The good one is twice as fast on `draw`; on `write` the other one fails three times in ten."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.statistics = Statistics()
        self.good = {"draw": "ann", "write": "bob"}

    def does(self, task_type: str) -> bool:
        """One task of this type is routed and done; whether it went to the better."""
        scores = self.statistics.scores(task_type, ("ann", "bob"), self.rng.random())
        chosen = min(scores, key=lambda name: scores[name])
        well = chosen == self.good[task_type]
        took_ms = 1_000 * self.rng.lognormvariate(0, 0.2) * (2 if task_type == "draw" and not well else 1)
        failed = task_type == "write" and not well and self.rng.random() < 0.3
        self.statistics.learn(task_type, chosen, "failed" if failed else "completed", took_ms)
        return well

    def share(self, task_type: str) -> float:
        """The part that goes to the better, once it has learned."""
        for _ in range(LEARN):
            self.does(task_type)
        return sum(self.does(task_type) for _ in range(MEASURE)) / MEASURE

    def swaps(self) -> None:
        self.good = {task_type: "bob" if name == "ann" else "ann" for task_type, name in self.good.items()}


@pytest.mark.parametrize("seed", range(20))
def test_most_tasks_go_to_the_better_and_again_after_they_have_swapped(seed: int) -> None:
    world = World(seed)
    before = {task_type: world.share(task_type) for task_type in world.good}
    world.swaps()
    after = {task_type: world.share(task_type) for task_type in world.good}
    assert all(share > MORE_THAN for share in (*before.values(), *after.values())), (seed, before, after)


def test_what_was_lost_or_called_off_says_nothing_of_who_did_it() -> None:
    statistics = Statistics()
    for outcome in ("crashed", "lease_expired", "voided", "cancelled", "interrupted", ""):
        statistics.learn("draw", "ann", outcome, 10.0)
    assert statistics.arms == {}


def test_outcomes_of_a_type_make_all_its_arms_older_and_no_other() -> None:
    statistics = Statistics({"draw": {"ann": Arm(well=10.0, log_ms=20.0)}, "write": {"ann": Arm(well=10.0)}})
    statistics.learn("draw", "bob", "failed", 10.0)
    assert statistics.arms["draw"]["ann"].well == pytest.approx(9.85)
    assert statistics.arms["draw"]["bob"] == Arm(badly=1.0)
    assert statistics.arms["write"] == {"ann": Arm(well=10.0)}


def test_the_same_draw_gives_the_same_scores() -> None:
    statistics = Statistics({"draw": {"ann": Arm(well=3.0, badly=1.0, log_ms=20.0)}})
    assert statistics.scores("draw", ("bob", "ann"), 0.25) == statistics.scores("draw", ("ann", "bob"), 0.25)
    assert statistics.scores("draw", ("ann",), 0.25) != statistics.scores("draw", ("ann",), 0.5)


# In the scheduler


def two_types() -> Scene:
    """Given agents of two types that can do the same."""
    return Scene().host(slots=8).agent("s", slots=4).agent("p", type="painter", slots=4)


def test_the_choice_between_types_is_recorded_with_its_draw_and_scores() -> None:
    scene = two_types().task("t", agent_type=None)
    [decision] = scene.decides()
    routing = decision.command.routing  # type: ignore[attr-defined]
    assert (routing.folded, routing.draw) == (scene.fleet.position, draw_of("t", scene.fleet.position))
    assert set(routing.scores) == {"shell", "painter"}
    best = min(routing.scores, key=lambda name: routing.scores[name])
    assert decision.command.agent_type == best  # type: ignore[attr-defined]


def test_where_one_type_is_free_nothing_is_drawn() -> None:
    scene = two_types().task("t", agent_type="painter").task("u", agent_type=None, routing="least_loaded")
    assert [d.command.routing for d in scene.decides()] == [None, None]  # type: ignore[attr-defined]


def test_the_fold_learns_from_the_log_who_does_what_well() -> None:
    scene = two_types()
    for number in range(60):
        task, kind = f"t{number}", ("painter", "p") if number % 2 else ("shell", "s")
        scene.task(task, agent_type=None)
        scene.has("task", task, assigned(agent_id=kind[1], agent_type=kind[0]), after_ms=1)
        ended = AttemptEnded(fence=scene.history.positions["task", task], agent_id=kind[1], outcome="failed", error="x")
        if kind[0] == "shell":
            scene.has("task", task, ended, TaskQueued(), after_ms=100)
            scene.has("task", task, assigned(agent_id="p", agent_type="painter", attempt=2))
        scene.done(task, "p", after_ms=100)
    scene.decides()
    arms = scene.fleet.statistics.arms["greet"]
    assert (arms["shell"].well, arms["painter"].badly) == (0.0, 0.0)
    assert fleet_of(image_of(scene.fleet)).statistics == scene.fleet.statistics
    for number in range(4):
        scene.task(f"next{number}", agent_type=None)
    assert Counter(d.command.agent_type for d in scene.decides()) == {"painter": 4}  # type: ignore[attr-defined]
