from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.agent import AgentDraining, AgentRetired, AgentStopped
from core.kernel.commit import Event
from core.kernel.errors import NotFound, Unprocessable
from core.kernel.times import rfc3339
from core.task import AttemptEnded, TaskCompleted, TaskQueued
from projections import agents as a
from projections.catalogue import VIEWS
from tests.given import NOW_MS, History, ask, assigned, projected, row_of, spawned, started, submitted

pytestmark = pytest.mark.usefixtures("each_database")

SPAWNED: dict[str, Any] = {
    "id": "a",
    "created": 1,
    "type": "shell",
    "name": "shelly",
    "executor": "command",
    "capabilities": ["shell"],
    "slots": 1,
    "life": "starting",
    "host_id": None,
    "running": [],
    "busy_slots": 0,
    "created_ms": NOW_MS,
    "last_activity_ms": NOW_MS,
    "tasks_completed": 0,
    "attempts_ended": 0,
    "busy_ms": 0,
}
IDLE = SPAWNED | {"life": "idle", "host_id": "h", "last_activity_ms": NOW_MS + 10}


def lived(*commits: tuple[str, Event]) -> History:
    """Given agent `a`; then one event of the agent, or of a task, every ten milliseconds."""
    history = History(folding=False)
    history.commit("agent", "a", spawned())
    for id_, event in commits:
        history.now_ms += 10
        history.commit("agent" if id_ == "a" else "task", id_, event)
    return history


def row(*commits: tuple[str, Event]) -> dict[str, Any] | None:
    return row_of(a.Agents(), lived(*commits), "a")


START = ("a", started())


def test_the_life_of_an_agent() -> None:
    assert row() == SPAWNED
    assert row(START) == IDLE
    stop, drain, retire = ("a", AgentStopped(reason="x")), ("a", AgentDraining()), ("a", AgentRetired())
    gone = {"host_id": None, "last_activity_ms": NOW_MS + 20}
    assert row(START, stop) == IDLE | gone | {"life": "offline"}
    assert row(START, drain) == IDLE | {"life": "draining", "last_activity_ms": NOW_MS + 20}
    assert row(START, drain, stop) == IDLE | gone | {"life": "draining", "last_activity_ms": NOW_MS + 30}
    assert row(START, drain, retire) == IDLE | gone | {"life": "retired", "last_activity_ms": NOW_MS + 30}


def test_an_agent_works_on_what_it_was_assigned_until_that_ends() -> None:
    working = row(START, ("t", assigned()), ("u", assigned()))
    assert working == IDLE | {"running": ["t", "u"], "busy_slots": 2, "last_activity_ms": NOW_MS + 30}
    completed = ("t", TaskCompleted(fence=3, agent_id="a", started_ms=NOW_MS + 35, result={}))
    assert row(START, ("t", assigned()), ("u", assigned()), completed) == IDLE | {
        "running": ["u"],
        "busy_slots": 1,
        "tasks_completed": 1,
        "attempts_ended": 1,
        "busy_ms": 5,
        "last_activity_ms": NOW_MS + 40,
    }


@pytest.mark.parametrize(
    ("outcome", "counts"),
    [
        ("failed", True),
        ("timed_out", True),
        ("output_limit", True),
        ("budget_exceeded", True),
        ("crashed", False),
        ("lease_expired", False),
        ("cancelled", False),
        ("interrupted", False),
        ("voided", False),
    ],
)
def test_only_attempts_that_say_something_about_its_work_count(outcome: Any, counts: bool) -> None:
    ended = AttemptEnded(fence=3, agent_id="a", outcome=outcome, error="x", started_ms=NOW_MS + 22)
    assert row(START, ("t", assigned()), ("t", ended)) == IDLE | {
        "attempts_ended": int(counts),
        "busy_ms": 8 if counts else 0,
        "last_activity_ms": NOW_MS + 30,
    }


def test_a_task_of_an_agent_that_nobody_spawned_makes_no_row() -> None:
    history = History(folding=False)
    history.commit("task", "t", assigned(agent_id="ghost"))
    assert row_of(a.Agents(), history, "ghost") is None


# Questions


