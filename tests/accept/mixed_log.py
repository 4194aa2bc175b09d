"""A fold of the log by rules of its own, not the product's: at each position it is held what must hold there.

It raises Failed at the first position where a rule is broken.
"""

from __future__ import annotations

import datetime
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from tests.accept.mixed_plan import LANE
from tests.accept.script import expect

AGE_STEP_MS = 60_000
FINAL = {"task.completed", "task.failed", "task.cancelled", "task.expired"}
# Of an ended task nothing more is told, but for what a command about it found unchanged.
STILL = {"command.unchanged"}


@dataclass
class Held:
    """An attempt under way."""

    fence: int
    agent: str
    host: str
    void: bool


@dataclass
class Task:
    """A task as the log tells it; times in milliseconds."""

    spec: dict[str, Any]
    submitted_ms: int
    position: int
    status: str = "submitted"
    queued_at: int = 0
    not_before_ms: int = 0
    attempts: int = 0
    held: Held | None = None
    outcomes: list[str] = field(default_factory=list)
    approved: set[int] = field(default_factory=set)
    end: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int]:
        """Its place among the tasks of a line: a level of priority is worth a minute."""
        return self.submitted_ms - self.spec["priority"] * AGE_STEP_MS, self.position


@dataclass
class Bucket:
    """Of a rate: what is left of its burst, at a time."""

    rate_per_s: float
    burst: float
    tokens: float
    at_ms: int


@dataclass
class Schedule:
    """A schedule and what became of its times."""

    spec: dict[str, Any]
    set_ms: int
    ran: list[int] = field(default_factory=list)
    marked: list[int] = field(default_factory=list)
    skipped: list[tuple[int, str]] = field(default_factory=list)
    until: int = 0


