from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given as sampled
from hypothesis import settings
from hypothesis import strategies as st

from core.agent import AgentDraining, RemoveAgent, StopAgent
from core.host import HostLeft, HostLost
from core.kernel.commit import Event
from core.scheduling.election import SchedulerElected
from core.scheduling.eligibility import Requirement, why_nobody
from core.scheduling.entries import AGE_STEP_MS, AgentEntry
from core.scheduling.fleet import Fleet
from core.scheduling.overlay import Overlay
from core.scheduling.policy import TIMEOUT_SLACK_MS, Decision, decide, next_due_ms
from core.task import (
    FINAL,
    AttemptEnded,
    CancelRequested,
    QueueTask,
    Retry,
    RunScheduled,
    TaskCompleted,
    TaskQueued,
    TaskScheduled,
)
from tests.given import (
    CORRELATION,
    NOW_MS,
    STEPS,
    Simulation,
    assigned,
    registered,
    spawned,
    started,
    submitted,
)
from tests.scene import Scene, assign, claim, expire, names, place

# Agents find a host


def test_a_new_agent_is_placed_on_the_host_that_has_most_room() -> None:
    scene = Scene().host("h1", slots=2).host("h2", slots=8, session="s9").has("agent", "a", spawned())
    scene.has("task", "t", submitted(), TaskQueued(), assigned(host_id="h1")).has(
        "task", "u", submitted(), TaskQueued(), assigned(host_id="h2", session="s9")
    )
    assert scene.decides() == [place("a", "h2", "s9")]


def test_an_agent_waits_for_a_host_with_its_executor() -> None:
    scene = Scene().host(executors=["python"]).has("agent", "a", spawned())
    assert scene.decides() == []
    assert scene.host("h2").decides() == [place("a", "h2")]


def test_an_agent_whose_host_is_lost_moves_to_another_or_stops_for_the_reason() -> None:
    lost = Scene().host().agent().has("host", "h", HostLost(session="s1", reason="no beat for 20 s"))
    assert lost.decides() == [Decision("a", StopAgent(agent_id="a", session="s1", reason="no beat for 20 s"))]
    left = Scene().host().agent().has("host", "h", HostLeft(session="s1"))
    assert left.decides() == [Decision("a", StopAgent(agent_id="a", session="s1", reason="its host left"))]
    assert left.host("h2").decides() == [place("a", "h2")]


def test_a_new_session_takes_in_the_agents_of_the_old_one() -> None:
    scene = Scene().host().agent().has("host", "h", registered(session="s2"))
    assert scene.decides() == [place("a", "h", "s2")]


def test_agents_of_one_type_are_spread_over_the_hosts() -> None:
    scene = Scene().host("h1").host("h2").agent("a", "h1").has("agent", "b", spawned()).has("agent", "c", spawned())
    assert scene.decides() == [place("b", "h2"), place("c", "h1")]


def test_a_host_that_comes_takes_an_agent_from_the_one_that_has_two_more() -> None:
    scene = Scene().host("h1").agent("a", "h1").agent("b", "h1").host("h2")
    scene.task(agent_id="a").has("task", "t", assigned(agent_id="a", host_id="h1"))
    assert scene.decides() == [place("b", "h2")], "the one that has less to do moves"
    scene.has("agent", "b", started(host_id="h2", session="s1"))
    assert scene.decides() == []


def test_an_agent_that_works_moves_too_and_its_attempt_stays() -> None:
    scene = Scene().host("h1").agent("a", "h1", slots=4).agent("b", "h1", slots=4).host("h2")
    for agent in "ab":
        scene.task(f"t{agent}", agent_id=agent).has("task", f"t{agent}", assigned(agent_id=agent, host_id="h1"))
    assert scene.decides() == [place("a", "h2")]
    scene.has("agent", "a", started(host_id="h2", session="s1"))
    assert scene.decides() == [], "nothing is lost, nothing moves back"
    assert scene.fleet.hosts["h1"].running == {"ta", "tb"}


def test_agents_move_for_their_own_type_and_executor_only() -> None:
    scene = Scene().host("h1").agent("a", "h1").agent("b", "h1", type="other").host("h2", executors=["command"])
    scene.agent("c", "h1", executor="python", type="python").agent("d", "h1", executor="python", type="python")
    assert scene.decides() == []


def test_a_draining_agent_goes_after_its_last_task() -> None:
    scene = Scene().host().agent().task().has("task", "t", assigned()).has("agent", "a", AgentDraining())
    assert scene.decides() == []
    scene.has("task", "t", TaskCompleted(fence=4, agent_id="a", started_ms=NOW_MS, result={}))
    assert scene.decides() == [Decision("a", RemoveAgent(agent_id="a"))]


