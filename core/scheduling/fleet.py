"""The fleet as the log tells it: live tasks, agents and hosts. A fold and nothing else.

Folding the same commits gives the same fleet, whoever folds and when. What the scheduler has decided but not yet read
back lies in another object (core/scheduling/overlay.py), so that a refused append leaves no trace here.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Set
from typing import Any

import msgspec
from msgspec import Struct

from core import agent as agents
from core import host as hosts
from core import task as tasks
from core.kernel.commit import Commit
from core.scheduling.election import SchedulerElected
from core.scheduling.eligibility import Requirement, can_do

AGE_STEP_MS = 60_000


class TaskEntry(Struct, kw_only=True):
    """A live task. `key` orders the queue: a level of priority is worth a minute of waiting."""

    id: str
    key: int
    position: int
    need: Requirement
    timeout_s: float
    avoid_last_agent: bool
    correlation_id: str
    last_position: int = 0
    status: str = "submitted"
    not_before_ms: int = 0
    cancelling: bool = False
    cancelled_ms: int = 0
    fence: int = 0
    term: int = 0
    agent_id: str = ""
    host_id: str = ""
    session: str = ""
    assigned_ms: int = 0
    last_agent: str = ""

    @property
    def held(self) -> bool:
        """Whether an attempt holds a slot."""
        return self.status in ("assigned", "running")


class AgentEntry(Struct, kw_only=True):
    """An agent that is not retired."""

    id: str
    type: str
    executor: str
    capabilities: frozenset[str]
    slots: int
    status: str = "starting"
    host_id: str = ""
    session: str = ""
    running: set[str] = msgspec.field(default_factory=set)


class HostEntry(Struct, kw_only=True):
    """A host that registered once; `session` is empty when it is lost or has left."""

    id: str
    session: str
    executors: frozenset[str]
    slots: int
    lost_reason: str = ""
    running: set[str] = msgspec.field(default_factory=set)


class _Image(Struct):
    position: int
    term: int
    tasks: list[TaskEntry]
    agents: list[AgentEntry]
    hosts: list[HostEntry]
    orphans: list[str]
    leader: str


class Fleet:
    """Fold of all task, agent, host and election commits."""

    def __init__(self) -> None:
        self.position = 0
        self.term = 0
        self.leader = ""
        self.tasks: dict[str, TaskEntry] = {}
        self.agents: dict[str, AgentEntry] = {}
        self.hosts: dict[str, HostEntry] = {}
        self.queues: dict[Requirement, list[tuple[int, int, str]]] = defaultdict(list)
        self.timers: list[tuple[int, str]] = []
        self.timeouts: list[tuple[int, int, str]] = []
        self.orphans: set[str] = set()
        self.unsettled_agents: set[str] = set()
        self.uneven = False
        self.stranded: dict[Requirement, list[tuple[int, int, str]]] = {}
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

    def strand(self, need: Requirement) -> None:
        """Put a line aside that no agent can serve: it costs nothing until an agent's event brings it back."""
        line = self.queues.pop(need)
        known = self.stranded.setdefault(need, [])
        known.extend(line)

    def _unstrand(self) -> None:
        for need, line in self.stranded.items():
            self.queues[need].extend(line)
            heapq.heapify(self.queues[need])
        self.stranded.clear()

    def head(self, need: Requirement, under_way: Set[str]) -> TaskEntry | None:
        """The first task of a waiting line; what no longer waits, or is being decided, leaves the line here."""
        line = self.queues[need]
        while line:
            entry = self.tasks.get(line[0][2])
            if entry is not None and entry.status == "queued" and entry.id not in under_way:
                return entry
            heapq.heappop(line)
        del self.queues[need]
        return None

    def put_back(self, task_id: str) -> None:
        """Return a task to the line or timer that its state puts it in; harmless where it stands there already."""
        entry = self.tasks.get(task_id)
        if entry is None:
            return
        if entry.status == "queued":
            heapq.heappush(self.queues[entry.need], (entry.key, entry.position, task_id))
        elif entry.status == "scheduled":
            heapq.heappush(self.timers, (entry.not_before_ms, task_id))
        elif entry.held:
            self._watch(entry)

    def _watch(self, entry: TaskEntry) -> None:
        """Enter an attempt into the timeouts; what has ended meanwhile is cleared out before it outgrows the rest."""
        if len(self.timeouts) > 2 * len(self.tasks) + 64:
            self.timeouts = [
                item for item in self.timeouts if (e := self.tasks.get(item[2])) is not None and e.fence == item[1]
            ]
            heapq.heapify(self.timeouts)
        heapq.heappush(self.timeouts, (_deadline_ms(entry), entry.fence, entry.id))

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
            case tasks.TaskQueued():
                entry.status = "queued"
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
                self._free(entry)
            case tasks.CancelRequested():
                entry.cancelling = True
                entry.cancelled_ms = commit.body.occurred_at + int(event.grace_s * 1000)
                self.put_back(task_id)
            case tasks.TaskCompleted() | tasks.TaskFailed() | tasks.TaskCancelled():
                self._free(entry)
                del self.tasks[task_id]
            case _:
                pass

    def _submit(self, commit: Commit, event: tasks.TaskSubmitted) -> None:
        self.tasks[commit.aggregate_id] = TaskEntry(
            id=commit.aggregate_id,
            key=commit.body.occurred_at - event.priority * AGE_STEP_MS,
            position=commit.position,
            last_position=commit.position,
            need=Requirement(event.executor, tuple(event.requires), event.agent_type, event.agent_id),
            timeout_s=event.timeout_s,
            avoid_last_agent=event.retry.avoid_last_agent,
            correlation_id=commit.body.correlation_id,
        )

    def _assign(self, commit: Commit, entry: TaskEntry, event: tasks.TaskAssigned) -> None:
        entry.status = "assigned"
        entry.fence = commit.position
        entry.term = event.term
        entry.agent_id = event.agent_id
        entry.host_id = event.host_id
        entry.session = event.session
        entry.assigned_ms = commit.body.occurred_at
        self.put_back(entry.id)
        agent = self.agents.get(event.agent_id)
        if agent is not None:
            agent.running.add(entry.id)
        host = self.hosts.get(event.host_id)
        if host is not None:
            host.running.add(entry.id)
        if host is None or host.session != event.session or event.term < self.term:
            self.orphans.add(entry.id)

    def _free(self, entry: TaskEntry) -> None:
        self.orphans.discard(entry.id)
        if not entry.agent_id:
            return
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

    def _fold_agent(self, commit: Commit, event: Any) -> None:
        agent_id = commit.aggregate_id
        self._eligible.clear()
        self._unstrand()
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
                entry.lost_reason = event.reason if isinstance(event, hosts.HostLost) else ""
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

    # --- disposable snapshots ---

    def image(self) -> bytes:
        """The fold as bytes. Disposable: whoever cannot read it folds the log again."""
        return msgspec.msgpack.encode(
            _Image(
                self.position,
                self.term,
                list(self.tasks.values()),
                list(self.agents.values()),
                list(self.hosts.values()),
                sorted(self.orphans),
                self.leader,
            )
        )

    @classmethod
    def from_image(cls, raw: bytes) -> Fleet:
        """The fleet of an image. Raises msgspec.MsgspecError where the bytes do not fit this program."""
        image = msgspec.msgpack.decode(raw, type=_Image)
        fleet = cls()
        fleet.position, fleet.term, fleet.leader = image.position, image.term, image.leader
        fleet.orphans = set(image.orphans)
        fleet.agents = {entry.id: entry for entry in image.agents}
        fleet.hosts = {entry.id: entry for entry in image.hosts}
        fleet.tasks = {entry.id: entry for entry in image.tasks}
        fleet._index()
        return fleet

    def _index(self) -> None:
        self.uneven = True
        for entry in self.tasks.values():
            self.put_back(entry.id)
        self.unsettled_agents.update(agent.id for agent in self.agents.values() if not self.lives(agent))


def _deadline_ms(entry: TaskEntry) -> int:
    """When an attempt should have ended by itself; one that is being cancelled, after the grace."""
    return entry.cancelled_ms if entry.cancelling else entry.assigned_ms + int(entry.timeout_s * 1000)


_FOLDS = {
    "task": Fleet._fold_task,
    "agent": Fleet._fold_agent,
    "host": Fleet._fold_host,
    "scheduler": Fleet._fold_election,
}
