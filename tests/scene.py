"""Given a history of a fleet, when its scheduler looks at it, then these are its decisions."""

from __future__ import annotations

from typing import Any

from core.agent import StartAgent
from core.kernel.commit import Event
from core.limit import LimitChanged, limit_id
from core.scheduling.fleet import Fleet
from core.scheduling.overlay import Claim, Overlay
from core.scheduling.policy import Decision, decide
from core.scheduling.shares import UNKNOWN_MS, Flow
from core.scheduling.waiting import Limited
from core.task import AssignTask, ExpireTask, TaskCompleted, TaskQueued
from tests.given import CORRELATION, History, assigned, registered, spawned, started, submitted

FREE = Limited(None, None)
FLOW: Flow = ("ada", "default")


class Scene:
    """Given a history of a fleet, when the scheduler looks at it."""

    def __init__(self) -> None:
        self.history = History()
        self.overlay = Overlay()
        self.fleet = Fleet()

    def has(self, noun: str, aggregate_id: str, *events: Event, after_ms: int = 0, actor: str = "ada") -> Scene:
        self.history.now_ms += after_ms
        self.history.commit(noun, aggregate_id, *events, actor=actor)
        return self

    def host(self, id_: str = "h", **changed: Any) -> Scene:
        return self.has("host", id_, registered(**changed))

    def agent(self, id_: str = "a", host: str = "h", session: str = "s1", **changed: Any) -> Scene:
        return self.has("agent", id_, spawned(**changed), started(host_id=host, session=session))

    def task(self, id_: str = "t", *, after_ms: int = 0, actor: str = "ada", **changed: Any) -> Scene:
        return self.has("task", id_, submitted(**changed), TaskQueued(), after_ms=after_ms, actor=actor)

    def limit(self, key: str, **spec: Any) -> Scene:
        return self.has("limit", limit_id(key), LimitChanged(key=key, **spec))

    def done(self, task: str, agent: str = "a", *, after_ms: int = 0) -> Scene:
        """The attempt that holds the task completes it."""
        fence = self.history.positions["task", task]
        return self.has(
            "task", task, TaskCompleted(fence=fence, agent_id=agent, started_ms=0, result={}), after_ms=after_ms
        )

    def runs(self, *, took_ms: int = 100) -> list[str]:
        """Decide; what is assigned is on the log at once, and completed so much later. The tasks that ran."""
        ran = names(self.decides())
        for task, agent in ran:
            self.has("task", task, assigned(agent_id=agent))
        self.history.now_ms += took_ms
        for task, agent in ran:
            self.done(task, agent)
        return [task for task, _ in ran]

    def decides(self, *, now_ms: int | None = None, limit: int = 100) -> list[Decision]:
        for commit in self.history.commits:
            self.fleet.fold(commit)
        now = self.history.now_ms if now_ms is None else now_ms
        return decide(self.fleet, self.overlay, now, limit=limit)


def place(agent: str, host: str = "h", session: str = "s1", term: int = 0) -> Decision:
    return Decision(agent, StartAgent(agent_id=agent, host_id=host, session=session, term=term))


def assign(task: str, cause: int, agent: str = "a", host: str = "h", session: str = "s1", term: int = 0) -> Decision:
    command = AssignTask(task_id=task, agent_id=agent, host_id=host, session=session, term=term, agent_type="shell")
    return Decision(task, command, CORRELATION, cause, claim(agent, host))


def claim(agent: str = "a", host: str = "h", *, limited: Limited = FREE, flow: Flow = FLOW) -> Claim:
    return Claim(agent, host, flow, UNKNOWN_MS, UNKNOWN_MS, limited)


def expire(task: str, fence: int, outcome: Any, error: str, cause: int | None = None) -> Decision:
    command = ExpireTask(task_id=task, fence=fence, outcome=outcome, error=error)
    return Decision(task, command, CORRELATION, fence if cause is None else cause)


def names(decisions: list[Decision]) -> list[tuple[str, str]]:
    """(task, agent) of the assignments."""
    return [(d.command.task_id, d.command.agent_id) for d in decisions if isinstance(d.command, AssignTask)]
