"""Random histories of the pure scheduler, in which everything is late, comes twice or out of order, and clocks jump.

Each history has a seed of its own; `python -m tests.laws SEED` runs it again, and shortens it to the steps that are
enough. What a failing one comes down to is kept in tests/core/test_laws.py.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

from tests.accept.script import Figures, Options, expect, main, note
from tests.laws import BREAKS, World, steps_of
from tests.siege import siege

STEPS = 300
# In one of so many histories everything that still waits is explained, from views of its own.
EXPLAINED = 20
WORKERS = 2


class Found(NamedTuple):
    """What a history, or a siege, came to."""

    seed: int
    failure: str | None
    did: Counter[str]
    held: Counter[str]


def run(options: Options) -> Figures:
    """Histories, then sieges; the first failure by its seed."""
    histories, sieges = options.count(2_000, 60), options.count(500, 30)
    seeds = range(options.seed, options.seed + histories)
    note(f"seeds {seeds[0]} to {seeds[-1]}, {STEPS} steps each")
    did: Counter[str] = Counter()
    held: Counter[str] = Counter()
    with ProcessPoolExecutor(WORKERS) as pool:
        for found in pool.map(_history, seeds, repeat(options.seed), chunksize=10):
            again = f"{found.failure}; again: .venv/bin/python -m tests.laws {found.seed} {STEPS}"
            expect(found.failure is None, f"seed {found.seed}: {again}")
            did += found.did
            held += found.held
            if not (found.seed - options.seed + 1) % 200:
                note(f"{found.seed - options.seed + 1} histories")
        for found in pool.map(_siege, range(options.seed, options.seed + sieges), chunksize=10):
            again = f"{found.failure}; again: .venv/bin/python -m tests.siege {found.seed}"
            expect(found.failure is None, f"siege {found.seed}: {again}")
            held += found.held
    commits = did.pop("commits")
    for title, counts in (("steps", did), ("held", held)):
        note(f"{title}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    return {
        "seeds": f"{seeds[0]} to {seeds[-1]}",
        "histories": histories,
        "sieges": sieges,
        "steps": sum(did.values()),
        "commits": commits,
        "kinds_of_steps": dict(sorted(did.items())),
        "held": dict(sorted(held.items())),
    }


def _history(seed: int, first: int) -> Found:
    try:
        world = World.after(steps_of(seed, STEPS))
        if (seed - first) % EXPLAINED == 0:
            with tempfile.TemporaryDirectory() as folder:
                asyncio.run(world.explained(Path(folder)))
        world.finish()
    except BREAKS as broken:
        return Found(seed, f"{type(broken).__name__}: {broken}", Counter(), Counter())
    return Found(seed, None, world.did, world.held)


def _siege(seed: int) -> Found:
    try:
        bound = siege(seed)
    except AssertionError as broken:
        return Found(seed, str(broken), Counter(), Counter())
    held = Counter({"besieged tasks within their bound": 1, "tasks that came before a besieged one": sum(bound[:2])})
    return Found(seed, None, Counter(), held)


if __name__ == "__main__":
    main("laws", run)
