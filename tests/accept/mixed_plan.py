"""The tasks of the Show `mixed`: drawn from a seed, each with how it must end."""

from __future__ import annotations

import datetime
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

# What makes a host's death no failure of a task: it is tried again for as long as it takes.
CRASHES_MAX = 100
NOBODY = "nobody"
LANE = "lane"
# An outage must fit into a deadline: a batch whose answer was lost is sent again as it was.
DEADLINE_S = 20.0
LATER_S = (0.5, 4.0)
TYPES = ("writer", "coder", "tester", "reviewer", "analyst", "planner")
CONCURRENCY = {"one": None, "two": 2, "three": 3, "five": 5, "eight": 8}
RATES = {"slow": (5.0, 3), "quick": (15.0, 4), "drip": (2.0, 1)}
FAIRNESS = {"small": 0.5, "usual": 1.0, "double": 2.0, "large": 8.0}

Act = Literal["cancel", "cancel_running", "answer", "approve"]


@dataclass
class Planned:
    """A task and what the seed foresees of it.

    `ends`: how it may end. `value`: what its function must return. `failed`: how many attempts fail of themselves.
    `reason`: why it expires, or the outcome that it fails by. `act`: what the script does to it, and when.
    """

    kind: str
    item: dict[str, Any]
    ends: tuple[str, ...] = ("completed",)
    value: Any = None
    failed: int | None = 0
    reason: str | None = None
    act: Act | None = None
    number: int = field(default=-1)
    times: dict[str, float] = field(default_factory=dict)

    def sent(self) -> dict[str, Any]:
        """What is submitted now: `times` are seconds from here."""
        now = datetime.datetime.now(datetime.UTC)
        return self.item | {name: (now + datetime.timedelta(seconds=s)).isoformat() for name, s in self.times.items()}