# Attempts lose their host


def test_a_task_whose_host_was_lost_or_restarted_is_ended_and_says_why() -> None:
    def held() -> Scene:
        return Scene().host().task().has("task", "t", assigned())

    assert held().has("host", "h", HostLost(session="s1", reason="silence")).decides() == [
        expire("t", 3, "lease_expired", "Its host was lost: silence.")
    ]
    assert held().has("host", "h", registered(session="s2")).decides() == [
        expire("t", 3, "crashed", "Its host's process ended while it ran.")
    ]
    assert held().has("host", "h", HostLeft(session="s1")).decides() == [
        expire("t", 3, "voided", "Its host left before it could run.")
    ]


def test_an_assignment_of_an_older_term_after_a_newer_election_is_void() -> None:
    scene = Scene().has("scheduler", "main", SchedulerElected(leader="l")).host().agent().task()
    early = scene.has("task", "t", assigned(term=1))
    early.has("scheduler", "main", SchedulerElected(leader="m"))
    assert early.decides() == []
    scene.task("u").has("task", "u", assigned(term=1))
    assert scene.decides() == [expire("u", 8, "voided", "The term of its scheduler had ended.")]


def test_an_attempt_far_beyond_its_timeout_is_ended_once() -> None:
    scene = Scene().host().task(timeout_s=2.0).has("task", "t", assigned())
    due_ms = NOW_MS + 2_000 + TIMEOUT_SLACK_MS
    assert scene.decides() == []
    assert next_due_ms(scene.fleet) == due_ms
    assert scene.decides(now_ms=due_ms - 1) == []
    assert scene.decides(now_ms=due_ms) == [expire("t", 3, "timed_out", "The host did not end it at its timeout.")]
    scene.overlay.hold("t")
    scene.fleet.put_back("t")
    assert scene.decides(now_ms=due_ms) == []


def test_a_cancelled_attempt_that_its_host_does_not_end_is_ended_after_its_grace() -> None:
    scene = Scene().host().task(timeout_s=3600.0).has("task", "t", assigned())
    scene.has("task", "t", CancelRequested(grace_s=5.0))
    due_ms = NOW_MS + 5_000 + TIMEOUT_SLACK_MS
    assert scene.decides(now_ms=due_ms - 1) == []
    error = "The host did not end it at its timeout."
    assert scene.decides(now_ms=due_ms) == [expire("t", 3, "timed_out", error, cause=4)]


def test_the_deadlines_of_attempts_that_have_ended_do_not_pile_up() -> None:
    scene = Scene().host().agent()
    for number in range(500):
        scene.task(f"t{number}").has("task", f"t{number}", assigned())
        fence = scene.history.head
        scene.has("task", f"t{number}", TaskCompleted(fence=fence, agent_id="a", started_ms=NOW_MS, result={}))
    assert scene.decides() == []
    assert len(scene.fleet.clocks.timeouts) < 100


def test_a_line_that_nobody_can_serve_is_put_aside_until_an_agent_comes() -> None:
    scene = Scene().host().task("t0").task("t1")
    assert (scene.decides(), scene.fleet.waiting.needs()) == ([], [])
    scene.agent(slots=2)
    assert names(scene.decides()) == [("t0", "a"), ("t1", "a")]


# Back-off


def test_a_task_is_queued_when_its_back_off_is_over_and_not_before() -> None:
    scene = Scene().has("task", "t", submitted(), TaskScheduled(not_before_ms=NOW_MS + 50))
    assert scene.decides(now_ms=NOW_MS + 49) == []
    assert next_due_ms(scene.fleet) == NOW_MS + 50
    assert scene.decides(now_ms=NOW_MS + 50) == [Decision("t", QueueTask(task_id="t"), CORRELATION, 1)]
    assert next_due_ms(scene.fleet) is None


# Assignments


def test_tasks_go_in_the_order_of_their_submission_over_all_waiting_lines() -> None:
    scene = Scene().host().agent(slots=8).agent("b", executor="python", type="python", slots=8)
    for number in range(6):
        python = number % 3 == 1
        scene.task(f"t{number}", after_ms=1, **({"executor": "python", "agent_type": None} if python else {}))
    pairs = [("t0", "a"), ("t1", "b"), ("t2", "a"), ("t3", "a"), ("t4", "b"), ("t5", "a")]
    assert names(scene.decides()) == pairs


