"""How tests speak: given these events, when this command, then those events. And a clock that moves when it is told."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Select

from adapters.memory.log import MemoryLog
from adapters.sql.views import SqlReader, SqlViews
from core.actions import AGGREGATES, registry
from core.agent import AgentSpawned, AgentStarted, RetireAgent, SpawnAgent
from core.execution import Attempt, CancelToken, Outcome, Progress
from core.host import HostRegistered, LeaveHost, LoseHost, RegisterHost
from core.kernel.codec import Codec
from core.kernel.command_bus import Caller
from core.kernel.commit import Commit, Entry, Event, Moment, commit_id_of, fingerprint_of, subject_of
from core.kernel.errors import HivebusError, Refused, Unprocessable
from core.kernel.ids import derive, uuid7
from core.kernel.outcomes import CommandUnchanged
from core.kernel.ports import Clock, Store
from core.kernel.registry import CommandSpec, Context
from core.kernel.times import rfc3339
from core.limit import SetLimit
from core.pause import PauseQueue, Queue, ResumeQueue, queue_id
from core.process_managers.children import confirmed
from core.process_managers.dependencies import ENDS, Settlement
from core.projection import Row, RowView, View
from core.schedule import PauseSchedule, RemoveSchedule, ResumeSchedule, SetSchedule
from core.scheduling.election import ElectScheduler
from core.scheduling.eligibility import can_do
from core.scheduling.fleet import Fleet
from core.scheduling.images import fleet_of, image_of
from core.scheduling.overlay import Overlay
from core.scheduling.policy import Decision, decide
from core.services.positions import PositionGate
from core.services.recorder import Recorder
from core.task import (
    FINAL,
    AnswerTask,
    ApproveTask,
    AskTask,
    AssignTask,
    CancelChild,
    CancelTask,
    CompleteTask,
    Dependency,
    FailTask,
    RejectTask,
    Retry,
    SettleDependencies,
    StartTask,
    SubmitTask,
    TaskAssigned,
    TaskSubmitted,
)
from tests import places

NOW_MS = 1_800_000_000_000
DEADLINE_S = 10.0
ROOT = UUID("01a31c2b-0000-7000-8000-000000000000")
CORRELATION = "01a31c2b-c000-7000-8000-000000000000"

REGISTRY = registry()
CODEC = Codec(REGISTRY)


def new_id() -> str:
    """An id as a commit carries it."""
    return str(uuid7())


def command_id(number: int) -> UUID:
    """The id of the n-th command of a test."""
    return UUID(int=ROOT.int + number)


def caller(number: int = 1, *, actor: str = "ada", **more: Any) -> Caller:
    """Somebody who sends the n-th command."""
    return Caller(actor=actor, command_id=command_id(number), **more)


# --- builders ---------------------------------------------------------------------------------------------------------


def submit(**changed: Any) -> SubmitTask:
    """A command that a fresh system takes."""
    given_fields: dict[str, Any] = {"type": "greet", "agent_type": "shell", "parameters": {"argv": ["true"]}}
    return SubmitTask(**(given_fields | changed))


def submitted(**changed: Any) -> TaskSubmitted:
    """What `submit()` leads to."""
    fields: dict[str, Any] = {
        "type": "greet",
        "executor": "command",
        "parameters": {"argv": ["true"]},
        "requires": [],
        "priority": 5,
        "timeout_s": 60.0,
        "retry": Retry(),
        "project": "default",
        "agent_type": "shell",
    }
    return TaskSubmitted(**(fields | changed))


def assigned(**changed: Any) -> TaskAssigned:
    """An assignment to agent `a` on the first session of host `h`."""
    fields: dict[str, Any] = {"agent_id": "a", "host_id": "h", "session": "s1", "term": 1, "attempt": 1}
    return TaskAssigned(**(fields | changed))


def spawned(**changed: Any) -> AgentSpawned:
    """A shell agent with one slot."""
    fields: dict[str, Any] = {
        "type": "shell",
        "name": "shelly",
        "executor": "command",
        "capabilities": ["shell"],
        "slots": 1,
    }
    return AgentSpawned(**(fields | changed))


def started(**changed: Any) -> AgentStarted:
    """The agent lives on the first session of host `h`."""
    return AgentStarted(**({"host_id": "h", "session": "s1", "term": 1} | changed))


def registered(**changed: Any) -> HostRegistered:
    """The first session of a host that runs programs and functions, with room for eight."""
    fields: dict[str, Any] = {"name": "box", "session": "s1", "executors": ["command", "python"], "slots": 8}
    return HostRegistered(**(fields | changed))


# --- given, when, then ------------------------------------------------------------------------------------------------


def fold(noun: str, events: Iterable[Event], *, after: Any = None, position: int = 0, now_ms: int = NOW_MS) -> Any:
    """The state after events, each a commit of its own: the n-th stands at position n."""
    evolve = REGISTRY.aggregates[noun].evolve
    for place, event in enumerate(events, position + 1):
        after = evolve(after, event, Moment(place, now_ms, CORRELATION))
    return after


def given(*events: Event) -> Given:
    """Events of one aggregate, each a commit of its own, at the positions 1, 2, 3..."""
    return Given(events)


class Given:
    """A history."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events

    def when(self, command: Struct, *, now_ms: int = NOW_MS, number: int = 1, actor: str = "ada") -> When:
        """Decide a command about it."""
        spec = REGISTRY.command_of(command)
        context = Context(now_ms, str(derive(command_id(number), spec.noun)), command_id(number), actor, CORRELATION)
        return When(spec, command, fold(spec.noun, self.events), context, len(self.events))


