"""What the program tells without being asked: the contents of each notification, from events and measurements.

`Notifications` folds commits into `agent/status` and `task/progress`, `Metrics` measures `system/metrics`, LogMessages
(log_messages.py) hears what the program logs. None of them sends anything. What is not known is null, with the reason
in `unknown`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from msgspec import Struct, field

from core import agent as a
from core import task as t
from core.kernel.commit import Commit, Event
from core.kernel.errors import Unavailable
from core.kernel.ports import Clock
from core.scheduling.fleet import Fleet
from core.services.dispatch import ReadableViews
from entrypoints.agent_tasks import NO_STATISTICS
from projections.task_queries import count_completed

AGENTS_MAX = 10_000
TASKS_MAX = 20_000
HOUR_MS = 3_600_000

NOT_TOLD = "the task has not told any"
NOT_HELD = "no agent works on it"
NOT_SEEN = "this process did not see what happened before"
NO_TASK = "the agent works on nothing"


class Notification(Struct, frozen=True):
    """A method with its params. Of those with the same key only the newest matters to somebody who is behind."""

    method: str
    key: str
    params: dict[str, Any]


class _Task(Struct):
    """An attempt that is under way; `agent_id` is None where its beginning was not seen."""

    agent_id: str | None = None
    progress: float | None = None
    current_step: str | None = None
    steps_completed: int | None = None
    total_steps: int | None = None


class _Agent(Struct):
    """`life` is the agent's status but for busy, which is an idle one that has tasks."""

    life: str | None = None
    running: dict[str, None] = field(default_factory=dict)


class Notifications:
    """A bounded fold: what agents and attempts under way look like at the newest commit that it was given.

    `fleet` is the scheduler's fold, asked once for each agent or task that began before this one. It may be ahead of
    the commits; every later event states its part anew, so the two meet.
    """

    def __init__(self, fleet: Callable[[], Fleet], *, agents_max: int = AGENTS_MAX, tasks_max: int = TASKS_MAX) -> None:
        self._fleet = fleet
        self._agents: OrderedDict[str, _Agent] = OrderedDict()
        self._tasks: OrderedDict[str, _Task] = OrderedDict()
        self._agents_max = agents_max
        self._tasks_max = tasks_max
        self._position = 0

    def of(self, commit: Commit) -> list[Notification]:
        """What a commit tells, at most one of a key. Commits come in their order; one that comes again tells nothing.

        Whoever skips commits may do so: what was folded before the gap is forgotten.
        """
        if commit.position <= self._position:
            return []
        if commit.position != self._position + 1:
            self._agents.clear()
            self._tasks.clear()
        self._position = commit.position
        told: dict[str, Notification] = {}
        for event in commit.events:
            for notification in self._event(commit, event):
                told[notification.key] = notification
        return list(told.values())

    def _event(self, commit: Commit, event: Event) -> Iterator[Notification]:
        if commit.noun == "agent":
            yield from self._of_agent(commit.aggregate_id, event)
        elif commit.noun == "task":
            yield from self._of_task(commit.aggregate_id, event)

    # --- agents ---

    def _of_agent(self, agent_id: str, event: Event) -> Iterator[Notification]:
        agent = self._agent(agent_id)
        match event:
            case a.AgentSpawned():
                agent.life = "starting"
            case a.AgentStarted():
                agent.life = "idle"
            case a.AgentStopped():
                agent.life = "draining" if agent.life == "draining" else "offline"
            case a.AgentDraining():
                agent.life = "draining"
            case a.AgentRetired():
                agent.life = "retired"
            case _:
                return
        yield self._agent_status(agent_id, agent)
        if agent.life == "retired":
            self._agents.pop(agent_id, None)

    def _agent(self, agent_id: str) -> _Agent:
        known = self._agents.setdefault(agent_id, _Agent())
        self._agents.move_to_end(agent_id)
        if len(self._agents) > self._agents_max:
            self._agents.popitem(last=False)
        if known.life is None:
            fleet = self._fleet()
            entry = fleet.agents.get(agent_id)
            # One that is behind may show a task that has ended, and nothing here would take it away again.
            if entry is not None and fleet.position >= self._position - 1:
                known.life = entry.status
                known.running |= dict.fromkeys(sorted(entry.running))
        return known

    def _agent_status(self, agent_id: str, agent: _Agent) -> Notification:
        """`agent/status` {agent_id, status, task, progress, estimated_completion}: as agent.list shows it."""
        task_id = next(iter(agent.running), None)
        attempt = self._tasks.get(task_id or "")
        progress = None if attempt is None else attempt.progress
        unknown = {"estimated_completion": NO_TASK if task_id is None else NO_STATISTICS}
        if agent.life is None:
            unknown["status"] = NOT_SEEN
        if task_id is None:
            unknown["task"] = NO_TASK
        if progress is None:
            unknown["progress"] = NO_TASK if task_id is None else NOT_TOLD if attempt else NOT_SEEN
        params = {
            "agent_id": agent_id,
            "status": "busy" if agent.life == "idle" and agent.running else agent.life,
            "task": task_id,
            "progress": progress,
            "estimated_completion": None,
            "unknown": unknown,
        }
        return Notification("agent/status", f"agent/{agent_id}", params)

    # --- tasks ---

    def _of_task(self, task_id: str, event: Event) -> Iterator[Notification]:
        match event:
            case t.TaskSubmitted():
                yield _task_progress(task_id, "submitted", None)
            case t.TaskBlocked():
                yield _task_progress(task_id, "blocked", None)
            case t.TaskQueued():
                yield _task_progress(task_id, "queued", None)
            case t.TaskScheduled():
                yield _task_progress(task_id, "scheduled", None)
            case t.TaskAssigned():
                attempt = self._begun(task_id, event.agent_id)
                agent = self._agent(event.agent_id)
                agent.running[task_id] = None
                yield _task_progress(task_id, "assigned", attempt)
                yield self._agent_status(event.agent_id, agent)
            case t.TaskStarted():
                yield _task_progress(task_id, "running", self._attempt(task_id, event.agent_id))
            case t.TaskProgressed():
                yield from self._progressed(task_id, event)
            case t.AttemptEnded():
                self._tasks.pop(task_id, None)
                yield self._freed(event.agent_id, task_id)
            case t.TaskAsked():
                self._tasks.pop(task_id, None)
                yield _task_progress(task_id, "input_required", None)
                yield self._freed(event.agent_id, task_id)
            case t.TaskCompleted():
                attempt = self._attempt(task_id, event.agent_id)
                attempt.progress = 1.0
                yield _task_progress(task_id, "completed", attempt)
                self._tasks.pop(task_id, None)
                yield self._freed(event.agent_id, task_id)
            case t.TaskFailed():
                yield _task_progress(task_id, "failed", None)
            case t.TaskCancelled():
                yield _task_progress(task_id, "cancelled", None)
            case _:
                pass

    def _progressed(self, task_id: str, event: t.TaskProgressed) -> Iterator[Notification]:
        attempt = self._attempt(task_id, None)
        attempt.progress, attempt.current_step = event.progress, event.current_step
        attempt.steps_completed, attempt.total_steps = event.steps_completed, event.total_steps
        # An attempt may tell a step in the 250 ms before its start is committed; it runs all the same.
        yield _task_progress(task_id, "running", attempt)
        if attempt.agent_id is not None:
            yield self._agent_status(attempt.agent_id, self._agent(attempt.agent_id))

    def _begun(self, task_id: str, agent_id: str | None) -> _Task:
        attempt = self._tasks[task_id] = _Task(agent_id)
        if len(self._tasks) > self._tasks_max:
            self._tasks.popitem(last=False)
        return attempt

    def _attempt(self, task_id: str, agent_id: str | None) -> _Task:
        known = self._tasks.get(task_id)
        if known is None:
            entry = self._fleet().tasks.get(task_id)
            known = self._begun(task_id, agent_id or (entry.agent_id if entry else None) or None)
        return known

    def _freed(self, agent_id: str, task_id: str) -> Notification:
        agent = self._agent(agent_id)
        agent.running.pop(task_id, None)
        return self._agent_status(agent_id, agent)