def a_fleet() -> History:
    """Given agents that start, idle, work, drain and are retired, in this order."""
    history = History(folding=False)
    for number, name in enumerate(["starting", "idle", "busy", "draining", "retired"]):
        history.now_ms += 1_000
        history.commit("agent", name, spawned(name=name, type="python" if number % 2 else "shell"))
    for name in ("idle", "busy", "draining", "retired"):
        history.commit("agent", name, started())
    history.commit("agent", "draining", AgentDraining())
    history.commit("agent", "retired", AgentDraining())
    history.commit("agent", "retired", AgentRetired())
    history.commit("task", "t", submitted(), TaskQueued())
    history.commit("task", "t", assigned(agent_id="busy"))
    return history


async def names(views: Any, at: int | None = None, **filters: Any) -> list[tuple[str, str]]:
    answer = await ask(views, a.list_agents, a.ListAgents(**filters), at)
    return [(agent["name"], agent["status"]) for agent in answer["agents"]]


async def test_agents_are_listed_oldest_first_and_retired_ones_only_when_asked_for(tmp_path: Path) -> None:
    async with projected(tmp_path, VIEWS, a_fleet()) as views:
        every = [(name, name) for name in ("starting", "idle", "busy", "draining")]
        assert await names(views) == every
        assert await names(views, type="shell") == [("starting", "starting"), ("busy", "busy")]
        for name, status in [*every, ("retired", "retired")]:
            assert await names(views, status=status) == [(name, name)]
        assert await names(views, limit=1) == [("starting", "starting")]
        with pytest.raises(Unprocessable):
            await names(views, status="asleep")


async def test_a_list_of_agents_as_of_a_position_is_what_it_was_then(tmp_path: Path) -> None:
    async with projected(tmp_path, VIEWS, a_fleet()) as views:
        assert await names(views, at=2) == [("starting", "starting"), ("idle", "starting")]
        assert await names(views, at=9, status="idle") == [(n, "idle") for n in ("idle", "busy", "draining", "retired")]
        async with views.reader(at=None, now_ms=NOW_MS) as reader:
            assert await a.count_active(reader) == 2
        async with views.reader(at=9, now_ms=NOW_MS) as reader:
            assert await a.count_active(reader) == 4


async def test_an_agent_is_shown_with_its_performance(tmp_path: Path) -> None:
    history = lived(START, ("t", assigned()), ("u", assigned()))
    history.now_ms += 70
    history.commit("task", "t", TaskCompleted(fence=3, agent_id="a", started_ms=history.now_ms - 40, result={}))
    ended = AttemptEnded(fence=4, agent_id="a", outcome="failed", error="x", started_ms=history.now_ms - 60)
    history.commit("task", "u", ended, TaskQueued())
    async with projected(tmp_path, VIEWS, history) as views:
        shown = await ask(views, a.show_agent, a.ShowAgent(agent_id="a"))
        before = await ask(views, a.show_agent, a.ShowAgent(agent_id="a"), 4)
    identity = {
        "id": "a",
        "name": "shelly",
        "type": "shell",
        "executor": "command",
        "capabilities": ["shell"],
        "slots": 1,
        "host_id": "h",
        "created_at": rfc3339(NOW_MS),
    }
    assert shown == identity | {
        "status": "idle",
        "current_task": None,
        "running": [],
        "tasks_completed": 1,
        "last_activity": rfc3339(NOW_MS + 100),
        "performance_metrics": {
            "tasks_completed": 1,
            "average_response_time": 0.05,
            "success_rate": 0.5,
            "samples": 2,
        },
        "position": 6,
    }
    reason = "no attempt of this agent has ended yet"
    assert before == identity | {
        "status": "busy",
        "current_task": "t",
        "running": ["t", "u"],
        "tasks_completed": 0,
        "last_activity": rfc3339(NOW_MS + 30),
        "performance_metrics": {
            "tasks_completed": 0,
            "average_response_time": None,
            "success_rate": None,
            "samples": 0,
            "unknown": {"average_response_time": reason, "success_rate": reason},
        },
        "position": 4,
    }


async def test_an_agent_that_was_not_there_is_not_found(tmp_path: Path) -> None:
    async with projected(tmp_path, VIEWS, lived()) as views:
        for agent_id, at in (("nobody", None), ("a", 0)):
            with pytest.raises(NotFound) as caught:
                await ask(views, a.show_agent, a.ShowAgent(agent_id=agent_id), at)
            assert caught.value.code == "unknown_agent"
