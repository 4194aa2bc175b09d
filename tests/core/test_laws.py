"""Laws of the scheduler: whatever comes, late, twice or out of order, and however clocks jump (tests/laws.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given as sampled
from hypothesis import settings

from tests.laws import KINDS, LAWS, Step, World, steps_of
from tests.siege import siege

SEEDS = range(12)
# Of tests/accept/laws.py, each with the steps that were enough; each failed once.
FAILED: list[list[Step]] = [
    # A schedule that was removed and set again while the clock stood before its last run never fired again, and its
    # run was marked for ever.
    [("schedule", 5), ("jump back", 3), ("rearrange", 5), ("schedule", 5), ("jump", 4), ("rest", 0)],
    # Of this the end came too early: a retry that a jump had put off by a day was not waited for.
    [
        *[
            ("owners", 5),
            ("submit", 2),
            ("rush", 2),
            ("jump", 6),
            ("lost", 4),
            ("lose", 6),
            ("deliver", 6),
            ("rush", 0),
        ],
        *[("jump back", 7), ("register", 4), ("rest", 0), ("pause", 0)],
    ],
]


@settings(max_examples=100)
@sampled(LAWS)
def test_every_law_holds_whatever_happens(steps: list[Step]) -> None:
    World.after(steps).finish()


@pytest.mark.parametrize("seed", SEEDS)
def test_every_law_holds_over_a_long_history(seed: int) -> None:
    world = World.after(steps_of(seed, 300))
    world.finish()
    assert world.held["accepted tasks that ended"] > 0


@pytest.mark.parametrize("steps", FAILED)
def test_what_once_broke_a_law_does_not_again(steps: list[Step]) -> None:
    World.after(steps).finish()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_task_that_is_besieged_runs_within_its_bound(seed: int) -> None:
    siege(seed)


@pytest.mark.parametrize("seed", [3, 7])
async def test_what_still_waits_when_nobody_says_a_word_says_why(seed: int, tmp_path: Path) -> None:
    world = World.after(steps_of(seed, 300))
    assert await world.explained(tmp_path)


def test_each_kind_of_step_and_each_law_comes_up_in_a_dozen_histories() -> None:
    worlds = [World.after(steps_of(seed, 300)) for seed in SEEDS]
    for world in worlds:
        world.finish()
    assert set(KINDS) <= {kind for world in worlds for kind in world.did}
    held = {law for world in worlds for law in world.held}
    assert {"void assignments of a deposed scheduler", "limits of concurrency", "spans of a rate"} <= held
