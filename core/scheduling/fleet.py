"""The fleet as the log tells it: live tasks, agents and hosts. A fold and nothing else.

Folding the same commits gives the same fleet, whoever folds and when. What the scheduler has decided but not yet read
back lies in another object (core/scheduling/overlay.py), so that a refused append leaves no trace here.
"""

from __future__ import annotations

from typing import Any

from core import agent as agents
from core import host as hosts
from core import limit as limits
from core import pause as pauses
from core import task as tasks
from core.kernel.commit import Commit
from core.kernel.outcomes import CommandUnchanged
from core.process_managers.alerts import Alerts
from core.process_managers.children import Children
from core.process_managers.dependencies import ENDS, Dependencies
from core.scheduling.clocks import Clocks
from core.scheduling.election import SchedulerElected
from core.scheduling.eligibility import Requirement, can_do
from core.scheduling.entries import AGE_STEP_MS, AgentEntry, HostEntry, TaskEntry
from core.scheduling.limits import Limits
from core.scheduling.schedules import Schedules
from core.scheduling.shares import Shares
from core.scheduling.statistics import Statistics
from core.scheduling.timers import timers_of
from core.scheduling.waiting import Limited, Waiting


class Fleet:
    """Fold of all task, agent, host and election commits."""

    def __init__(self) -> None:
        self.position = 0
        self.term = 0
        self.leader = ""
        self.tasks: dict[str, TaskEntry] = {}
        self.agents: dict[str, AgentEntry] = {}
        self.hosts: dict[str, HostEntry] = {}
        self.waiting = Waiting()
        self.shares = Shares()
        self.limits = Limits()
        self.schedules = Schedules()
        self.pauses: set[tuple[pauses.What, str]] = set()
        self.statistics = Statistics()
        self.dependencies = Dependencies()
        self.children = Children()
        self.alerts = Alerts()
        self.clocks = Clocks(self.tasks)
        self.orphans: set[str] = set()
        self.unsettled_agents: set[str] = set()
        self.uneven = False
        # When a parked rate key may let somebody through; what a decision found, and no part of the fold.
        self.rate_timers: dict[str, int] = {}
        self._eligible: dict[Requirement, list[AgentEntry]] = {}

    # --- what the scheduler asks ---

    def eligible(self, need: Requirement) -> list[AgentEntry]:
        """The agents that may get such a task, whether free or not."""
        found = self._eligible.get(need)
        if found is None:
            found = [agent for agent in self.agents.values() if agent.status == "idle" and can_do(need, agent)]
            self._eligible[need] = found
        return found

    def homes(self, agent: AgentEntry) -> list[HostEntry]:
        """The hosts where such an agent can live now."""
        return [host for host in self.hosts.values() if host.session and agent.executor in host.executors]

    def put_back(self, task_id: str) -> None:
        """Return a task to the line or timer that its state puts it in; harmless where it stands there already."""
        entry = self.tasks.get(task_id)
        if entry is None:
            self.schedules.put_back(task_id)
            return
        if entry.status == "queued":
            self.waiting.put(entry.place, entry.item)
            self.release(entry.limited)
        self.clocks.enter(entry)

    def release(self, limited: Limited) -> None:
        """What was held may be free again: whoever waits for it is looked at."""
        if limited.concurrency_key is not None:
            self.waiting.release(f"concurrency:{limited.concurrency_key}")
        if limited.rate_key is not None:
            self.waiting.release(f"rate:{limited.rate_key}")

    # --- the fold ---

    def fold(self, commit: Commit) -> None:
        """Apply one commit; positions only grow."""
        if commit.position <= self.position:
            return
        self.position = commit.position
        handle = _FOLDS.get(commit.noun)
        if handle is not None:
            for event in commit.events:
                handle(self, commit, event)

    def _fold_election(self, commit: Commit, event: Any) -> None:
        if isinstance(event, SchedulerElected):
            self.term = commit.position
            self.leader = event.leader

    def _fold_task(self, commit: Commit, event: Any) -> None:
        task_id = commit.aggregate_id
        if isinstance(event, tasks.TaskSubmitted):
            self._submit(commit, event)
            return
        entry = self.tasks.get(task_id)
        if entry is None:
            return
        entry.last_position = commit.position
        match event:
            case tasks.TaskBlocked():
                entry.status = "blocked"
                self.put_back(task_id)
            case tasks.DependenciesEnded():
                self.dependencies.settle(task_id, commit.position, event)
            case tasks.TaskQueued():
                entry.status = "queued"
                entry.queued_ms = commit.body.occurred_at if entry.timers is not None else 0
                self.dependencies.leave(task_id)
                self.put_back(task_id)
            case tasks.TaskScheduled():
                entry.status = "scheduled"
                entry.not_before_ms = event.not_before_ms
                self.put_back(task_id)
            case tasks.TaskAssigned():
                self._assign(commit, entry, event)
            case tasks.TaskStarted():
                entry.status = "running"
            case tasks.AttemptEnded():
                self._free(commit, entry, event.outcome)
            case tasks.TaskAsked():
                entry.status = "input_required"
                self._free(commit, entry, "")
                self.put_back(task_id)
            case tasks.CancelRequested():
                entry.cancelling = True
                self.children.cancel(task_id, self._cancelling)
                entry.cancelled_ms = commit.body.occurred_at + int(event.grace_s * 1000)
                self.put_back(task_id)
            case tasks.TaskCompleted() | tasks.TaskFailed() | tasks.TaskCancelled() | tasks.TaskExpired():
                self._end(commit, entry, ENDS[type(event)])
            case _:
                pass

    def _submit(self, commit: Commit, event: tasks.TaskSubmitted) -> None:
        flow = (commit.body.on_behalf_of or commit.body.actor, event.fairness_key or event.project)
        self.tasks[commit.aggregate_id] = TaskEntry(
            id=commit.aggregate_id,
            key=commit.body.occurred_at - event.priority * AGE_STEP_MS,
            position=commit.position,
            last_position=commit.position,
            need=Requirement(event.executor, tuple(event.requires), event.agent_type, event.agent_id),
            timeout_s=event.timeout_s,
            avoid_last_agent=event.retry.avoid_last_agent,
            correlation_id=commit.body.correlation_id,
            type=event.type,
            flow=flow,
            limited=Limited(event.concurrency_key, event.rate_key),
            timers=timers_of(event, commit.body.occurred_at),
            schedule_id=event.schedule_id or "",
            learned=event.routing is None,
        )
        if event.schedule_id is not None:
            self.schedules.began(commit.aggregate_id, event)
        self.shares.enter(flow)
        if event.depends_on is not None:
            self.dependencies.submit(commit.aggregate_id, commit.position, event, self.tasks)
        if event.parent is not None:
            parent = self.tasks.get(event.parent)
            self.children.submit(
                commit.aggregate_id,
                event.parent,
                commit.position,
                alive=parent is not None,
                cancelling=parent is not None and parent.cancelling,
            )

    def _end(self, commit: Commit, entry: TaskEntry, status: str) -> None:
        self._free(commit, entry, "completed" if status == "completed" else "")
        self.shares.leave(entry.flow)
        self.schedules.ended(entry.schedule_id, entry.id)
        del self.tasks[entry.id]
        self.dependencies.end(entry.id, status, commit.position)
        if status == "cancelled":
            self.children.cancel(entry.id, self._cancelling)
        self.children.end(entry.id)

    def _cancelling(self, task_id: str) -> bool:
        entry = self.tasks.get(task_id)
        return entry is not None and entry.cancelling

    def _assign(self, commit: Commit, entry: TaskEntry, event: tasks.TaskAssigned) -> None:
        entry.status = "assigned"
        entry.attempt = event.attempt
        entry.fence = commit.position
        entry.term = event.term
        entry.agent_id = event.agent_id
        entry.host_id = event.host_id
        entry.session = event.session
        entry.agent_type = event.agent_type or ""
        entry.assigned_ms = commit.body.occurred_at
        entry.charged_ms = self.shares.cost(entry.type)
        self.shares.charge(entry.flow, entry.charged_ms, self.limits.weight(entry.flow[1]))
        if entry.limited.concurrency_key is not None:
            self.limits.hold(entry.limited.concurrency_key)
        if entry.limited.rate_key is not None:
            self.limits.take(entry.limited.rate_key, entry.assigned_ms)
        self.put_back(entry.id)
        agent = self.agents.get(event.agent_id)
        if agent is not None:
            agent.running.add(entry.id)
        host = self.hosts.get(event.host_id)
        if host is not None:
            host.running.add(entry.id)
        if host is None or host.session != event.session or event.term < self.term:
            self.orphans.add(entry.id)

    def _free(self, commit: Commit, entry: TaskEntry, outcome: str) -> None:
        self.orphans.discard(entry.id)
        if not entry.agent_id:
            return
        took_ms = float(max(0, commit.body.occurred_at - entry.assigned_ms))
        self.shares.settle(entry.flow, entry.type, entry.charged_ms, took_ms, self.limits.weight(entry.flow[1]))
        self.statistics.learn(entry.type, entry.agent_type, outcome, took_ms)
        self.waiting.renew(entry.flow)
        if entry.limited.concurrency_key is not None:
            self.limits.release(entry.limited.concurrency_key)
            self.release(entry.limited)
        agent = self.agents.get(entry.agent_id)
        if agent is not None:
            agent.running.discard(entry.id)
            if agent.status == "draining":
                self.unsettled_agents.add(agent.id)
        host = self.hosts.get(entry.host_id)
        if host is not None:
            host.running.discard(entry.id)
        entry.last_agent = entry.agent_id
        entry.agent_id = entry.host_id = entry.session = ""
        entry.fence = 0
        entry.charged_ms = 0.0
        entry.agent_type = ""

    def _fold_limit(self, commit: Commit, event: Any) -> None:
        if isinstance(event, limits.LimitChanged):
            self.limits.fold(event, commit.body.occurred_at)
            self.release(Limited(event.key, event.key))

    def _fold_schedule(self, commit: Commit, event: Any) -> None:
        if not isinstance(event, CommandUnchanged):
            self.schedules.fold(commit, event)

    def _fold_pause(self, commit: Commit, event: Any) -> None:
        if isinstance(event, pauses.QueuePaused):
            self.pauses.add((event.what, event.name))
        elif isinstance(event, pauses.QueueResumed):
            self.pauses.discard((event.what, event.name))
            for entry in self.tasks.values():  # who was passed over stands in line again
                if entry.status == "queued":
                    self.waiting.put(entry.place, entry.item)

    def _fold_alert(self, commit: Commit, event: Any) -> None:
        self.alerts.fold(commit, event)

    def is_paused(self, entry: TaskEntry) -> bool:
        """Whether a waiting task is held back by a pause of its type or its concurrency key."""
        key = entry.limited.concurrency_key
        return ("type", entry.type) in self.pauses or (key is not None and ("key", key) in self.pauses)

    def _fold_agent(self, commit: Commit, event: Any) -> None:
        agent_id = commit.aggregate_id
        self._eligible.clear()
        self.waiting.unstrand()
        self.uneven = True
        if isinstance(event, agents.AgentSpawned):
            self.agents[agent_id] = AgentEntry(
                id=agent_id,
                type=event.type,
                executor=event.executor,
                capabilities=frozenset(event.capabilities),
                slots=event.slots,
            )
            self.unsettled_agents.add(agent_id)
            return
        entry = self.agents.get(agent_id)
        if entry is None:
            return
        match event:
            case agents.AgentStarted():
                entry.status = "idle"
                entry.host_id, entry.session = event.host_id, event.session
                self._settle(entry)
            case agents.AgentStopped():
                entry.status = "draining" if entry.status == "draining" else "offline"
                entry.host_id = entry.session = ""
                self.unsettled_agents.add(agent_id)
            case agents.AgentDraining():
                entry.status = "draining"
                self.unsettled_agents.add(agent_id)
            case agents.AgentRetired():
                del self.agents[agent_id]
                self.unsettled_agents.discard(agent_id)
            case _:
                pass

    def _settle(self, agent: AgentEntry) -> None:
        host = self.hosts.get(agent.host_id)
        if host is not None and host.session == agent.session:
            self.unsettled_agents.discard(agent.id)
        else:
            self.unsettled_agents.add(agent.id)

    def _fold_host(self, commit: Commit, event: Any) -> None:
        host_id = commit.aggregate_id
        entry = self.hosts.get(host_id)
        match event:
            case hosts.HostRegistered():
                running = entry.running if entry is not None else set()
                entry = HostEntry(
                    id=host_id,
                    session=event.session,
                    executors=frozenset(event.executors),
                    slots=event.slots,
                    running=running,
                )
                self.hosts[host_id] = entry
            case hosts.HostLost() | hosts.HostLeft() if entry is not None:
                entry.session = ""
                entry.lost_reason, entry.lost_ms = "", 0
                if isinstance(event, hosts.HostLost):
                    entry.lost_reason, entry.lost_ms = event.reason, commit.body.occurred_at
            case _:
                return
        self.orphans.update(id_ for id_ in entry.running if self.tasks[id_].session != entry.session)
        self.uneven = True
        # A host that appears may take in whoever waits for one, so every agent without a living session is looked at.
        self.unsettled_agents.update(agent.id for agent in self.agents.values() if not self.lives(agent))

    def lives(self, agent: AgentEntry) -> bool:
        """Whether an agent that may get tasks stands on a session that is alive."""
        host = self.hosts.get(agent.host_id)
        return agent.status == "idle" and host is not None and host.session == agent.session != ""

    def enter_all(self) -> None:
        """Enter everything into its line and timer: an image holds the entries alone."""
        self.uneven = True
        for entry in self.tasks.values():
            self.put_back(entry.id)
        self.unsettled_agents.update(agent.id for agent in self.agents.values() if not self.lives(agent))


_FOLDS = {
    "task": Fleet._fold_task,
    "agent": Fleet._fold_agent,
    "limit": Fleet._fold_limit,
    "host": Fleet._fold_host,
    "schedule": Fleet._fold_schedule,
    "queue": Fleet._fold_pause,
    "alert": Fleet._fold_alert,
    "scheduler": Fleet._fold_election,
}
