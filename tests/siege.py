"""A siege: one task of the lowest priority waits, and others are drawn to keep it from its turn.

Every slot finds new work each round: of the task's own key with the highest priority, of other keys of its principal,
of other principals, of keys and principals that are used once. The bound in docs/explanation/scheduling-and-fences.md
says how long that can go on.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from core.scheduling.entries import AGE_STEP_MS
from core.scheduling.shares import PACE
from tests.scene import Scene

ROUNDS_MAX = 60_000
TOP = 9


class Bound(NamedTuple):
    """What came before the task, and how much might have."""

    own: int
    others: int
    others_max: int
    keys: int
    principals: int
    aged_s: float


def siege(seed: int) -> Bound:
    """Besiege a task until it runs. Raises AssertionError where the bound does not hold."""
    rng = random.Random(seed)
    slots = rng.randint(1, 4)
    scene = Scene().host(slots=slots).agent(slots=slots)
    mine = ("ann", "k0")
    flows = [("ann", f"k{n}") for n in range(rng.randint(1, 3))] + [("bob", "k0"), ("cid", "k1")][: rng.randint(0, 2)]
    once = rng.choice(((), ("key",), ("principal",), ("key", "principal")))
    kinds = rng.choice(((*once, "", mine), once or ("",), once or (mine,)))
    took_ms = rng.choice((5_000, 10_000, 30_000))
    priority = rng.randint(0, 5)
    begun_ms = scene.history.now_ms
    scene.task("victim", actor=mine[0], fairness_key=mine[1], priority=priority)
    # Its own key has a turn while it waits, and owes for it.
    for number in range(slots):
        scene.task(f"before{number}", actor=mine[0], fairness_key=mine[1], priority=TOP)
    owed = len(scene.runs(took_ms=took_ms))
    flow_of, times = {"victim": mine}, {"victim": begun_ms}
    own = others = number = 0
    keys_max = principals_max = 1
    # At first two for each slot, then as many as there are slots: what waits does not grow without end.
    for round_ in range(ROUNDS_MAX):
        for _ in range(2 * slots if round_ < 3 else slots):
            number += 1
            flow = rng.choice(flows)
            kind = rng.choice(kinds)
            flow = {"key": (flow[0], f"once{number}"), "principal": (f"somebody {number}", "k0")}.get(str(kind), flow)
            flow = mine if kind is mine else flow
            id_ = f"t{number}"
            flow_of[id_], times[id_] = flow, scene.history.now_ms
            scene.task(id_, actor=flow[0], fairness_key=flow[1], priority=TOP, after_ms=rng.randint(0, 3))
        scene.decides(limit=0)
        live = {flow_of.get(entry, mine) for entry in scene.fleet.tasks}
        keys_max = max(keys_max, sum(principal == mine[0] for principal, _ in live))
        principals_max = max(principals_max, len({principal for principal, _ in live}))
        ran = scene.runs(took_ms=took_ms)
        assert len(ran) == slots, "a slot was left free"
        if "victim" in ran:
            break
        for id_ in ran:
            own += flow_of[id_] == mine
            others += flow_of[id_] != mine
            head_start_ms = (TOP - priority) * AGE_STEP_MS
            passed = flow_of[id_] == mine and times[id_] > begun_ms + head_start_ms
            assert not passed, f"{id_} is younger by more than its priority is worth, and came first"
    else:
        raise AssertionError(f"the task still waits after {ROUNDS_MAX} rounds")
    turns = own + owed + 1
    # Where none is used once, tags alone keep the order, and every flow has its turn in each round of them.
    pace = PACE if once else 1
    others_max = turns * (pace * keys_max + 1) * (pace * principals_max + 1)
    assert others <= others_max, f"{others} tasks of others came first, and the bound is {others_max}"
    return Bound(own, others, others_max, keys_max, principals_max, (scene.history.now_ms - begun_ms) / 1000)


if __name__ == "__main__":
    import sys

    print(siege(int(sys.argv[1])))