class When:
    """A decision, not yet taken."""

    def __init__(self, spec: CommandSpec, command: Struct, state: Any, context: Context, position: int) -> None:
        self._spec = spec
        self._command = command
        self._state = state
        self._context = context
        self._position = position

    def then(self, *events: Event) -> Any:
        """It decides exactly these; the state after them."""
        assert list(self._spec.decide(self._command, self._state, self._context)) == list(events)
        return fold(self._spec.noun, events, after=self._state, position=self._position)

    def then_raises(self, error: type[HivebusError], *, code: str, pointer: str | None = None) -> HivebusError:
        """It says no, with this code; the error."""
        with pytest.raises(error) as caught:
            self._spec.decide(self._command, self._state, self._context)
        assert (type(caught.value), caught.value.code, caught.value.pointer) == (error, code, pointer)
        return caught.value


# --- a history of many aggregates -------------------------------------------------------------------------------------


class History:
    """Commits as the log would hold them, through the real codec, and the real deciders to make more of them."""

    def __init__(self, *, folding: bool = True) -> None:
        """Without `folding` it also takes events that no decider would make, and knows no states."""
        self.now_ms = NOW_MS
        self._folding = folding
        self.entries: list[Entry] = []
        self.commits: list[Commit] = []
        self.states: dict[tuple[str, str], Any] = {}
        self.positions: dict[tuple[str, str], int] = {}
        self._versions: dict[str, int] = {}
        self._numbers = count(1)

    @property
    def head(self) -> int:
        """The last position."""
        return len(self.entries)

    def commit(self, noun: str, aggregate_id: str, *events: Event, command: str = "test", actor: str = "ada") -> Commit:
        """Append one commit of these events."""
        number = next(self._numbers)
        subject = subject_of(noun, aggregate_id)
        version = self._versions[subject] = self._versions.get(subject, 0) + 1
        key = command_id(number)
        commit_id = commit_id_of(key, subject)
        body = CODEC.encode(
            id=commit_id,
            command=command,
            command_id=str(key),
            fingerprint=fingerprint_of(command, number),
            actor=actor,
            correlation_id=CORRELATION,
            causation_id=str(key),
            occurred_at=self.now_ms,
            version=version,
            events=events,
        )
        self.entries.append(Entry(self.head + 1, subject, commit_id, body))
        made = CODEC.decode(self.entries[-1])
        self.commits.append(made)
        self.positions[noun, aggregate_id] = made.position
        if self._folding and noun in REGISTRY.aggregates:
            for event in made.events:
                if not isinstance(event, CommandUnchanged):
                    state = self.states.get((noun, aggregate_id))
                    self.states[noun, aggregate_id] = REGISTRY.aggregates[noun].evolve(state, event, made.moment)
        return made

    def looked_up(self, command: Struct) -> Struct | None:
        """The command with what the log says of the tasks that it wants looked up; None where nothing follows."""
        if isinstance(command, CancelChild) and command.look_up is not None:
            return confirmed(command, self.of("task", command.look_up), self.of("task", command.task_id))
        if not isinstance(command, SettleDependencies) or not command.look_up:
            return command
        settlement = Settlement(command, self.states["task", command.task_id])
        for task_id in command.look_up:
            assert settlement.add(task_id, self.of("task", task_id)), "the fold says that it has ended"
        return settlement.command()

    def of(self, noun: str, aggregate_id: str) -> list[Commit]:
        """The commits of one aggregate."""
        return [commit for commit in self.commits if (commit.noun, commit.aggregate_id) == (noun, aggregate_id)]

    def execute(self, command: Struct, key: UUID | None = None) -> Commit | None:
        """Decide a command and append what it decides, None where that is nothing. Raises what the decision raises.

        A command that creates with the `key` of what is there already is a repeat.
        """
        spec = REGISTRY.command_of(command)
        key = key or command_id(1_000_000 + self.head)
        aggregate_id = str(derive(key, spec.noun)) if spec.creates else spec.id_of(command)
        context = Context(self.now_ms, aggregate_id, key, "ada", CORRELATION)
        if spec.creates and (spec.noun, aggregate_id) in self.states:
            return None
        if not (spec.creates or spec.upserts or (spec.noun, aggregate_id) in self.states):
            raise KeyError(aggregate_id)
        events = spec.decide(command, self.states.get((spec.noun, aggregate_id)), context)
        return self.commit(spec.noun, aggregate_id, *events, command=spec.name) if events else None