def test_a_level_of_priority_is_worth_a_minute_of_waiting() -> None:
    scene = Scene().host().agent(slots=3)
    scene.task("old").task("newer, above", priority=6, after_ms=AGE_STEP_MS - 1)
    scene.task("newest, above", priority=6, after_ms=2)
    assert [task for task, _ in names(scene.decides())] == ["newer, above", "old", "newest, above"]


def test_an_assignment_names_session_term_and_cause() -> None:
    scene = Scene().host().agent().task()
    assert scene.decides() == [assign("t", 3)]


def test_no_more_tasks_than_slots_of_the_agent_or_its_host() -> None:
    by_agent = Scene().host().agent(slots=2)
    by_host = Scene().host(slots=2).agent(slots=2).agent("b", slots=2)
    for scene in (by_agent, by_host):
        for number in range(4):
            scene.task(f"t{number}")
        assert len(names(scene.decides())) == 2


def test_what_is_under_way_keeps_its_slot_and_is_not_decided_again() -> None:
    scene = Scene().host().agent(slots=2).task("t0").task("t1").task("t2")
    first = scene.decides(limit=1)
    assert names(first) == [("t0", "a")]
    scene.overlay.hold("t0", claim())
    assert names(scene.decides()) == [("t1", "a")]
    scene.overlay.hold("t1", claim())
    assert scene.decides() == []


def test_a_decision_that_came_to_nothing_puts_its_task_back_in_line_and_frees_the_slot() -> None:
    scene = Scene().host().agent().task()
    for _ in range(3):
        assert names(scene.decides()) == [("t", "a")]
        scene.overlay.hold("t", claim())
        assert scene.decides() == []
        scene.overlay.settle("t", scene.fleet.position)
        scene.overlay.sweep(scene.fleet)
    claims = scene.overlay.claims
    assert (claims.by_agent, claims.by_host, claims.by_share, len(scene.overlay)) == ({}, {}, {}, 0)


def test_an_unknown_outcome_keeps_its_slot_until_the_fold_has_passed_the_head() -> None:
    scene = Scene().host().agent().task("t0").task("t1")
    scene.decides()
    scene.overlay.hold("t0", claim())
    scene.overlay.settle("t0", 5)
    scene.overlay.sweep(scene.fleet)
    assert scene.decides() == []
    scene.has("task", "t1", TaskQueued())
    scene.decides()
    scene.overlay.sweep(scene.fleet)
    assert names(scene.decides()) == [("t0", "a")]


def test_a_task_that_stands_in_line_twice_is_assigned_once() -> None:
    scene = Scene().host().agent(slots=4).task()
    scene.decides(limit=0)
    for _ in range(3):
        scene.fleet.put_back("t")
    assert names(scene.decides()) == [("t", "a")]


def test_the_freest_agent_gets_the_task_and_the_last_one_is_avoided_on_wish() -> None:
    scene = Scene().host().agent("a", slots=1).agent("b", slots=3).agent("c", slots=2)
    for number in range(4):
        scene.task(f"t{number}")
    assert [agent for _, agent in names(scene.decides())] == ["b", "c", "b", "c"]
    again = Scene().host().agent("a").agent("b", slots=3).task(retry=Retry(avoid_last_agent=True))
    again.has("task", "t", assigned(agent_id="b"))
    again.has("task", "t", AttemptEnded(fence=5, agent_id="b", outcome="failed", error="x"), TaskQueued())
    assert names(again.decides()) == [("t", "a")]


def test_whoever_is_the_only_one_gets_the_task_again_though_it_was_the_last() -> None:
    scene = Scene().host().agent().task(retry=Retry(avoid_last_agent=True)).has("task", "t", assigned())
    scene.has("task", "t", AttemptEnded(fence=4, agent_id="a", outcome="failed", error="x"), TaskQueued())
    assert names(scene.decides()) == [("t", "a")]


@pytest.mark.parametrize(
    "wish",
    [{"requires": ["gpu"]}, {"executor": "python"}, {"agent_type": "painter"}, {"agent_id": "b"}],
    ids=["a capability", "an executor", "a type", "an agent"],
)
def test_a_task_that_nobody_can_do_waits_and_holds_up_nobody(wish: dict[str, Any]) -> None:
    scene = Scene().host().agent(slots=2).task("t0", **({"agent_type": None} | wish)).task("t1")
    assert names(scene.decides()) == [("t1", "a")]


@pytest.mark.parametrize("event", [AgentDraining(), started(session="s0")], ids=["draining", "on another session"])
def test_an_agent_that_cannot_work_gets_nothing(event: Event) -> None:
    scene = Scene().host().agent().has("agent", "a", event).task()
    assert names(scene.decides()) == []


