"""Tasks go to the agent type that does them better, once that is known, and again after the types have swapped."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

from core.scheduling.statistics import Statistics
from tests.accept.program import Client, Program
from tests.accept.script import Figures, Options, expect, main, note

SEEDS = 20
LEARN, MEASURE = 300, 200
MORE_THAN = 0.8
QUICK_S, SLOW_S = 0.02, 0.04
AT_ONCE = 2
SETTLE_S_MAX = 600

# $1 is the id of the agent that does it well, $2 a digit drawn for this task.
DRAW = f'if [ "$HIVEBUS_AGENT_ID" = "$1" ]; then sleep {QUICK_S}; else sleep {SLOW_S}; fi'
WRITE = '[ "$HIVEBUS_AGENT_ID" = "$1" ] || [ "$2" -ge 3 ]'


def run(options: Options) -> Figures:
    """Two agent types: one is twice as fast on one task type and fails three times in ten on another."""
    pure = [_pure(options.seed + number) for number in range(SEEDS)]
    worst = min(share for shares in pure for share in shares)
    note(f"pure: the worst share of {SEEDS} seeds is {worst}")
    expect(worst > MORE_THAN, f"in a seed only {worst} went to the better")
    with tempfile.TemporaryDirectory() as folder:
        live = _live(options, Path(folder))
    return {"seeds": SEEDS, "worst_share": worst, "live": live}


def _pure(seed: int) -> list[float]:
    rng = random.Random(seed)
    statistics = Statistics()
    shares = []
    for good in ({"draw": "ann", "write": "bob"}, {"draw": "bob", "write": "ann"}):
        for task_type, better in good.items():
            went = []
            for _ in range(LEARN + MEASURE):
                scores = statistics.scores(task_type, ("ann", "bob"), rng.random())
                chosen = min(scores, key=lambda name: scores[name])
                took_ms = 1_000 * rng.lognormvariate(0, 0.2) * (1 if task_type != "draw" or chosen == better else 2)
                failed = task_type == "write" and chosen != better and rng.random() < 0.3
                statistics.learn(task_type, chosen, "failed" if failed else "completed", took_ms)
                went.append(chosen == better)
            shares.append(sum(went[LEARN:]) / MEASURE)
    return shares


def _live(options: Options, folder: Path) -> Figures:
    # What was learned before the swap has to be unlearned: fewer than the Show allows would show something else.
    learn, measure = LEARN, options.count(MEASURE, 50)
    rng = random.Random(options.seed)
    with Program(folder / "data", HIVEBUS_PROFILE="fast") as program:
        client = program.client()
        ann, bob = (_spawn(client, name) for name in ("ann", "bob"))
        shares: dict[str, float] = {}
        for phase, good in (("before", (ann, bob)), ("after the swap", (bob, ann))):
            for task_type, script, better in (("draw", DRAW, good[0]), ("write", WRITE, good[1])):
                went = _go(client, rng, task_type, ["sh", "-c", script, "sh", better], learn + measure)
                share = went[learn:].count(better) / measure
                shares[f"{task_type} {phase}"] = round(share, 3)
                note(f"{task_type} {phase}: {share:.2f} of the last {measure} went to the better")
                expect(share > MORE_THAN, f"{task_type} {phase}: only {share:.2f} went to the better")
        return {"learned_on": learn, "shares": shares}


def _spawn(client: Client, kind: str) -> str:
    body = {"type": kind, "executor": "command", "capabilities": ["routed"], "slots": 64}
    answer = client.request("POST", "/api/agents", body)
    expect(answer.status == 202, f"spawn: {answer.raw!r}")
    return str(answer.json["agent_id"])


def _go(client: Client, rng: random.Random, task_type: str, argv: list[str], count: int) -> list[str]:
    """Run so many tasks, few at a time so that both types are always free; who got the first attempt of each."""
    item = {
        "type": task_type,
        "executor": "command",
        "requires": ["routed"],
        "retry": {"max_attempts": 1},
    }
    after = client.get("/api/status")["positions"]["recorded"]
    waiting: set[str] = set()
    sent = 0
    chosen: list[str] = []
    deadline = time.monotonic() + SETTLE_S_MAX
    while len(chosen) < count or waiting:
        expect(time.monotonic() < deadline, "the tasks did not end")
        while sent < count and len(waiting) < AT_ONCE:
            parameters = {"argv": [*argv, str(rng.randrange(10))]}
            answer = client.request("POST", "/api/tasks", item | {"parameters": parameters})
            expect(answer.status == 202, f"submit: {answer.raw!r}")
            waiting.add(answer.json["task_id"])
            sent += 1
        answer = client.request("GET", f"/api/events?after={after}&noun=task&wait=5&limit=1000")
        after = int(answer.headers["hivebus-next"])
        for event in answer.lines:
            _note_event(event, waiting, chosen)
    return chosen


def _note_event(event: dict[str, Any], waiting: set[str], chosen: list[str]) -> None:
    kind, task = event["type"], event["subject"].removeprefix("task/")
    if kind == "hivebus.task.assigned":
        chosen.append(event["data"]["agent_id"])
    elif kind in ("hivebus.task.completed", "hivebus.task.failed"):
        waiting.discard(task)


if __name__ == "__main__":
    main("routing", run)