# --- a fleet and its scheduler, with everything in between that can be late -------------------------------------------


def portrait(fleet: Fleet) -> dict[str, Any]:
    """Everything that a fleet says, without the order and the leftovers of its heaps."""
    waiting = set(fleet.waiting.items())
    timers, deadlines = set(fleet.clocks.timers), set(fleet.clocks.timeouts)
    tasks = fleet.tasks.values()
    return {
        "position": fleet.position,
        "term": (fleet.term, fleet.leader),
        "tasks": fleet.tasks,
        "agents": fleet.agents,
        "hosts": fleet.hosts,
        "orphans": fleet.orphans,
        "unsettled": fleet.unsettled_agents,
        "pauses": fleet.pauses,
        "alerts": fleet.alerts,
        "queued": {e.id for e in tasks if e.status == "queued" and (e.item in waiting or fleet.is_paused(e))},
        "shares": fleet.shares,
        "limits": fleet.limits,
        "expiring": {e.id for e in tasks if e.expiry is not None and (e.expiry[0], e.id) in set(fleet.clocks.expiries)},
        "schedules": fleet.schedules.entries,
        "due": {item[1] for item in fleet.schedules.due if fleet.schedules.counts(item)},
        "statistics": fleet.statistics,
        "blocked": fleet.dependencies.blocked,
        "settling": set(fleet.dependencies.ready),
        "parts": (fleet.children.parents, fleet.children.recalled, fleet.children.unseen),
        "timed": {e.id for e in tasks if e.status == "scheduled" and (e.not_before_ms, e.id) in timers},
        "watched": {e.id for e in tasks if e.held and any(item[1:] == (e.fence, e.id) for item in deadlines)},
    }


# What may happen, and a number that says how or to whom.
STEP_KINDS = (
    *("submit", "submit", "submit", "spawn", "retire", "register", "register", "lose", "leave", "cancel", "elect"),
    *("start", "complete", "complete", "fail", "crash", "clock", "rest", "rest", "limit", "timed", "timed", "back"),
    *("schedule", "rearrange", "pause"),
    *("depend", "depend", "approve", "reject", "part", "ask", "answer"),
    *("turn", "turn", "turn", "deliver", "deliver", "deliver", "fold", "fold", "fold", "fold"),
)
STEPS = st.lists(st.tuples(st.sampled_from(STEP_KINDS), st.integers(0, 7)), min_size=20, max_size=80)
HOST_SLOTS = (("h0", 2), ("h1", 1))
KEYS = ("k0", "k1")
PAUSES = ("queue", queue_id("all"))


