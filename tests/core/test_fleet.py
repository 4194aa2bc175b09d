from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given as sampled
from hypothesis import settings
from hypothesis import strategies as st
from msgspec.structs import replace

from core.agent import AgentDraining, AgentRetired, AgentStopped
from core.host import HostLeft, HostLost
from core.kernel.outcomes import CommandUnchanged
from core.scheduling.election import SchedulerElected
from core.scheduling.eligibility import Requirement
from core.scheduling.entries import AGE_STEP_MS, AgentEntry, HostEntry, TaskEntry
from core.scheduling.fleet import Fleet
from core.scheduling.images import fleet_of, image_of
from core.scheduling.overlay import Overlay
from core.scheduling.policy import decide
from core.scheduling.schedules import NO_RUN
from core.scheduling.shares import UNKNOWN_MS, Shares
from core.scheduling.statistics import Statistics
from core.scheduling.waiting import Limited
from core.task import (
    AttemptEnded,
    CancelRequested,
    Retry,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskProgressed,
    TaskQueued,
    TaskScheduled,
    TaskStarted,
)
from tests.given import (
    CORRELATION,
    NOW_MS,
    STEPS,
    History,
    Simulation,
    assigned,
    portrait,
    registered,
    spawned,
    started,
    submitted,
    trimmed_of,
)

NEED = Requirement("command", (), "shell", None)
# Each event beside its record in logs out there: it is written and read so for ever.
GOLDEN = [
    (SchedulerElected(leader="l"), 'scheduler.elected/1 {"leader":"l"}'),
]


def folded(history: History) -> Fleet:
    fleet = Fleet()
    for commit in history.commits:
        fleet.fold(commit)
    return fleet


def a_fleet() -> History:
    """Given a host and an agent on it."""
    history = History()
    history.commit("host", "h", registered())
    history.commit("agent", "a", spawned())
    history.commit("agent", "a", started())
    return history


def entry(**changed: Any) -> TaskEntry:
    """The entry of a task that was submitted and queued at position 4."""
    fields: dict[str, Any] = {
        "id": "t",
        "key": NOW_MS - 5 * AGE_STEP_MS,
        "position": 4,
        "last_position": 4,
        "need": NEED,
        "timeout_s": 60.0,
        "avoid_last_agent": False,
        "correlation_id": CORRELATION,
        "status": "queued",
        "type": "greet",
        "flow": ("ada", "default"),
        "limited": Limited(None, None),
    }
    return TaskEntry(**(fields | changed))


HELD: dict[str, Any] = {
    "status": "assigned",
    "fence": 5,
    "term": 1,
    "agent_id": "a",
    "host_id": "h",
    "session": "s1",
    "assigned_ms": NOW_MS,
    "last_position": 5,
    "charged_ms": UNKNOWN_MS,
    "attempt": 1,
}


def held() -> History:
    """Given a task that is assigned at position 5."""
    history = a_fleet()
    history.commit("task", "t", submitted(), TaskQueued())
    history.commit("task", "t", assigned())
    return history


def test_a_submitted_task_waits_in_the_line_of_its_requirement() -> None:
    history = a_fleet()
    wishes = {"requires": ["gpu"], "agent_id": "a", "retry": Retry(avoid_last_agent=True)}
    history.commit("task", "t", submitted(priority=7, timeout_s=3.0, **wishes), TaskQueued())
    need = Requirement("command", ("gpu",), "shell", "a")
    key = NOW_MS - 7 * AGE_STEP_MS
    fleet = folded(history)
    assert fleet.tasks == {"t": entry(key=key, need=need, timeout_s=3.0, avoid_last_agent=True)}
    assert (fleet.waiting.needs(), list(fleet.waiting.items())) == ([need], [(key, 4, "t")])


def test_an_assigned_task_holds_a_slot_of_its_agent_and_of_its_host() -> None:
    fleet = folded(held())
    assert fleet.tasks == {"t": entry(**HELD)}
    assert (fleet.agents["a"].running, fleet.hosts["h"].running) == ({"t"}, {"t"})
    assert (fleet.orphans, fleet.clocks.timeouts) == (set(), [(NOW_MS + 60_000, 5, "t")])
    assert fleet.tasks["t"].charged_ms == UNKNOWN_MS


@pytest.mark.parametrize(
    "events",
    [
        (TaskCompleted(fence=5, agent_id="a", started_ms=NOW_MS, result={}),),
        (AttemptEnded(fence=5, agent_id="a", outcome="failed", error="x"), TaskFailed(error="x", outcome="failed")),
        (AttemptEnded(fence=5, agent_id="a", outcome="cancelled", error="x"), TaskCancelled()),
    ],
    ids=["completed", "failed", "cancelled"],
)
def test_the_end_of_a_task_frees_its_slots_and_forgets_it(events: tuple[Any, ...]) -> None:
    history = held()
    history.commit("task", "t", *events)
    fleet = folded(history)
    assert (fleet.tasks, fleet.agents["a"].running, fleet.hosts["h"].running) == ({}, set(), set())