class Plan:
    """Groups of tasks that are submitted together; `all` holds each task under its number, which is its name."""

    def __init__(self, seed: int, count: int) -> None:
        self._rng = random.Random(seed)
        self._count = count
        self._groups = 0
        self.all: list[Planned] = []

    def batches(self, size: int) -> Iterator[list[Planned]]:
        """Batches of about so many tasks; a group lies in one."""
        batch: list[Planned] = []
        while len(self.all) < self._count:
            batch += self._group()
            if len(batch) >= size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _group(self) -> list[Planned]:
        left = self._count - len(self.all)
        makers, weights = zip(*_MAKERS, strict=True)
        group: list[Planned] = self._rng.choices(makers, weights)[0](self)
        group = group if len(group) <= left else self._plain()
        self._groups += 1
        for planned in group:
            planned.number = len(self.all)
            planned.item["name"] = str(planned.number)
            self._spice(planned.item)
            self.all.append(planned)
        return group

    def _spice(self, item: dict[str, Any]) -> None:
        """Priority, project and fairness key, wherever the kind says nothing of them."""
        rng = self._rng
        item.setdefault("priority", rng.choice((1, 3, 5, 5, 5, 7, 9)))
        if "project" not in item:
            item["project"] = rng.choice(("north", "south"))
            if rng.random() < 0.5:
                item["fairness_key"] = rng.choice(list(FAIRNESS))

    def _item(self, type_: str, function: str, retry: dict[str, Any] | None = None, **arguments: Any) -> dict[str, Any]:
        policy = {"max_crashes": CRASHES_MAX, "initial_interval_ms": 20, "max_interval_ms": 200} | (retry or {})
        parameters = {"function": function, "arguments": arguments}
        return {"type": type_, "executor": "python", "parameters": parameters, "retry": policy}

    def _echo(self, type_: str = "echo") -> tuple[dict[str, Any], int]:
        number = self._rng.randrange(1000)
        return self._item(type_, "echo", n=number), number

    def _nap(self) -> dict[str, Any]:
        return self._item("nap", "sleep", seconds=round(self._rng.uniform(0.002, 0.06), 4))

    def _ref(self, name: str) -> str:
        return f"{self._groups}.{name}"

    # --- the kinds ---

    def _plain(self) -> list[Planned]:
        item, number = self._echo()
        return [Planned("plain", item, value={"n": number})]

    def _typed(self) -> list[Planned]:
        kind = self._rng.choice(TYPES)
        item, number = self._echo(kind)
        item |= self._rng.choice(({"agent_type": kind}, {"requires": [f"can-{kind}"]}))
        return [Planned("typed", item, value={"n": number})]

    def _program(self) -> list[Planned]:
        item = {
            "type": "program",
            "executor": "command",
            "parameters": {"argv": ["echo", "done"]},
            "retry": {"max_crashes": CRASHES_MAX},
        }
        return [Planned("program", item)]

    def _lane(self) -> list[Planned]:
        priorities = [self._rng.randrange(10) for _ in range(4)]
        return [
            Planned("lane", self._item(LANE, "noop") | {"agent_type": LANE, "project": LANE, "priority": priority})
            for priority in priorities
        ]

    def _keyed(self) -> list[Planned]:
        item = self._nap() | {"concurrency_key": self._rng.choice(list(CONCURRENCY))}
        if self._rng.random() < 0.1:
            item["rate_key"] = "quick"
        return [Planned("concurrency", item)]

    def _rated(self) -> list[Planned]:
        """More at once than the bucket holds."""
        key = self._rng.choices(list(RATES), [4, 10, 1])[0]
        return [Planned("rate", self._item("rated", "noop") | {"rate_key": key}) for _ in range(2 * RATES[key][1])]

    def _flaky(self) -> list[Planned]:
        fails = self._rng.randrange(1, 4)
        item = self._item("flaky", "flaky", {"max_attempts": fails + 1}, fails=fails)
        return [Planned("flaky", item, failed=None)]

    def _doomed(self) -> list[Planned]:
        tries = self._rng.randrange(1, 4)
        item = self._item("doomed", "flaky", {"max_attempts": tries}, fails=1_000_000)
        return [Planned("doomed", item, ("failed",), failed=tries, reason="failed")]

    def _wrong(self) -> list[Planned]:
        return [Planned("wrong", self._item("wrong", "no-such"), ("failed",), failed=1, reason="failed")]

    def _slow(self) -> list[Planned]:
        tries = self._rng.randrange(1, 3)
        item = self._item("slow", "sleep", {"max_attempts": tries}, seconds=600) | {"timeout_s": 0.2}
        return [Planned("attempt timeout", item, ("failed",), failed=tries, reason="timed_out")]

    def _chain(self) -> list[Planned]:
        """Each adds a number to what the one before gave."""
        item, total = self._echo()
        group = [Planned("chain", item | {"ref": self._ref("0")}, value={"n": total})]
        for index in range(1, self._rng.randrange(2, 5)):
            more = self._rng.randrange(100)
            total += more
            item = self._item("sum", "sum", b=more) | {"ref": self._ref(str(index))}
            item["depends_on"] = [self._data(str(index - 1), "a")]
            group.append(Planned("chain", item, value={"n": total}))
        return group

    def _diamond(self) -> list[Planned]:
        """One gives to several, and one takes what all of them made of it; they are submitted in any order."""
        width = self._rng.choice((2, 2, 6))
        item, number = self._echo()
        group = [Planned("diamond", item | {"ref": self._ref("root")}, value={"n": number})]
        total, gather = 0, []
        for index in range(width):
            item = self._item("sum", "sum", b=index) | {"ref": self._ref(str(index))}
            item["depends_on"] = [self._data("root", "a")]
            group.append(Planned("diamond", item, value={"n": number + index}))
            gather.append(self._data(str(index), f"x{index}"))
            total += number + index
        last = self._item("sum", "sum") | {"depends_on": gather}
        group.append(Planned("diamond", last, value={"n": total}))
        self._rng.shuffle(group)
        return group

    def _data(self, ref: str, argument: str) -> dict[str, str]:
        return {"type": "data", "task": f"@{self._ref(ref)}", "from": "/value/n", "into": f"/arguments/{argument}"}

    def _broken(self) -> list[Planned]:
        """What follows a failure: by the policy of each, and of theirs."""
        root = f"@{self._ref('root')}"
        group = [Planned("broken", self._item("doomed", "flaky", {"max_attempts": 1}, fails=1_000_000))]
        group[0].item["ref"] = self._ref("root")
        group[0].ends, group[0].failed, group[0].reason = ("failed",), 1, "failed"
        for policy, end in (("cancel", "cancelled"), ("fail", "failed"), ("run", "completed")):
            item = self._item("after", "noop") | {"depends_on": [root], "on_dependency_failure": policy}
            item["ref"] = self._ref(policy)
            group.append(Planned("broken", item, (end,), reason="dependency_failed" if end == "failed" else None))
        item = self._item("after", "noop") | {"depends_on": [f"@{self._ref('cancel')}", f"@{self._ref('run')}"]}
        group.append(Planned("broken", item, ("cancelled",)))
        return group

    def _queue_timeout(self) -> list[Planned]:
        seconds = round(self._rng.uniform(0.3, 3.0), 3)
        item = self._item("waits", "noop") | {"agent_type": NOBODY, "queue_timeout_s": seconds}
        return [Planned("queue timeout", item, ("expired",), reason="queue_timeout")]

    def _deadline(self) -> list[Planned]:
        item = self._item("waits", "noop") | {"agent_type": NOBODY}
        return [Planned("deadline", item, ("expired",), reason="deadline", times={"deadline": DEADLINE_S})]

    def _total_timeout(self) -> list[Planned]:
        seconds = round(self._rng.uniform(0.5, 2.0), 3)
        item = self._item("endless", "sleep", seconds=600) | {"total_timeout_s": seconds}
        return [Planned("total timeout", item, ("expired",), reason="total_timeout")]

    def _later(self) -> list[Planned]:
        item, number = self._echo()
        seconds = self._rng.uniform(*LATER_S)
        return [Planned("not before", item, value={"n": number}, times={"not_before": seconds})]

    def _cancel_waiting(self) -> list[Planned]:
        item = self._item("waits", "noop") | {"agent_type": NOBODY}
        return [Planned("cancel waiting", item, ("cancelled",), act="cancel")]

    def _cancel_running(self) -> list[Planned]:
        item = self._item("endless", "sleep", seconds=600)
        return [Planned("cancel running", item, ("cancelled",), act="cancel_running")]

    def _cancel_race(self) -> list[Planned]:
        item = self._item("nap", "sleep", seconds=round(self._rng.uniform(0.0, 1.5), 3))
        return [Planned("cancel race", item, ("cancelled", "completed"), act="cancel")]

    def _family(self) -> list[Planned]:
        """Parts of a task that is cancelled while it runs: some of them run too."""
        parent = self._item("endless", "sleep", seconds=600) | {"ref": self._ref("parent")}
        group = [Planned("family", parent, ("cancelled",), act="cancel_running")]
        for where in ({"agent_type": NOBODY}, {}):
            item = self._item("endless", "sleep", seconds=600) | {"parent": f"@{self._ref('parent')}"} | where
            group.append(Planned("family", item, ("cancelled",)))
        return group

    def _asks(self) -> list[Planned]:
        return [Planned("question", self._item("ask", "ask", question="Which?"), value="this", act="answer")]

    def _approval(self) -> list[Planned]:
        item, number = self._echo()
        item["depends_on"] = [{"type": "approval"}]
        return [Planned("approval", item, value={"n": number}, act="approve")]


_MAKERS = (
    (Plan._plain, 34.0),
    (Plan._typed, 12.0),
    (Plan._program, 2.0),
    (Plan._lane, 1.0),
    (Plan._keyed, 10.0),
    (Plan._rated, 1.2),
    (Plan._flaky, 6.0),
    (Plan._doomed, 2.5),
    (Plan._wrong, 0.5),
    (Plan._slow, 1.5),
    (Plan._chain, 6.0),
    (Plan._diamond, 3.0),
    (Plan._broken, 2.0),
    (Plan._queue_timeout, 1.0),
    (Plan._deadline, 1.0),
    (Plan._total_timeout, 1.0),
    (Plan._later, 3.0),
    (Plan._cancel_waiting, 1.5),
    (Plan._cancel_running, 1.0),
    (Plan._cancel_race, 3.0),
    (Plan._family, 0.7),
    (Plan._asks, 1.0),
    (Plan._approval, 1.0),
)