def _task_progress(task_id: str, status: str, attempt: _Task | None) -> Notification:
    """`task/progress` {task_id, agent_id, progress, status, current_step, steps_completed, total_steps}."""
    of = attempt or _Task()
    params: dict[str, Any] = {
        "task_id": task_id,
        "agent_id": of.agent_id,
        "progress": of.progress,
        "status": status,
        "current_step": of.current_step,
        "steps_completed": of.steps_completed,
        "total_steps": of.total_steps,
    }
    unknown = {name: NOT_TOLD for name in TOLD if params[name] is None}
    if of.agent_id is None:
        unknown["agent_id"] = NOT_HELD if attempt is None else NOT_SEEN
    return Notification("task/progress", f"task/{task_id}", params | {"unknown": unknown})


TOLD = ("progress", "current_step", "steps_completed", "total_steps")


class Metrics:
    """Measures `system/metrics`."""

    def __init__(self, status: Callable[[], Awaitable[Mapping[str, Any]]], views: ReadableViews, clock: Clock) -> None:
        """`status` is System.status."""
        self._status = status
        self._views = views
        self._clock = clock

    async def measure(self) -> Notification:
        """{timestamp, cpu_usage, memory_usage, active_agents, queued_tasks, completed_tasks_last_hour}.

        cpu_usage is this process's share of a core in percent since it was last measured, memory_usage the machine's
        used memory in percent, as in GET /api/status.
        """
        status = await self._status()
        known = status["metrics"]
        unknown = {
            name: reason
            for path, reason in status["unknown"].items()
            if (name := path.removeprefix("metrics.")) in ("active_agents", "queued_tasks")
        }
        completed: int | None = None
        now_ms = self._clock.now_ms()
        try:
            async with self._views.reader(at=None, now_ms=now_ms) as reader:
                completed = await count_completed(reader, since_ms=now_ms - HOUR_MS)
        except Unavailable as error:
            unknown["completed_tasks_last_hour"] = error.sentence
        params = {
            "timestamp": status["now"],
            "cpu_usage": known["cpu_usage"],
            "memory_usage": known["memory_usage"],
            "active_agents": known["active_agents"],
            "queued_tasks": known["queued_tasks"],
            "completed_tasks_last_hour": completed,
            "unknown": unknown,
        }
        return Notification("system/metrics", "system/metrics", params)