@pytest.mark.parametrize(
    ("follows", "changed"),
    [
        (TaskQueued(), {"status": "queued"}),
        (TaskScheduled(not_before_ms=NOW_MS + 9), {"status": "scheduled", "not_before_ms": NOW_MS + 9}),
    ],
    ids=["queued", "scheduled"],
)
def test_after_an_attempt_the_task_waits_again_and_remembers_who_had_it(follows: Any, changed: dict[str, Any]) -> None:
    history = held()
    history.commit("task", "t", AttemptEnded(fence=5, agent_id="a", outcome="failed", error="x"), follows)
    fleet = folded(history)
    wanted = entry(last_position=6, term=1, assigned_ms=NOW_MS, last_agent="a", attempt=1, **changed)
    assert fleet.tasks == {"t": wanted}
    assert (fleet.agents["a"].running, fleet.hosts["h"].running) == (set(), set())
    assert fleet.clocks.timers == ([(NOW_MS + 9, "t")] if "not_before_ms" in changed else [])


def test_what_an_attempt_says_on_its_way_moves_only_its_status() -> None:
    history = held()
    history.commit("task", "t", TaskStarted(fence=5, agent_id="a", started_ms=NOW_MS))
    history.commit("task", "t", TaskProgressed(fence=5, progress=0.5))
    history.commit("task", "t", CancelRequested(grace_s=5.0))
    history.commit("task", "t", CommandUnchanged())
    wanted = HELD | {"status": "running", "last_position": 9, "cancelling": True, "cancelled_ms": NOW_MS + 5_000}
    assert folded(history).tasks == {"t": entry(**wanted)}


@pytest.mark.parametrize(
    ("event", "host"),
    [
        (HostLost(session="s1", reason="silence"), ("", "silence")),
        (HostLeft(session="s1"), ("", "")),
        (registered(session="s2"), ("s2", "")),
    ],
    ids=["lost", "left", "restarted"],
)
def test_the_end_of_a_session_orphans_its_tasks_and_unsettles_its_agents(event: Any, host: tuple[str, str]) -> None:
    history = held()
    history.commit("host", "h", event)
    fleet = folded(history)
    session, reason = host
    assert fleet.hosts == {
        "h": HostEntry(
            id="h",
            session=session,
            executors=frozenset({"command", "python"}),
            slots=8,
            lost_reason=reason,
            lost_ms=NOW_MS if reason else 0,
            running={"t"},
        )
    }
    assert (fleet.orphans, fleet.unsettled_agents) == ({"t"}, {"a"})


def test_an_assignment_to_a_session_that_is_over_is_an_orphan_from_the_start() -> None:
    history = a_fleet()
    history.commit("host", "h", registered(session="s2"))
    history.commit("task", "t", submitted(), TaskQueued())
    history.commit("task", "t", assigned())
    assert folded(history).orphans == {"t"}


def test_an_election_begins_a_term_at_its_position() -> None:
    history = a_fleet()
    history.commit("scheduler", "main", SchedulerElected(leader="l"))
    fleet = folded(history)
    assert (fleet.term, fleet.leader, fleet.position) == (4, "l", 4)


def test_the_life_of_an_agent() -> None:
    history = History()
    history.commit("host", "h", registered())
    fleet = Fleet()
    shell = {"id": "a", "type": "shell", "executor": "command", "capabilities": frozenset({"shell"}), "slots": 1}
    seen = []
    for event in (spawned(), started(), AgentStopped(reason="gone"), started(), AgentDraining(), AgentRetired()):
        history.commit("agent", "a", event)
        for commit in history.commits:
            fleet.fold(commit)
        agent = fleet.agents.get("a")
        seen.append((msgspec.structs.replace(agent) if agent else None, "a" in fleet.unsettled_agents))
        assert [one.id for one in fleet.eligible(NEED)] == (["a"] if agent and agent.status == "idle" else [])
    on_host = {"host_id": "h", "session": "s1"}
    assert seen == [
        (AgentEntry(**shell, status="starting"), True),
        (AgentEntry(**shell, status="idle", **on_host), False),
        (AgentEntry(**shell, status="offline"), True),
        (AgentEntry(**shell, status="idle", **on_host), False),
        (AgentEntry(**shell, status="draining", **on_host), True),
        (None, False),
    ]