class Simulation:
    """A scheduler over a history: it folds late, its commands are late, hosts come and go. Laws hold at each step."""

    def __init__(self) -> None:
        self.history = History()
        self.fleet = Fleet()
        self.overlay = Overlay()
        self.in_flight: list[Decision] = []
        self._sessions = count(1)

    @classmethod
    def after(cls, steps: Iterable[tuple[str, int]]) -> Simulation:
        """A small fleet that has seen these steps."""
        simulation = cls()
        simulation.attempt(ElectScheduler(scheduler_id="main", leader="l"))
        simulation.complete_the_fleet()
        simulation.rest()
        for kind, number in steps:
            simulation.step(kind, number)
        return simulation

    def step(self, kind: str, number: int) -> None:
        """One thing happens."""
        host_id, slots = HOST_SLOTS[number % 2]
        match kind:
            case "submit":
                self.attempt(_submission(number))
            case "timed":
                self.attempt(replace(_submission(number), **_timed(number, self.history.now_ms)))
            case "schedule":
                self.attempt(_schedule(number))
            case "rearrange":
                name = f"s{number % 2}"
                kinds = (PauseSchedule, ResumeSchedule, RemoveSchedule)
                self.attempt(kinds[number % 3](name=name))
            case "pause":
                what, name = (("all", None), ("type", "greet"), ("key", "k0"), ("key", "k1"))[number % 4]
                self.attempt((PauseQueue if number < 4 else ResumeQueue)(what=what, name=name))
            case "back":
                self.history.now_ms -= (10, 1_000, 20_000, 60_000)[number % 4]
            case "spawn":
                self.attempt(SpawnAgent(type="python" if number % 2 else "shell", slots=1 + number // 2))
            case "register":
                self.register(host_id, slots)
            case "limit":
                self.attempt(SetLimit(key=KEYS[number % 2], concurrency=number % 3, rate_per_s=1 + number, burst=2))
            case "elect":
                self.attempt(ElectScheduler(scheduler_id="main", leader=f"l{number}"))
            case "clock":
                self.history.now_ms += (10, 1_000, 20_000, 60_000)[number % 4]
            case "turn":
                self.turn(number)
            case "deliver":
                self.deliver(number)
            case "fold":
                self.fold(number)
            case "rest":
                self.rest()
            case "retire" | "lose" | "leave" | "cancel":
                self._end_one(kind, number, host_id)
            case "depend" | "part":
                self.submit_related(kind, number)
            case "approve" | "reject" | "answer":
                self.reply(kind, number)
            case _:
                self._report(kind, number)

    def submit_related(self, kind: str, number: int) -> None:
        """A task that waits for others, whether they have ended or not, or that is a part of one."""
        known = [id_ for noun, id_ in self.history.states if noun == "task"]
        if not known:
            return
        command = _submission(number)
        if kind == "part":
            live = self.live_tasks()
            parent = live[-1 - number % len(live)] if live else known[-1]
            self.attempt(msgspec.structs.replace(command, parent=parent))
            return
        others = {known[-1 - number % len(known)], known[-1], known[number % len(known)]}
        depends_on: list[str | Dependency] = [*sorted(others)]
        if number % 2:
            depends_on.append(Dependency(type="data", task=known[-1], into="/arguments/x", source="/value"))
        if number % 4 == 0:
            depends_on.append(Dependency(type="approval", by=["ada"] if number else []))
        policy: Any = ("cancel", "run", "fail", "run")[number % 4]
        self.attempt(msgspec.structs.replace(command, depends_on=depends_on, on_dependency_failure=policy))

    def reply(self, kind: str, number: int) -> None:
        """Somebody approves, rejects or answers what waits for it."""
        live = {id_: self.history.states["task", id_] for id_ in self.live_tasks()}
        asking = [id_ for id_, state in live.items() if state.question is not None]
        waiting = [id_ for id_, state in live.items() if state.open_approvals]
        if kind == "answer" and asking:
            self.attempt(AnswerTask(task_id=asking[number % len(asking)], answer=number))
        elif kind == "approve" and waiting:
            self.attempt(ApproveTask(task_id=waiting[number % len(waiting)], reason="yes"))
        elif kind == "reject" and waiting:
            self.attempt(RejectTask(task_id=waiting[number % len(waiting)], reason="no"))

    def complete_the_fleet(self) -> None:
        """A host lives, and an agent of each type is on its way to it."""
        self.register("h0", 2)
        self.attempt(SpawnAgent(type="shell", slots=2))
        self.attempt(SpawnAgent(type="python"))

    def _end_one(self, kind: str, number: int, host_id: str) -> None:
        agents = [id_ for noun, id_ in self.history.states if noun == "agent"]
        live = self.live_tasks()
        host = self.history.states.get(("host", host_id))
        if kind == "retire":
            self.attempt(RetireAgent(agent_id=agents[number % len(agents)]))
        elif kind == "cancel" and live:
            self.attempt(CancelTask(task_id=live[number % len(live)]))
        elif kind == "lose" and host is not None and host.session:
            self.attempt(LoseHost(host_id=host_id, session=host.session, reason="silence"))
        elif kind == "leave" and host is not None and host.session:
            self.attempt(LeaveHost(host_id=host_id, session=host.session))

    def _report(self, kind: str, number: int) -> None:
        """A host says something about one of the attempts that hold their fence."""
        held = [id_ for id_ in self.live_tasks() if self.history.states["task", id_].held]
        if not held:
            return
        id_ = held[number % len(held)]
        fence = self.history.states["task", id_].fence
        reports: dict[str, Struct] = {
            "start": StartTask(task_id=id_, fence=fence, started_ms=NOW_MS),
            "complete": CompleteTask(task_id=id_, fence=fence, started_ms=NOW_MS, result={"value": number}),
            "ask": AskTask(task_id=id_, fence=fence, question="which?"),
            "fail": FailTask(task_id=id_, fence=fence, outcome="failed", error="it broke"),
            "crash": FailTask(task_id=id_, fence=fence, outcome="crashed", error="it died"),
        }
        self.attempt(reports[kind])

    def attempt(self, command: Struct, key: UUID | None = None) -> int:
        """Execute a command at once; the position from which its outcome is on the log."""
        try:
            self.history.execute(command, key)
        except (Refused, Unprocessable, KeyError):
            return self.history.head
        spec = REGISTRY.command_of(command)
        if spec.creates:
            return self.history.head
        return self.history.positions.get((spec.noun, spec.id_of(command)), self.history.head)

    def live_tasks(self) -> list[str]:
        """Ids of the tasks that have not ended, as the log has them."""
        return [
            id_ for (noun, id_), state in self.history.states.items() if noun == "task" and state.status not in FINAL
        ]

    def register(self, host_id: str, slots: int) -> None:
        """A host begins a session, or another one."""
        session = f"s{next(self._sessions)}"
        executors = ["command", "python"]
        self.attempt(RegisterHost(host_id=host_id, name=host_id, session=session, executors=executors, slots=slots))

    def fold(self, commits: int) -> None:
        """Let the fleet read some of what it has not read yet."""
        for commit in self.history.commits[self.fleet.position :][:commits]:
            self.fleet.fold(commit)
        self.overlay.sweep(self.fleet)
        self._check_places()

    def turn(self, limit: int) -> list[Decision]:
        """Decide, and send the commands on their way."""
        decisions = decide(self.fleet, self.overlay, self.history.now_ms, limit=limit)
        assert len(decisions) <= limit
        for decision in decisions:
            assert decision.key not in self.overlay, f"{decision.key} is decided twice"
            self._check_command(decision)
            self.overlay.hold(decision.key, decision.claim)
            self.in_flight.append(decision)
        self._check_slots()
        return decisions

    def deliver(self, which: int) -> None:
        """One of the commands on their way reaches its aggregate."""
        if self.in_flight:
            decision = self.in_flight.pop(which % len(self.in_flight))
            command = self.history.looked_up(decision.command)
            if command is None:
                self.fleet.children.clear(decision.key)
            position = self.fleet.position if command is None else self.attempt(command, decision.command_id)
            self.overlay.settle(decision.key, position)
            self.overlay.sweep(self.fleet)

    def arrive(self) -> None:
        """Everything that is on its way arrives and is folded."""
        while self.in_flight:
            self.deliver(0)
        self.fold(self.history.head)

    def rest(self) -> None:
        """Everything arrives, and what follows from it is decided, until nothing moves."""
        # A schedule that makes up for what it missed has a run and a mark for each of up to 100 due times.
        for _ in range(300):
            self.arrive()
            if not self.turn(1000):
                return
        raise AssertionError("the scheduler does not come to rest")

    def take_over(self, *, imaged: bool) -> None:
        """Another scheduler leads, from an image or from the log's start; what the old one had sent may be lost."""
        for _ in range(len(self.in_flight) // 2):
            self.deliver(0)
        self.fleet = fleet_of(image_of(self.fleet)) if imaged else Fleet()
        self.overlay, self.in_flight = Overlay(), []
        self.attempt(ElectScheduler(scheduler_id="main", leader="another"))
        self.fold(self.history.head)

    def end_well(self) -> None:
        """From now on hosts behave: they complete whatever they are given."""
        self.complete_the_fleet()
        for key in KEYS:
            self.attempt(SetLimit(key=key, concurrency=1, rate_per_s=1))
        for what, paused in sorted(self.fleet.pauses | self.history.states.get(PAUSES, Queue()).pauses):
            self.attempt(ResumeQueue(what=what, name=paused or None))
        for name in ("s0", "s1"):
            self.attempt(RemoveSchedule(name=name))
        # A chain of dependencies ends link by link.
        for _ in range(20 + len(self.live_tasks())):
            self.rest()
            if not self.live_tasks():
                break
            for id_ in self.live_tasks():
                state = self.history.states["task", id_]
                self.reply("answer", 0)
                self.reply("approve", 0)
                if state.held:
                    result = {"value": 1}
                    self.attempt(CompleteTask(task_id=id_, fence=state.fence, started_ms=NOW_MS, result=result))
            self.history.now_ms += 60_000
        self.rest()

    def _check_command(self, decision: Decision) -> None:
        command = decision.command
        if isinstance(command, AssignTask):
            entry, agent = self.fleet.tasks[command.task_id], self.fleet.agents[command.agent_id]
            host = self.fleet.hosts[command.host_id]
            assert (entry.status, agent.status) == ("queued", "idle")
            assert (agent.host_id, agent.session, host.session) == (host.id, command.session, command.session)
            assert can_do(entry.need, agent)
            assert command.term == self.fleet.term
            assert ("all", "") not in self.fleet.pauses
            assert not self.fleet.is_paused(entry)
            assert entry.expiry is None or entry.expiry[0] > self.history.now_ms, "nothing starts when its time is up"

    def check_order(self) -> None:
        """Nothing was assigned before what it depends on had ended as it asks, and it was approved."""
        ends: dict[str, tuple[int, str]] = {}
        for commit in self.history.commits:
            for event in commit.events if commit.noun == "task" else ():
                if type(event) in ENDS:
                    ends[commit.aggregate_id] = (commit.position, ENDS[type(event)])
        for (noun, id_), state in self.history.states.items():
            if noun != "task" or not state.fence:
                continue
            first = next(c.position for c in self.history.commits if c.aggregate_id == id_ and _assigns(c))
            for item in state.spec.depends_on or ():
                if item.task is None:
                    assert not state.open_approvals, "it ran without approval"
                    continue
                position, status = ends[item.task]
                assert position < first, "it ran before what it depends on had ended"
                assert status == "completed" or state.spec.on_dependency_failure == "run"

    def _check_slots(self) -> None:
        for agent in self.fleet.agents.values():
            assert len(agent.running) + self.overlay.claims.by_agent[agent.id] <= agent.slots
        for host in self.fleet.hosts.values():
            assert len(host.running) + self.overlay.claims.by_host[host.id] <= host.slots
        for key in KEYS:
            held = sum(entry.held and entry.limited.concurrency_key == key for entry in self.fleet.tasks.values())
            assert self.fleet.limits.held.get(key, 0) == held, "a slot of a limit leaked"

    def _check_places(self) -> None:
        """Each held task is with exactly one agent on exactly one host; any other is with none."""
        for entry in self.fleet.tasks.values():
            with_agents = [agent.id for agent in self.fleet.agents.values() if entry.id in agent.running]
            on_hosts = [host.id for host in self.fleet.hosts.values() if entry.id in host.running]
            known = [entry.agent_id] if entry.agent_id in self.fleet.agents else []
            assert (with_agents, on_hosts) == (known, [entry.host_id] if entry.held else [])
        held = {entry.id for entry in self.fleet.tasks.values() if entry.held}
        for place in (*self.fleet.agents.values(), *self.fleet.hosts.values()):
            assert place.running <= held
        assert self.fleet.orphans <= held


def _assigns(commit: Commit) -> bool:
    return any(isinstance(event, TaskAssigned) for event in commit.events)


def _submission(number: int) -> SubmitTask:
    retry = Retry(max_attempts=2, max_crashes=1, initial_interval_ms=1_000, avoid_last_agent=number > 3)
    fields: dict[str, Any] = {"priority": number, "timeout_s": 30, "retry": retry, "fairness_key": f"f{number % 3}"}
    fields |= {"concurrency_key": KEYS[number // 4]} if number in (2, 3, 6) else {}
    fields |= {"rate_key": KEYS[number // 4]} if number in (3, 5) else {}
    if number % 2:
        return submit(agent_type="python", parameters={"function": "noop"}, **fields)
    return submit(**fields)


def _schedule(number: int) -> SetSchedule:
    """One of two schedules, in one of eight ways."""
    times: dict[str, Any] = {"cron": "* * * * *"} if number % 4 == 3 else {"every_s": 5 + 10 * number}
    missed: Any = ("skip", "run_once", "run_all")[number % 3]
    overlap: Any = "allow" if missed == "run_all" or number > 4 else "skip"
    return SetSchedule(name=f"s{number % 2}", task=submit(timeout_s=30), missed=missed, overlap=overlap, **times)


def _timed(number: int, now_ms: int) -> dict[str, Any]:
    """Timers of every kind, near enough that the clock's steps reach them."""
    later = rfc3339(now_ms + 1_000 + 10_000 * (number % 3))
    return [
        {"not_before": later},
        {"deadline": later},
        {"queue_timeout_s": 1 + number},
        {"total_timeout_s": 5 + number},
        {"not_before": later, "total_timeout_s": 60.0, "queue_timeout_s": 20.0},
        {"deadline": later, "total_timeout_s": 0.5},
        {"total_timeout_s": 90.0},
        {"deadline": rfc3339(now_ms + 100_000), "queue_timeout_s": 70.0},
    ][number]


# --- views ------------------------------------------------------------------------------------------------------------


def row_of(view: RowView, history: History, key: str) -> Row | None:
    """The row that a view folds for a key, by the fold alone."""
    row: Row | None = None
    for commit in history.commits:
        for event in commit.events if commit.noun in view.nouns else ():
            if key in view.touched(commit, event):
                before = dict(row) if row is not None else None
                after = view.fold(row, commit, event)
                assert row == before, "a fold changed the row it was given"
                row = after
    return row


async def appended(history: History) -> MemoryLog:
    """A log that holds a history."""
    log = MemoryLog()
    for entry in history.entries:
        newer = await log.read(entry.subject)
        expected = newer[-1].position if newer else 0
        await log.append(entry.subject, entry.commit_id, entry.body, expected=expected)
    return log


async def recorded(store: Store, history: History, clock: Clock) -> None:
    """Let a recorder copy a history into a store."""
    log = await appended(history)
    gate = PositionGate()
    async with running(Recorder(log, store, CODEC, clock, on_recorded=gate.advance).run()):
        assert await gate.wait_for(history.head, DEADLINE_S)


@asynccontextmanager
async def projected(path: Path, views: Sequence[View], history: History) -> AsyncIterator[SqlViews]:
    """Views in a file that have folded a history."""
    opened = await SqlViews.open(places.place(path / "views.db"), views)
    try:
        await opened.apply(history.commits, history.head)
        yield opened
    finally:
        await opened.close()


async def ask(
    views: SqlViews, read: Callable[[Any, SqlReader], Any], query: Struct, at: int | None = None, now_ms: int = NOW_MS
) -> Any:
    """The answer to a query, as of now or of a position."""
    async with views.reader(at=at, now_ms=now_ms) as reader:
        return await read(query, reader)


async def rows_of(views: SqlViews, statement: Select[Any]) -> list[Row]:
    """The rows of a statement, as plain dicts."""
    async with views.reader(at=None, now_ms=NOW_MS) as reader:
        return [dict(row) for row in await reader.rows(statement)]


# --- time -------------------------------------------------------------------------------------------------------------


class ManualClock:
    """A clock that stands until it is moved; whoever sleeps on it wakes when its time has come."""

    def __init__(self, now_ms: int = NOW_MS) -> None:
        self._start_ms = now_ms
        self._passed_s = 0.0
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return self._start_ms + round(self._passed_s * 1000)

    def monotonic(self) -> float:
        return self._passed_s

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._passed_s + seconds, next(self._order), future))
        await future

    @property
    def sleeping(self) -> int:
        """How many wait for this clock."""
        return sum(not future.done() for _, _, future in self._sleepers)

    def advance(self, seconds: float) -> None:
        """Move on."""
        self._passed_s += seconds
        while self._sleepers and self._sleepers[0][0] <= self._passed_s:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)


async def until(condition: Callable[[], bool], what: str = "the condition") -> None:
    """Let the loop turn until something holds; an AssertionError after the deadline."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_S
    while not condition():
        assert loop.time() < deadline, f"{what} did not come within {DEADLINE_S} s"
        await asyncio.sleep(0)


async def quiet(turns: int = 50) -> None:
    """Let everything run that can run without time passing: for what must not happen."""
    for _ in range(turns):
        await asyncio.sleep(0)


@asynccontextmanager
async def running(*services: Any) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Loops that run inside the block; one that ends by an error fails the test, unless it was awaited there."""
    tasks = [asyncio.create_task(service) for service in services]
    try:
        yield tasks
    finally:
        failed = [task.exception() for task in tasks if task.done() and not task.cancelled()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for error in failed:
        if error is not None:
            raise error


class Going:
    """An attempt in the hands of a test."""

    def __init__(self, attempt: Attempt, token: CancelToken, report: Callable[[Progress], None]) -> None:
        self.attempt = attempt
        self.token = token
        self.report = report
        self._outcome: asyncio.Future[Outcome | Exception] = asyncio.get_running_loop().create_future()
        token.subscribe(self._cancel)

    def end(self, outcome: Outcome | Exception) -> None:
        """Let the executor return this, or raise it."""
        if not self._outcome.done():
            self._outcome.set_result(outcome)

    def _cancel(self) -> None:
        self.end(Outcome(outcome="cancelled", error=f"stopped: {self.token.reason}"))

    async def wait(self) -> Outcome:
        outcome = await self._outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class HandExecutor:
    """An executor whose attempts end when the test says so, or when they are cancelled."""

    def __init__(self, name: str = "command") -> None:
        self.name = name
        self.going: list[Going] = []

    async def run(self, attempt: Attempt, token: CancelToken, report: Callable[[Progress], None]) -> Outcome:
        """See core.execution.Executor."""
        self.going.append(Going(attempt, token, report))
        return await self.going[-1].wait()


ALL_EVENTS = {spec.name: spec for aggregate in AGGREGATES for spec in aggregate.events.values()}
