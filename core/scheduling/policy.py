"""The scheduler's decisions: a pure function from (fleet, overlay, time) to commands."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from uuid import UUID

from msgspec import Struct

from core.agent import RemoveAgent, StartAgent, StopAgent
from core.scheduling.eligibility import Requirement
from core.scheduling.entries import AgentEntry, TaskEntry
from core.scheduling.fleet import Fleet
from core.scheduling.overlay import Claim, Claims, Overlay
from core.scheduling.schedules import next_step
from core.scheduling.shares import Flow, Tag
from core.scheduling.statistics import draw_of
from core.scheduling.waiting import Limited, Look, Rank
from core.task import AssignTask, EndOverdueTask, ExpireTask, QueueTask, Routing, RunScheduled, run_id

TIMEOUT_SLACK_MS = 15_000
# Agent types that a choice compares.
CANDIDATES_MAX = 8
# Live tasks, unless a setting says otherwise.
TASKS_MAX = 200_000


class Decision(Struct, frozen=True):
    """One command to issue. `key` names what it is about: only one decision per key is under way.
    `cause` is the position that led to it. `command_id` where a repeat must be the same command."""

    key: str
    command: Struct
    correlation_id: str | None = None
    cause: int = 0
    claim: Claim | None = None
    command_id: UUID | None = None
    on_behalf_of: str | None = None


def decide(fleet: Fleet, overlay: Overlay, now_ms: int, *, limit: int, tasks_max: int = TASKS_MAX) -> list[Decision]:
    """At most `limit` decisions that hold now. Whoever issues one enters its key into the overlay first.

    With `tasks_max` live tasks the runs of schedules are skipped, as the submissions of callers are refused.

    Deciding takes entries out of the fleet's waiting lines; `Fleet.put_back` returns one whose command came to nothing.
    """
    decisions: list[Decision] = []
    # A task may stand in two lines, or twice in one: whatever is decided here is under way for the rest of the call.
    under_way = set(overlay.keys())
    sources = (
        _agents(fleet, overlay, under_way),
        _orphans(fleet, under_way),
        _timeouts(fleet, under_way, now_ms),
        _expiries(fleet, under_way, now_ms),
        _due(fleet, under_way, now_ms),
        _runs(fleet, under_way, now_ms, tasks_max - len(fleet.tasks)),
        _relations(fleet, under_way),
        _carries(fleet, under_way),
        _assignments(fleet, overlay, under_way, now_ms),
    )
    for source in sources:
        for decision in islice(source, limit - len(decisions)):
            under_way.add(decision.key)
            decisions.append(decision)
    return decisions


def next_due_ms(fleet: Fleet) -> int | None:
    """When time alone gives the scheduler something to do."""
    times = [fleet.clocks.timers[0][0]] if fleet.clocks.timers else []
    if fleet.clocks.timeouts:
        times.append(fleet.clocks.timeouts[0][0] + TIMEOUT_SLACK_MS)
    if fleet.clocks.expiries:
        times.append(fleet.clocks.expiries[0][0])
    if fleet.schedules.due:
        times.append(fleet.schedules.due[0][0])
    times.extend(fleet.parked_until.values())
    return min(times, default=None)


def _agents(fleet: Fleet, overlay: Overlay, under_way: set[str]) -> Iterator[Decision]:
    """Place agents that live nowhere, stop those whose session is gone, let drained ones go; then even them out."""
    placed = _placed(fleet) if fleet.unsettled_agents or fleet.uneven else Counter()
    for agent_id in sorted(fleet.unsettled_agents - under_way):
        agent = fleet.agents[agent_id]
        if agent.status == "draining":
            if not agent.running and not overlay.claims.by_agent[agent_id]:
                yield Decision(agent_id, RemoveAgent(agent_id=agent_id))
            continue
        home = min(
            fleet.homes(agent),
            key=lambda host: (placed[agent.type, host.id], len(host.running) / host.slots, host.id),
            default=None,
        )
        if home is not None:
            placed[agent.type, home.id] += 1
            command = StartAgent(agent_id=agent_id, host_id=home.id, session=home.session, term=fleet.term)
            yield Decision(agent_id, command)
        elif agent.session:
            lost = fleet.hosts.get(agent.host_id)
            reason = (lost.lost_reason if lost else "") or "its host left"
            yield Decision(agent_id, StopAgent(agent_id=agent_id, session=agent.session, reason=reason))
    if fleet.uneven and not any(key in fleet.agents for key in under_way):
        yield from _evened(fleet, placed)


def _placed(fleet: Fleet) -> Counter[tuple[str, str]]:
    """How many agents of a type live on a host."""
    return Counter((agent.type, agent.host_id) for agent in fleet.agents.values() if fleet.lives(agent))


def _evened(fleet: Fleet, placed: Counter[tuple[str, str]]) -> Iterator[Decision]:
    """One agent moves from the host with the most of its type to the one with the fewest, if two or more lie between.

    What runs stays where it runs: an attempt belongs to its host's session, not to its agent's.
    """
    for agent in sorted(fleet.agents.values(), key=lambda agent: (len(agent.running), agent.id)):
        homes = fleet.homes(agent) if fleet.lives(agent) else []
        if len(homes) < 2:
            continue
        to = min(homes, key=lambda host: (placed[agent.type, host.id], host.id))
        if placed[agent.type, agent.host_id] - placed[agent.type, to.id] >= 2:
            command = StartAgent(agent_id=agent.id, host_id=to.id, session=to.session, term=fleet.term)
            yield Decision(agent.id, command)
            return  # its event says whether there is more to do
    fleet.uneven = False


def _orphans(fleet: Fleet, under_way: set[str]) -> Iterator[Decision]:
    """End the attempts whose session is gone, or that an older term assigned."""
    for task_id in sorted(fleet.orphans - under_way):
        entry = fleet.tasks[task_id]
        host = fleet.hosts.get(entry.host_id)
        if host is not None and host.session == entry.session:
            command = ExpireTask(
                task_id=task_id, fence=entry.fence, outcome="voided", error="The term of its scheduler had ended."
            )
        elif host is not None and host.lost_reason:
            command = ExpireTask(
                task_id=task_id,
                fence=entry.fence,
                outcome="lease_expired",
                error=f"Its host was lost: {host.lost_reason}.",
            )
        elif host is not None and not host.session:
            command = ExpireTask(
                task_id=task_id, fence=entry.fence, outcome="voided", error="Its host left before it could run."
            )
        else:
            command = ExpireTask(
                task_id=task_id, fence=entry.fence, outcome="crashed", error="Its host's process ended while it ran."
            )
        yield Decision(task_id, command, entry.correlation_id, entry.last_position)


def _timeouts(fleet: Fleet, under_way: set[str], now_ms: int) -> Iterator[Decision]:
    """The host ends an attempt at its timeout; this is the backstop for a host that beats but does not."""
    heap = fleet.clocks.timeouts
    while heap and heap[0][0] + TIMEOUT_SLACK_MS <= now_ms:
        _, fence, task_id = heapq.heappop(heap)
        entry = fleet.tasks.get(task_id)
        if entry is None or entry.fence != fence or task_id in under_way:
            continue
        command = ExpireTask(
            task_id=task_id, fence=fence, outcome="timed_out", error="The host did not end it at its timeout."
        )
        yield Decision(task_id, command, entry.correlation_id, entry.last_position)


def _expiries(fleet: Fleet, under_way: set[str], now_ms: int) -> Iterator[Decision]:
    """End the tasks whose time is up. Before the assignments: at its deadline nothing is started any more."""
    heap = fleet.clocks.expiries
    while heap and heap[0][0] <= now_ms:
        due_ms, task_id = heapq.heappop(heap)
        entry = fleet.tasks.get(task_id)
        expires = entry.expiry if entry is not None else None
        if entry is None or expires is None or expires[0] != due_ms or task_id in under_way:
            continue
        command = EndOverdueTask(task_id=task_id, attempt=entry.attempt, reason=expires[1])
        yield Decision(task_id, command, entry.correlation_id, entry.last_position)


def _due(fleet: Fleet, under_way: set[str], now_ms: int) -> Iterator[Decision]:
    """Queue what has waited for its time."""
    heap = fleet.clocks.timers
    while heap and heap[0][0] <= now_ms:
        due_ms, task_id = heapq.heappop(heap)
        entry = fleet.tasks.get(task_id)
        if entry is None or entry.status != "scheduled" or entry.not_before_ms != due_ms or task_id in under_way:
            continue
        yield Decision(task_id, QueueTask(task_id=task_id), entry.correlation_id, entry.last_position)


def _runs(fleet: Fleet, under_way: set[str], now_ms: int, room: int) -> Iterator[Decision]:
    """Submit the runs of schedules that are due, mark those that were submitted, skip what is not to be run."""
    for entry in fleet.schedules.take_due(now_ms):
        step = None if entry.id in under_way else next_step(entry, now_ms, full=room <= 0)
        if isinstance(step, RunScheduled):
            room -= 1
            id_ = run_id(entry.id, step.due_ms)
            yield Decision(entry.id, step, None, entry.position, command_id=id_, on_behalf_of=entry.owner)
        elif step is not None:
            yield Decision(entry.id, step, None, entry.position)


def _relations(fleet: Fleet, under_way: set[str]) -> Iterator[Decision]:
    """What the end of one task means for those that wait for it, or are parts of it."""
    for child in fleet.children.due(under_way):
        entry = fleet.tasks[child.task_id]
        yield Decision(entry.id, child, entry.correlation_id, entry.last_position)
    for settlement, cause in fleet.dependencies.due(under_way):
        yield Decision(settlement.task_id, settlement, fleet.tasks[settlement.task_id].correlation_id, cause)


def _carries(fleet: Fleet, under_way: set[str]) -> Iterator[Decision]:
    """Say on the log what was spent of budgets, so that it may forget the tasks that it was spent for."""
    for name, command in list(fleet.budgets.due(fleet.position, under_way)):
        yield Decision(name, command, None, fleet.position)


def _assignments(fleet: Fleet, overlay: Overlay, under_way: set[str], now_ms: int) -> Iterator[Decision]:
    """Give waiting tasks to free agents: whose turn it is by the shares, within the limits, over all lines."""
    if ("all", "") in fleet.pauses:
        return
    claims = overlay.claims.copy()
    look = _look(fleet, claims, under_way, now_ms)
    # By a clock that was set back, what was parked would wait as much too long.
    set_back, fleet.looked_ms = now_ms < fleet.looked_ms, now_ms
    for key in [key for key, due_ms in fleet.parked_until.items() if due_ms <= now_ms or set_back]:
        del fleet.parked_until[key]
        fleet.waiting.release(key)
    heads: list[tuple[Rank, Requirement]] = []
    for need in fleet.waiting.needs():
        if not fleet.eligible(need):
            fleet.waiting.strand(need)
        elif _has_room(fleet, need, claims):
            _push_head(heads, fleet, need, look)
    while heads:
        said, need = heapq.heappop(heads)
        head = fleet.waiting.head(need, look)
        if head is None:
            continue
        if head.rank > said:
            # Another line of the same flow was served meanwhile.
            heapq.heappush(heads, (head.rank, need))
            continue
        entry = fleet.tasks[head.task_id]
        agent, routing = _choose(fleet, entry, claims)
        if agent is None:
            continue  # nobody is free for this line; the others may still move
        fleet.waiting.take(head)
        cost_ms = fleet.shares.cost(entry.type)
        weighed_ms = cost_ms / fleet.limits.weight(entry.flow[1])
        claim = Claim(agent.id, agent.host_id, entry.flow, cost_ms, weighed_ms, entry.limited)
        claims.add(claim)
        command = AssignTask(
            task_id=entry.id,
            agent_id=agent.id,
            host_id=agent.host_id,
            session=agent.session,
            term=fleet.term,
            agent_type=agent.type,
            routing=routing,
        )
        yield Decision(entry.id, command, entry.correlation_id, entry.last_position, claim)
        _push_head(heads, fleet, need, look)


def _look(fleet: Fleet, claims: Claims, under_way: set[str], now_ms: int) -> Look:
    """The fold and what is spoken for, as the lines ask for them."""

    shares, pending = fleet.shares, claims.by_share

    def tag(principal: str) -> Tag:
        begun, left = shares.tag(principal)
        spoken_for = pending.get(principal, 0.0)
        return begun + spoken_for, left + spoken_for

    def key_tag(flow: Flow) -> float:
        return shares.key_tag(flow) + pending.get(flow, 0.0)

    def waits(task_id: str) -> bool:
        entry = fleet.tasks.get(task_id)
        waiting = entry is not None and entry.status == "queued" and task_id not in under_way
        # Who is passed over here is put back when something is resumed.
        return waiting and not (fleet.pauses and entry is not None and fleet.is_paused(entry))

    def held_by(limited: Limited) -> str | None:
        key, rate_key, project = limited
        held = fleet.budgets.held_by(project, now_ms) if fleet.budgets.purses else None
        if held is not None:
            if held.renews_ms is not None:
                fleet.parked_until[f"budget:{held.key}"] = held.renews_ms
            return f"budget:{held.key}"
        if key is not None and not fleet.limits.is_free(key, claims.by_key):
            return f"concurrency:{key}"
        if rate_key is not None:
            due_ms = fleet.limits.due_ms(rate_key, now_ms, claims.by_rate)
            if due_ms is not None:
                fleet.parked_until[f"rate:{rate_key}"] = due_ms
                return f"rate:{rate_key}"
        return None

    return Look(tag, key_tag, waits, held_by)


def _has_room(fleet: Fleet, need: Requirement, claims: Claims) -> bool:
    """Whether any agent of a line is free: if none is, nobody needs to know whose turn it would be."""
    return any(_free_slots(fleet, agent, claims) > 0 for agent in fleet.eligible(need))


def _free_slots(fleet: Fleet, agent: AgentEntry, claims: Claims) -> int:
    host = fleet.hosts.get(agent.host_id)
    if host is None or host.session != agent.session or len(host.running) + claims.by_host[host.id] >= host.slots:
        return 0
    return agent.slots - len(agent.running) - claims.by_agent[agent.id]


def _push_head(heads: list[tuple[Rank, Requirement]], fleet: Fleet, need: Requirement, look: Look) -> None:
    head = fleet.waiting.head(need, look)
    if head is not None:
        heapq.heappush(heads, (head.rank, need))


def _choose(fleet: Fleet, entry: TaskEntry, claims: Claims) -> tuple[AgentEntry | None, Routing | None]:
    """The agent type that does such tasks best, as far as is known, and of it the agent with the most free slots."""
    best: dict[str, tuple[tuple[bool, int, str], AgentEntry]] = {}
    for agent in fleet.eligible(entry.need):
        free = _free_slots(fleet, agent, claims)
        if free <= 0:
            continue
        avoided = entry.avoid_last_agent and agent.id == entry.last_agent
        rank = (not avoided, free, agent.id)
        known = best.get(agent.type if entry.learned else "")
        if known is None or rank > known[0]:
            best[agent.type if entry.learned else ""] = rank, agent
    if not best:
        return None, None
    if len(best) == 1:
        return next(iter(best.values()))[1], None
    # Whoever had it last and is to be avoided comes only where there is nobody else.
    candidates = {kind: agent for kind, (rank, agent) in best.items() if rank[0]} or {
        kind: agent for kind, (_, agent) in best.items()
    }
    draw = draw_of(entry.id, entry.last_position)
    kinds = sorted(candidates)[:CANDIDATES_MAX]
    scores = fleet.statistics.scores(entry.type, kinds, draw)
    chosen = min(kinds, key=lambda kind: (scores[kind], kind))
    return candidates[chosen], Routing(folded=fleet.position, draw=draw, scores=scores)