def test_an_agent_that_stops_while_it_drains_goes_on_draining() -> None:
    history = a_fleet()
    history.commit("agent", "a", AgentDraining())
    history.commit("agent", "a", AgentStopped(reason="gone"))
    assert folded(history).agents["a"].status == "draining"


def test_a_commit_folded_twice_counts_once_and_foreign_nouns_only_move_the_position() -> None:
    history = held()
    history.commit("refusal", "x", CommandUnchanged())
    fleet = folded(history)
    before = portrait(fleet)
    for commit in history.commits:
        fleet.fold(commit)
    assert (portrait(fleet), fleet.position) == (before, 6)


def test_an_image_of_something_else_is_no_fleet() -> None:
    with pytest.raises(msgspec.MsgspecError):
        fleet_of(b"\x93\x01\x02\x03")


# Laws


@settings(max_examples=150)
@sampled(STEPS, st.lists(st.integers(1, 9), max_size=20))
def test_whoever_folds_and_in_whatever_pieces_the_fleet_is_the_same(
    steps: list[tuple[str, int]], pieces: list[int]
) -> None:
    simulation = Simulation.after(steps)
    simulation.arrive()
    again = Fleet()
    commits = simulation.history.commits
    for piece in [*pieces, len(commits)]:
        for commit in commits[max(0, again.position - 1) :][:piece]:  # each piece repeats its predecessor's last
            again.fold(commit)
    for commit in commits:
        again.fold(commit)
    assert portrait(again) == portrait(simulation.fleet)


@settings(max_examples=150)
@sampled(STEPS, st.integers(0, 20))
def test_an_image_stands_for_the_fold_it_was_made_of_and_folds_on_like_it(
    steps: list[tuple[str, int]], later: int
) -> None:
    simulation = Simulation.after(steps)
    simulation.arrive()
    commits = simulation.history.commits
    half = Fleet()
    for commit in commits[: max(0, len(commits) - later)]:
        half.fold(commit)
    restored = fleet_of(image_of(half))
    assert portrait(restored) == portrait(half)
    for commit in commits:
        restored.fold(commit)
    assert portrait(restored) == portrait(simulation.fleet)
    now_ms = simulation.history.now_ms
    decisions = [decide(fleet, Overlay(), now_ms, limit=1000) for fleet in (restored, simulation.fleet)]
    assert decisions[0] == decisions[1]


@settings(max_examples=150)
@sampled(STEPS)
def test_every_live_task_stands_in_exactly_one_place(steps: list[tuple[str, int]]) -> None:
    simulation = Simulation.after(steps)
    simulation.arrive()
    fleet = simulation.fleet
    seen = portrait(fleet)
    places = Counter(id_ for kind in ("queued", "timed", "watched") for id_ in seen[kind])
    still = {id_ for id_, entry in fleet.tasks.items() if entry.status in ("blocked", "input_required")}
    assert places == dict.fromkeys(fleet.tasks.keys() - still, 1)
    assert set(fleet.dependencies.blocked) <= still
    assert set(fleet.tasks) == set(simulation.live_tasks())


@settings(max_examples=150)
@sampled(STEPS, st.integers(0, 200))
def test_a_log_that_was_trimmed_of_what_has_ended_folds_to_the_same_fleet(
    steps: list[tuple[str, int]], limit: int
) -> None:
    history = Simulation.after(steps).history
    whole, trimmed = trimmed_of(history, limit)
    # The position is that of the last commit folded, which may have gone; the newest entries of a log never go.
    trimmed.position = whole.position
    # How long those took that have gone is forgotten with them, and the tokens that they took: shares begin anew.
    for fleet in (trimmed, whole):
        fleet.shares, fleet.statistics = Shares(), Statistics()
        fleet.limits.buckets = {}
        for entry in fleet.tasks.values():
            entry.charged_ms = 0.0
    assert to_look_up(portrait(trimmed)) == to_look_up(portrait(whole))


def to_look_up(seen: dict[str, Any]) -> dict[str, Any]:
    """A portrait in which it makes no difference whether an end was seen or is yet to be looked up.

    That a run ended which its schedule was not told of is looked up as well: by submitting it again.
    """
    blocked = {id_: (entry.live, entry.unseen | set(entry.ended)) for id_, entry in seen["blocked"].items()}
    told = {
        id_: entry if entry.submitted[1] in entry.running else replace(entry, submitted=NO_RUN)
        for id_, entry in seen["schedules"].items()
    }
    due = {id_ for id_, entry in told.items() if entry.unmarked or entry.next_ms is not None}
    return {**seen, "blocked": blocked, "settling": None, "parts": seen["parts"][0], "schedules": told, "due": due}
