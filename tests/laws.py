"""A world for the laws of the scheduler: everything is late, comes twice or out of order, and clocks jump.

`python -m tests.laws SEED [STEPS]` runs one history again, and says which of its steps are enough for what it shows.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from core.execution import Usage
from core.kernel.errors import Refused, Unprocessable
from core.limit import SetLimit
from core.scheduling.eligibility import can_do
from core.scheduling.entries import TaskEntry
from core.scheduling.fleet import Fleet
from core.scheduling.images import fleet_of, image_of
from core.scheduling.overlay import Claims
from core.scheduling.policy import Decision, next_due_ms
from core.task import FINAL, AskTask, AssignTask, CancelTask, CompleteTask, FailTask, StartTask
from projections.catalogue import VIEWS
from projections.explain import ExplainTask, explain_task
from tests import given
from tests.audit import Audit
from tests.given import KEYS, NOW_MS, STEP_KINDS, Simulation, _submission, ask, portrait, projected, submit

Step = tuple[str, int]

KINDS = (
    *(kind for kind in STEP_KINDS if kind not in ("start", "complete", "fail", "crash", "ask")),
    *("jump", "jump back", "pin", "nobody", "owners"),
    *("say start", "say start", "say complete", "say complete", "say complete", "say fail", "say crash", "say ask"),
    *("hear", "hear", "hear", "hear", "hear last", "hear twice", "hear again"),
    *("usurp", "deposed", "deposed", "lost", "unknown", "deliver twice", "fold again"),
    *("rush", "recall", "set anew"),
)
LAWS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 7)), min_size=20, max_size=120)

JUMPS_MS = (600_000, 3_600_000, 86_400_000, 34_560_000_000)
JUMPS_BACK_MS = (70_000, 600_000, 3_600_000, 86_400_000)
KEPT_MAX = 64
# A law that does not hold, and what a broken fold or decision raises.
BREAKS = (AssertionError, LookupError, ValueError, TypeError, Refused, Unprocessable)


class World(Simulation):
    """See Simulation. `did` counts what happened, `held` how often each law was looked at and held."""

    def __init__(self) -> None:
        super().__init__()
        self.did: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        self.reports: list[Struct] = []
        self.heard: list[Struct] = []
        self.deposed: list[tuple[Decision, int]] = []
        # What the scheduler had folded when it decided a command, by the command's key; and by its commit's position.
        self._decided: dict[str, int] = {}
        self.seen: dict[int, int] = {}
        self.set_back: list[int] = []

    def step(self, kind: str, number: int) -> None:
        """See Simulation."""
        before = self.history.head
        if kind in ("usurp", "lost", "unknown", "deliver twice") and not self.in_flight:
            self.fold(before)
            self.turn(1 + number)
        match kind:
            case "jump":
                self.history.now_ms += JUMPS_MS[number % 4]
            case "jump back":
                self._turn_back(JUMPS_BACK_MS[number % 4])
            case "back":
                self._turn_back((10, 1_000, 20_000, 60_000)[number % 4])
            case "pin" | "nobody" | "owners":
                self._submit_special(kind, number)
            case "hear" | "hear last" | "hear twice" | "hear again":
                self._hear(kind, number)
            case "usurp":
                self.deposed += [(decision, self._seen_by(decision)) for decision in self.in_flight]
                del self.deposed[:-KEPT_MAX]
                self.in_flight = []
                self.take_over(imaged=number % 2 == 1)
            case "deposed" if self.deposed:
                decision, seen = self.deposed.pop(number % len(self.deposed))
                self._carry(decision, seen)
            case "lost" if self.in_flight:
                decision = self.in_flight.pop(number % len(self.in_flight))
                self.overlay.settle(decision.key, self.history.head)
            case "unknown" if self.in_flight:
                decision = self.in_flight.pop(number % len(self.in_flight))
                self._carry(decision, self._seen_by(decision))
                self.overlay.settle(decision.key, self.history.head)
            case "deliver twice" if self.in_flight:
                self._deliver_twice(number)
            case "fold again":
                self._fold_again(number)
            case "rush":
                self._rush(number)
            case "recall":
                self._recall(number)
            case "set anew":
                self.attempt(given.RemoveSchedule(name="s1"))
                self._turn_back(JUMPS_BACK_MS[0])
                self.attempt(given._schedule(3 if number % 2 else 7))
            case "deposed" | "lost" | "unknown" | "deliver twice":
                return
            case _ if kind.startswith("say "):
                self._say(kind[4:], number)
            case _:
                super().step(kind, number)
        self.did[kind] += 1
        self.did["commits"] += self.history.head - before

    # --- what comes late, twice, or out of order ---

    def _turn_back(self, by_ms: int) -> None:
        self.history.now_ms -= by_ms
        self.set_back.append(self.history.head)

    def _submit_special(self, kind: str, number: int) -> None:
        command = _submission(number)
        if kind == "pin":
            agents = [id_ for noun, id_ in self.history.states if noun == "agent"]
            agent_id = agents[number % len(agents)]
            state = self.history.states["agent", agent_id]
            command = replace(command, agent_type=None, executor=state.spec.executor, agent_id=agent_id)
            if state.spec.executor == "python":
                command = replace(command, parameters={"function": "noop"})
            else:
                command = replace(command, parameters={"argv": ["true"]})
        elif kind == "nobody":
            command = submit(agent_type="painter", executor="command")
        else:
            command = replace(command, fairness_key=f"once{self.history.head}")
        self.attempt(command)

    def _say(self, kind: str, number: int) -> None:
        """A host says something about an attempt; it is on its way."""
        held = [id_ for id_ in self.live_tasks() if self.history.states["task", id_].held]
        if not held:
            return
        id_ = held[number % len(held)]
        fence = self.history.states["task", id_].fence
        usage, result = Usage(tokens=2 * number, cost=number / 10) if number % 2 else None, {"value": number}
        reports: dict[str, Struct] = {
            "start": StartTask(task_id=id_, fence=fence, started_ms=NOW_MS),
            "complete": CompleteTask(task_id=id_, fence=fence, started_ms=NOW_MS, result=result, usage=usage),
            "ask": AskTask(task_id=id_, fence=fence, question="which?", usage=usage),
            "fail": FailTask(task_id=id_, fence=fence, outcome="failed", error="it broke", usage=usage),
            "crash": FailTask(task_id=id_, fence=fence, outcome="crashed", error="it died"),
        }
        self.reports.append(reports[kind])
        del self.reports[:-KEPT_MAX]

    def _hear(self, kind: str, number: int) -> None:
        """A report arrives: whichever, the newest first, twice, or one that had arrived before."""
        if kind == "hear again":
            if self.heard:
                self._arrives(self.heard[number % len(self.heard)])
            return
        if not self.reports:
            return
        report = self.reports.pop(-1 if kind == "hear last" else number % len(self.reports))
        self.heard.append(report)
        del self.heard[:-KEPT_MAX]
        self._arrives(report)
        if kind == "hear twice":
            head = self.history.head
            self._arrives(report)
            assert self.history.head == head, f"{report} counts twice"
            self.held["a report that comes twice counts once"] += 1

    def _arrives(self, report: Any) -> None:
        state = self.history.states["task", report.task_id]
        head = self.history.head
        self.attempt(report)
        if not state.held or state.fence != report.fence:
            assert self.history.head == head, f"{report} counts, and another holds the task"
            self.held["a report of an older attempt counts nothing"] += 1

    def _seen_by(self, decision: Decision) -> int:
        """The position that a decision was made at. A mark of a budget is due by a step of its own, and by no turn."""
        return self._decided.get(decision.key, self.fleet.position)

    def _carry(self, decision: Decision, seen: int) -> int:
        """A command of a scheduler reaches its aggregate; the position from which its outcome is on the log."""
        head = self.history.head
        try:
            command = self.history.looked_up(decision.command)
        except AssertionError:
            # What a deposed scheduler takes for ended is looked up when it may be gone from the fold of another.
            command = None
        if command is None:
            self.fleet.children.clear(decision.key)
            return self.fleet.position
        position = self.attempt(command, decision.command_id)
        self.seen |= dict.fromkeys(range(head + 1, self.history.head + 1), seen)
        return position

    def deliver(self, which: int) -> None:
        """See Simulation."""
        if self.in_flight:
            decision = self.in_flight.pop(which % len(self.in_flight))
            position = self._carry(decision, self._seen_by(decision))
            self.overlay.settle(decision.key, position)
            self.overlay.sweep(self.fleet)

    def _deliver_twice(self, number: int) -> None:
        """A command arrives, and again before anything else does."""
        decision = self.in_flight[number % len(self.in_flight)]
        self.deliver(number)
        head = self.history.head
        self._carry(decision, head)
        assert self.history.head == head, f"{decision.command} counts twice"
        self.held["a command that arrives twice counts once"] += 1

    def _rush(self, number: int) -> None:
        """More tasks of a rate than it lets start, and work for them that takes no time."""
        key = KEYS[number % 2]
        self.attempt(
            SetLimit(key=key, concurrency=2, rate_per_s=(0.5, 1.0, 2.0, 4.0)[number // 2], burst=1 + number % 3)
        )
        for _ in range(4):
            self.attempt(submit(rate_key=key, timeout_s=30))
        for _ in range(6):
            self.rest()
            for id_ in self.live_tasks():
                state = self.history.states["task", id_]
                if state.held and state.spec.rate_key == key:
                    self.attempt(CompleteTask(task_id=id_, fence=state.fence, started_ms=NOW_MS, result={}))
            self.history.now_ms += 170 * (1 + number)

    def _recall(self, number: int) -> None:
        """A part is cancelled, and then its whole, while attempts hold both where there is room."""
        if not self._parts():
            self.attempt(submit(priority=9))
            self.attempt(submit(priority=9, parent=self.live_tasks()[-1]))
            self.rest()
        parts = self._parts()
        if parts:
            part = parts[number % len(parts)]
            self.attempt(CancelTask(task_id=part))
            self.attempt(CancelTask(task_id=self.history.states["task", part].spec.parent))

    def _parts(self) -> list[str]:
        """Live tasks that are parts of live ones, both held."""
        held = {id_ for id_ in self.live_tasks() if self.history.states["task", id_].held}
        return sorted(id_ for id_ in held if self.history.states["task", id_].spec.parent in held)

    def rest(self) -> None:
        """See Simulation. No attempt is left on a session that is gone, or of a scheduler that was deposed before."""
        super().rest()
        term = self.fleet.term
        for entry in self.fleet.tasks.values():
            if entry.held:
                host = self.fleet.hosts.get(entry.host_id)
                assert host is not None, f"{entry.id} is held by an unknown host"
                assert host.session == entry.session, f"{entry.id} is held by nobody"
                assert not entry.term < term < entry.fence, f"{entry.id} is held for a deposed scheduler"
                self.held["attempts on a session that lives"] += 1

    def _fold_again(self, number: int) -> None:
        """Commits come to the fold again, in whatever order."""
        before = portrait(self.fleet)
        known = self.history.commits[: self.fleet.position]
        for commit in reversed(known[-1 - number * 5 :]):
            self.fleet.fold(commit)
        assert portrait(self.fleet) == before, "a commit counts twice"
        self.held["commits that are folded twice count once"] += 1

    # --- laws of a turn ---

    def turn(self, limit: int) -> list[Decision]:
        """See Simulation. What is assigned is what a plain search over everything that waits would assign."""
        claims, under_way = self.overlay.claims.copy(), set(self.overlay.keys())
        decisions = super().turn(limit)
        self._decided |= dict.fromkeys((decision.key for decision in decisions), self.fleet.position)
        under_way |= {decision.key for decision in decisions if not isinstance(decision.command, AssignTask)}
        waiting = [
            entry
            for entry in self.fleet.tasks.values()
            if entry.status == "queued" and entry.id not in under_way and not self.fleet.is_paused(entry)
        ]
        for decision in decisions:
            if isinstance(decision.command, AssignTask):
                first = self._first(waiting, claims)
                assert first is not None, f"{decision.key} may not run"
                assert first.id == decision.key, f"{decision.key} came before {first}"
                assert decision.claim is not None
                claims.add(decision.claim)
                waiting.remove(first)
                self.held["assignments in the order of shares and age"] += 1
        if len(decisions) < limit:
            left = self._first(waiting, claims)
            assert left is None, f"{left} waits while a slot that it may have is free"
            self.held["turns that left nothing waiting that could run"] += 1
        return decisions

    def _first(self, waiting: Iterable[TaskEntry], claims: Claims) -> TaskEntry | None:
        """Whose turn it is of what may run now, found without lines, lanes or heaps."""
        fleet, now_ms = self.fleet, self.history.now_ms
        found: list[tuple[Any, TaskEntry]] = []
        for entry in waiting if ("all", "") not in fleet.pauses else ():
            key, rate_key, project = entry.limited
            if fleet.budgets.held_by(project, now_ms) is not None:
                continue
            if key is not None and not fleet.limits.is_free(key, claims.by_key):
                continue
            if rate_key is not None and fleet.limits.due_ms(rate_key, now_ms, claims.by_rate) is not None:
                continue
            if not any(self._has_room(agent, claims) for agent in fleet.agents.values() if can_do(entry.need, agent)):
                continue
            begun, left = fleet.shares.tag(entry.flow[0])
            spoken_for = claims.by_share.get(entry.flow[0], 0.0)
            key_tag = fleet.shares.key_tag(entry.flow) + claims.by_share.get(entry.flow, 0.0)
            found.append((((begun + spoken_for, left + spoken_for), key_tag, entry.key, entry.position), entry))
        return min(found, key=lambda one: one[0])[1] if found else None

    def _has_room(self, agent: Any, claims: Claims) -> bool:
        host = self.fleet.hosts.get(agent.host_id)
        return (
            agent.status == "idle"
            and host is not None
            and host.session == agent.session
            and len(host.running) + claims.by_host[host.id] < host.slots
            and len(agent.running) + claims.by_agent[agent.id] < agent.slots
        )

    def _check_slots(self) -> None:
        """What a deposed scheduler sent late stands on a slot until it is voided; the audit counts the rest."""
        for kind, places, claims in (
            ("agent", self.fleet.agents, self.overlay.claims.by_agent),
            ("host", self.fleet.hosts, self.overlay.claims.by_host),
        ):
            for place in places.values():
                sound = len(place.running - self.fleet.orphans)
                assert sound + claims[place.id] <= place.slots, f"{kind} {place.id} is given more than it has"
        for key in KEYS:
            held = sum(entry.held and entry.limited.concurrency_key == key for entry in self.fleet.tasks.values())
            assert self.fleet.limits.held.get(key, 0) == held, "a slot of a limit leaked"
        self.held["no slot leaked"] += 1

    def _check_places(self) -> None:
        super()._check_places()
        self.held["no task in two places"] += 1

    # --- the end ---

    def drain(self) -> dict[str, str]:
        """Hosts behave, time goes on, and nobody says a word. What is still there then, and why."""
        self.complete_the_fleet()
        self.attempt(SetLimit(key=KEYS[0], concurrency=1, rate_per_s=1))
        for name in ("s0", "s1"):
            self.attempt(given.RemoveSchedule(name=name))
        quiet = 0
        for _ in range(60 + 4 * len(self.live_tasks())):
            head = self.history.head
            self.rest()
            for id_ in self.live_tasks():
                state = self.history.states["task", id_]
                if state.held:
                    command = CompleteTask(task_id=id_, fence=state.fence, started_ms=NOW_MS, result={"value": 1})
                    self.attempt(command)
            quiet = quiet + 1 if self.history.head == head else 0
            due_ms = next_due_ms(self.fleet)
            if quiet > 2 and (due_ms is None or not self.live_tasks()):
                break
            # A clock that jumped ahead and back has put retries off by as much: nothing else waits for that long.
            put_off = [entry.not_before_ms or 0 for entry in self.fleet.tasks.values() if entry.status == "scheduled"]
            last_ms = max(put_off, default=0) if quiet > 2 else 0
            self.history.now_ms = max(self.history.now_ms + 60_000, due_ms or 0, last_ms)
        self.rest()
        reasons = {id_: self._why(id_) for id_ in self.live_tasks()}
        self.held["tasks that still wait, each with its reason"] += len(reasons)
        return reasons

    def _why(self, id_: str) -> str:
        """The kind of reason why a task still waits; none is an error."""
        state, entry = self.history.states["task", id_], self.fleet.tasks[id_]
        if state.status == "input_required":
            return "question"
        if state.status == "blocked":
            if state.open_approvals:
                return "approval"
            assert state.open_tasks & set(self.live_tasks()), f"{id_} is blocked by nothing that lives"
            return "dependency"
        assert state.status == "queued", f"{id_} is {state.status} after the last of its time"
        if not any(can_do(entry.need, agent) for agent in self.fleet.agents.values() if agent.status != "draining"):
            return "agent"
        if ("all", "") in self.fleet.pauses or self.fleet.is_paused(entry):
            return "pause"
        if self.fleet.budgets.held_by(entry.limited.project, self.history.now_ms) is not None:
            return "budget"
        key = entry.limited.concurrency_key
        assert key is not None, f"{id_} waits for nothing, and does not run"
        assert self.fleet.limits.concurrency(key) == 0, f"{id_} waits for a slot of {key}"
        return "concurrency"

    async def explained(self, path: Path) -> dict[str, str]:
        """Drain; what is still there then, and why: its explanation says so to whoever asks."""
        reasons = self.drain()
        async with projected(path, VIEWS, self.history) as views:
            for id_, why in reasons.items():
                said = await ask(views, explain_task, ExplainTask(task_id=id_), now_ms=self.history.now_ms)
                kinds = [reason["kind"] for reason in said["waits_for"]]
                assert why in kinds, f"{id_} waits for {why}, and its explanation says {said}"
                self.held["reasons that an explanation gives"] += 1
        return reasons

    def finish(self) -> Counter[str]:
        """Drain; then persons answer, approve, resume and cancel. Everything has ended then, and nothing leaked."""
        reasons = self.drain()
        # What an approval or an answer lets go on may wait for an agent that is not there any more.
        stuck = dict(reasons)
        while stuck:
            for id_, why in stuck.items():
                if why == "agent":
                    self.attempt(CancelTask(task_id=id_))
            self.end_well()
            stuck, before = {id_: self._why(id_) for id_ in self.live_tasks()}, stuck
            assert stuck.keys() < before.keys() or "agent" in stuck.values(), f"{stuck} do not end"
        statuses = [state.status for (noun, _), state in self.history.states.items() if noun == "task"]
        assert all(status in FINAL for status in statuses), f"{Counter(statuses)}"
        self.held["accepted tasks that ended"] += len(statuses)
        self.check_order()
        self._check_empty()
        self._check_folds()
        self.held.update(Audit(self.seen, self.set_back).read(self.history.commits))
        return Counter(reasons.values())

    def _check_empty(self) -> None:
        claims, fleet = self.overlay.claims, self.fleet
        assert (fleet.tasks, fleet.limits.held, fleet.orphans, len(self.overlay)) == ({}, {}, set(), 0)
        assert (claims.by_agent, claims.by_host, claims.by_key, claims.by_rate, claims.by_share) == ({}, {}, {}, {}, {})
        assert all(not place.running for place in (*fleet.agents.values(), *fleet.hosts.values()))
        self.held["histories after which every slot was free"] += 1

    def _check_folds(self) -> None:
        """The log from its start, in one go, and from the middle of an image: the same fleet."""
        again, half = Fleet(), Fleet()
        for commit in self.history.commits:
            again.fold(commit)
            if commit.position == self.history.head // 2:
                half = fleet_of(image_of(again))
        for commit in self.history.commits:
            half.fold(commit)
        assert portrait(again) == portrait(self.fleet) == portrait(half)
        self.held["folds that gave the same state"] += 2


def steps_of(seed: int, count: int) -> list[Step]:
    """The steps of a seed."""
    rng = random.Random(seed)
    return [(rng.choice(KINDS), rng.randrange(8)) for _ in range(count)]


def shortened(steps: list[Step], tries_max: int = 400) -> list[Step]:
    """Fewer steps that fail as well."""
    size = len(steps) // 2
    while size and tries_max:
        start = 0
        while start < len(steps) and tries_max:
            fewer = steps[:start] + steps[start + size :]
            tries_max -= 1
            if failure_of(fewer) is not None:
                steps = fewer
            else:
                start += size
        size //= 2
    return steps


def failure_of(steps: list[Step]) -> str | None:
    """What breaks in these steps; None where every law holds."""
    try:
        World.after(steps).finish()
    except BREAKS as error:
        return f"{type(error).__name__}: {error}"
    return None


def main() -> int:
    """Run one history again."""
    seed, count = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 300
    steps = steps_of(seed, count)
    failure = failure_of(steps)
    print(f"seed {seed}, {count} steps: {failure or 'every law holds'}")
    if failure is not None:
        fewer = shortened(steps)
        print(f"{len(fewer)} steps are enough: {failure_of(fewer)}\n{fewer}")
    return 0 if failure is None else 1


if __name__ == "__main__":
    sys.exit(main())