class Log:
    """The whole of it, one event after the other."""

    def __init__(self) -> None:
        self.position = 0
        self.time_ms = 0
        self.term = 0
        self.tasks: dict[str, Task] = {}
        self.agents: dict[str, dict[str, Any]] = {}
        self.slots: dict[str, int] = {}
        self.using: Counter[str] = Counter()
        self.limits: dict[str, int | None] = {}
        self.holding: Counter[str] = Counter()
        self.buckets: dict[str, Bucket] = {}
        self.schedules: dict[str, Schedule] = {}
        self.fences: set[int] = set()
        self.lane: dict[str, Task] = {}
        self.lane_free_at = 0
        self.counts: Counter[str] = Counter()
        self.full: dict[str, int] = defaultdict(int)

    def fold(self, event: dict[str, Any]) -> None:
        """One event. Positions come without a gap."""
        kind, position, data = event["type"].removeprefix("hivebus."), int(event["sequence"]), _said(event["data"])
        noun, _, id_ = event["subject"].partition("/")
        expect(position in (self.position, self.position + 1), f"position {position} follows {self.position}")
        self.position, now_ms = position, _ms(event["time"])
        self.time_ms = max(self.time_ms, now_ms)
        self.counts[kind] += 1
        if noun == "task" and kind not in STILL:
            self._task(kind, id_, data, now_ms)
            return
        match kind:
            case "scheduler.elected":
                self.term = position
            case "host.registered":
                self.slots[id_] = data["slots"]
            case "agent.spawned":
                self.agents[id_], self.slots[id_] = data, data["slots"]
            case "limit.changed":
                self._limit(data)
            case "schedule.set":
                self.schedules[id_] = Schedule(data, now_ms)
            case "schedule.fired":
                self._dealt(id_, data["due_ms"])
                self.schedules[id_].marked.append(data["due_ms"])
            case "schedule.skipped":
                self._dealt(id_, data["due_ms"])
                self.schedules[id_].skipped.append((data["due_ms"], data["reason"]))

    def _dealt(self, id_: str, due_ms: int) -> None:
        schedule = self.schedules[id_]
        expect(due_ms > schedule.until, f"position {self.position}: {due_ms} is dealt with after {schedule.until}")
        schedule.until = due_ms

    def _limit(self, data: dict[str, Any]) -> None:
        key = data["key"]
        self.limits[key] = data["concurrency"]
        if data["rate_per_s"] is not None:
            self.buckets[key] = Bucket(data["rate_per_s"], data["burst"], data["burst"], self.time_ms)

    # --- tasks ---

    def _task(self, kind: str, id_: str, data: dict[str, Any], now_ms: int) -> None:
        if kind == "task.submitted":
            expect(id_ not in self.tasks, f"position {self.position}: {id_} is submitted twice")
            self.tasks[id_] = Task(data, now_ms, self.position)
            if data["schedule_id"] is not None:
                expect(now_ms >= data["due_ms"], f"position {self.position}: a run came before its time")
                self.schedules[data["schedule_id"]].ran.append(data["due_ms"])
            return
        task = self.tasks[id_]
        expect(not task.end, f"position {self.position}: {kind} of a task that has ended")
        match kind:
            case "task.queued":
                expect(now_ms >= task.not_before_ms, f"position {self.position}: queued before its time")
                self._ready(task)
                task.status, task.queued_at = "queued", self.position
                if task.spec["agent_type"] == LANE:
                    self.lane[id_] = task
            case "task.scheduled":
                self._ready(task)
                task.status, task.not_before_ms = "scheduled", data["not_before_ms"]
            case "task.approved":
                task.approved.update(data["items"])
            case "task.assigned":
                self._assign(id_, task, data, now_ms)
            case "task.attempt_ended":
                task.outcomes.append(data["outcome"])
                self._release(task, data["fence"], data["outcome"])
            case "task.asked":
                self._release(task, data["fence"], "asked")
                task.status = "input_required"
            case "task.started" | "task.progressed":
                expect(task.held is not None and task.held.fence == data["fence"], f"{self.position}: a stale {kind}")
        if kind in FINAL:
            if kind == "task.completed":
                self._release(task, data["fence"], "completed")
            expect(task.held is None, f"position {self.position}: it ends and an attempt holds it still")
            task.status, task.end = kind.partition(".")[2], data
            self.lane.pop(id_, None)

    def _ready(self, task: Task) -> None:
        """All that it depends on has ended as it asked."""
        for index, item in enumerate(task.spec["depends_on"] or ()):
            if item["type"] == "approval":
                expect(index in task.approved, f"position {self.position}: nobody has approved it")
                continue
            other = self.tasks[item["task"]]
            expect(other.end, f"position {self.position}: {item['task']}, which it depends on, has not ended")
            good = other.status == "completed" or task.spec["on_dependency_failure"] == "run"
            expect(good, f"position {self.position}: {item['task']}, which it depends on, is {other.status}")

    def _assign(self, id_: str, task: Task, data: dict[str, Any], now_ms: int) -> None:
        at = f"position {self.position}"
        agent, spec = self.agents[data["agent_id"]], task.spec
        expect(task.status == "queued" and task.held is None, f"{at}: assigned while it is {task.status}")
        expect(data["attempt"] == task.attempts + 1, f"{at}: attempt {data['attempt']} after {task.attempts}")
        expect(now_ms >= (spec["not_before_ms"] or 0), f"{at}: assigned before its time")
        able = agent["executor"] == spec["executor"] and set(spec["requires"]) <= set(agent["capabilities"])
        expect(able and spec["agent_type"] in (None, agent["type"]), f"{at}: assigned to who cannot do it")
        self._ready(task)
        void = data["term"] < self.term
        task.status, task.attempts = "assigned", data["attempt"]
        task.held = Held(self.position, data["agent_id"], data["host_id"], void)
        if void:
            self.counts["void"] += 1  # it came after a newer election: nothing may come of it
            return
        for holder in (data["agent_id"], data["host_id"]):
            self.using[holder] += 1
            expect(self.using[holder] <= self.slots[holder], f"{at}: {holder} has more than {self.slots[holder]} slots")
        self._hold(spec)
        if spec["agent_type"] == LANE:
            self._in_order(id_, task)

    def _hold(self, spec: dict[str, Any]) -> None:
        key, rate_key = spec["concurrency_key"], spec["rate_key"]
        if key is not None:
            limit = self.limits.get(key)
            self.holding[key] += 1
            self.full[key] = max(self.full[key], self.holding[key])
            allowed = 1 if limit is None else limit
            expect(self.holding[key] <= allowed, f"position {self.position}: more than {allowed} hold {key!r}")
        if rate_key is not None:
            bucket = self.buckets[rate_key]
            grown = (self.time_ms - bucket.at_ms) / 1000 * bucket.rate_per_s
            bucket.tokens = min(bucket.burst, bucket.tokens + grown) - 1
            bucket.at_ms = self.time_ms
            expect(bucket.tokens > -1e-6, f"position {self.position}: {rate_key!r} goes faster than its rate")
            self.counts["rated"] += 1

    def _in_order(self, id_: str, task: Task) -> None:
        """The lane has one slot: whoever waited when it became free, and was more urgent, would have come first."""
        del self.lane[id_]
        waited = [other for other in self.lane.values() if other.queued_at < self.lane_free_at]
        self.counts["lane choices"] += bool(waited)
        first = min(waited, key=lambda other: other.key, default=task)
        expect(task.key <= first.key, f"position {self.position}: {first.spec['name']} should have come before it")

    def _release(self, task: Task, fence: int, outcome: str) -> None:
        held, task.held = task.held, None
        at = f"position {self.position}"
        expect(held is not None and held.fence == fence, f"{at}: fence {fence} ends and does not hold the task")
        assert held is not None
        expect(fence not in self.fences, f"{at}: fence {fence} ends twice")
        self.fences.add(fence)
        if held.void:
            expect(outcome == "voided", f"{at}: a void assignment counted")
            return
        self.using[held.agent] -= 1
        self.using[held.host] -= 1
        if task.spec["concurrency_key"] is not None:
            self.holding[task.spec["concurrency_key"]] -= 1
        if task.spec["agent_type"] == LANE:
            self.lane_free_at = self.position


def _said(data: dict[str, Any]) -> dict[str, Any]:
    """What an event says; what it does not say is null."""
    return defaultdict(lambda: None, data)


def _ms(text: str) -> int:
    return round(datetime.datetime.fromisoformat(text).timestamp() * 1000)