def test_at_most_so_many_decisions_as_are_wanted_and_the_rest_comes_next_time() -> None:
    scene = Scene().host().agent(slots=5)
    for number in range(5):
        scene.task(f"t{number}")
    taken: list[tuple[str, str]] = []
    for limit in (2, 0, 2, 9):
        decisions = scene.decides(limit=limit)
        for decision in decisions:
            scene.overlay.hold(decision.key, decision.claim)
        taken += names(decisions)
    assert taken == [(f"t{number}", "a") for number in range(5)]


# Why somebody waits


def known(id_: str = "a", type: str = "shell", executor: str = "command", status: str = "idle") -> AgentEntry:  # noqa: A002
    capabilities = frozenset({"shell"})
    return AgentEntry(id=id_, type=type, executor=executor, capabilities=capabilities, slots=1, status=status)


@pytest.mark.parametrize(
    ("need", "agents", "reason"),
    [
        (Requirement("command", ("shell",), "shell", "a"), [known()], None),
        (Requirement("command"), [known(status="offline")], None),
        (Requirement("command"), [], "no agent runs executor command"),
        (Requirement("command"), [known(status="draining")], "no agent runs executor command"),
        (Requirement("command", agent_id="b"), [known()], "agent b is retired or unknown"),
        (Requirement("command", agent_type="painter"), [known()], "there is no agent of type painter"),
        (Requirement("command", ("gpu", "shell")), [known()], "no agent with executor command has capability gpu"),
        (
            Requirement("command", (), "python"),
            [known(), known("b", "python", "python")],
            "no single agent has the executor, type and capabilities together",
        ),
    ],
)
def test_why_nobody_takes_a_task_is_said_in_words(need: Requirement, agents: list[AgentEntry], reason: str) -> None:
    assert why_nobody(need, agents) == reason


# Laws: whatever comes, in whatever order, however late. Simulation itself checks slots and places at each step


@settings(max_examples=150)
@sampled(STEPS)
def test_every_accepted_task_ends_when_hosts_behave_and_no_slot_leaks(steps: list[tuple[str, int]]) -> None:
    simulation = Simulation.after(steps)
    simulation.end_well()
    tasks = {id_: state.status for (noun, id_), state in simulation.history.states.items() if noun == "task"}
    assert all(status in FINAL for status in tasks.values())
    assert simulation.fleet.tasks == {}
    simulation.check_order()
    simulation.check_spending()
    assert (simulation.fleet.dependencies.blocked, simulation.fleet.dependencies.ready) == ({}, [])
    claims = simulation.overlay.claims
    assert (claims.by_agent, claims.by_host, claims.by_key, claims.by_share) == ({}, {}, {}, {})
    assert (len(simulation.overlay), simulation.fleet.limits.held) == (0, {})
    assert all(not place.running for place in (*simulation.fleet.agents.values(), *simulation.fleet.hosts.values()))


@settings(max_examples=100)
@sampled(STEPS, st.booleans(), STEPS)
def test_whoever_takes_over_in_the_middle_brings_everything_to_its_end(
    steps: list[tuple[str, int]], imaged: bool, more: list[tuple[str, int]]
) -> None:
    simulation = Simulation.after(steps)
    simulation.take_over(imaged=imaged)
    for kind, number in more:
        simulation.step(kind, number)
    simulation.end_well()
    assert simulation.live_tasks() == []
    simulation.check_order()
    simulation.check_spending()


@settings(max_examples=150)
@sampled(STEPS)
def test_deciding_is_a_function_of_what_was_folded(steps: list[tuple[str, int]]) -> None:
    simulation = Simulation.after(steps)
    simulation.arrive()
    again = Fleet()
    for commit in simulation.history.commits:
        again.fold(commit)
    now_ms = simulation.history.now_ms
    assert decide(again, Overlay(), now_ms, limit=1000) == decide(simulation.fleet, Overlay(), now_ms, limit=1000)


@settings(max_examples=150)
@sampled(STEPS)
def test_what_is_decided_at_rest_is_accepted_by_the_deciders(steps: list[tuple[str, int]]) -> None:
    simulation = Simulation.after(steps)
    simulation.arrive()
    for decision in simulation.turn(1000):
        head = simulation.history.head
        command = simulation.history.looked_up(decision.command)
        if command is None:
            continue
        commit = simulation.history.execute(command, decision.command_id)
        assert commit is not None, f"{decision} changed nothing"
        assert commit.position == head + 1
        about = commit.aggregate_id
        assert decision.key == (decision.command.schedule_id if isinstance(decision.command, RunScheduled) else about)
