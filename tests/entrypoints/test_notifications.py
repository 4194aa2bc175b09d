"""What a watching client is told: from commits, from measurements, from the log."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from core import agent as a
from core import task as t
from core.kernel.errors import Unavailable
from core.scheduling.fleet import Fleet
from entrypoints.rpc.log_messages import LogMessages
from entrypoints.rpc.notifications import Metrics, Notifications
from projections.catalogue import VIEWS
from tests.given import History, ManualClock, assigned, projected, spawned, started, submitted

ESTIMATE = "no statistics of task types are kept in this version"
NO_TASK = "the agent works on nothing"
NOT_TOLD = "the task has not told any"
NOT_SEEN = "this process did not see what happened before"
ENDED = t.AttemptEnded(fence=4, agent_id="a", outcome="failed", error="exit code 1")


def history() -> History:
    """An agent that lives, and a task of it: positions 1 to 4."""
    made = History(folding=False)
    made.commit("agent", "a", spawned())
    made.commit("agent", "a", started())
    made.commit("task", "x", submitted(), t.TaskQueued())
    made.commit("task", "x", assigned())
    return made


def told(notifications: Notifications, made: History, *, after: int = 0) -> list[tuple[str, dict[str, Any]]]:
    return [(n.method, n.params) for commit in made.commits[after:] for n in notifications.of(commit)]


def agent_status(status: str | None, task: str | None, progress: float | None, unknown: dict[str, str]) -> Any:
    params = {"agent_id": "a", "status": status, "task": task, "progress": progress, "estimated_completion": None}
    return "agent/status", params | {"unknown": unknown}


def test_an_agents_life_and_its_tasks_are_told_as_they_are_listed() -> None:
    made = history()
    made.commit("task", "x", t.TaskProgressed(fence=4, progress=0.5, current_step="half", steps_completed=1))
    made.commit("task", "x", t.TaskCompleted(fence=4, agent_id="a", started_ms=0, result={}))
    made.commit("agent", "a", a.AgentDraining())
    made.commit("agent", "a", a.AgentRetired())
    idle = {"estimated_completion": NO_TASK, "task": NO_TASK, "progress": NO_TASK}
    assert [n for n in told(Notifications(Fleet), made) if n[0] == "agent/status"] == [
        agent_status("starting", None, None, idle),
        agent_status("idle", None, None, idle),
        agent_status("busy", "x", None, {"estimated_completion": ESTIMATE, "progress": NOT_TOLD}),
        agent_status("busy", "x", 0.5, {"estimated_completion": ESTIMATE}),
        agent_status("idle", None, None, idle),
        agent_status("draining", None, None, idle),
        agent_status("retired", None, None, idle),
    ]


def test_a_task_is_told_at_each_step_with_what_it_said_of_itself() -> None:
    made = history()
    made.commit("task", "x", t.TaskStarted(fence=4, agent_id="a", started_ms=0))
    made.commit("task", "x", t.TaskProgressed(fence=4, progress=0.5, current_step="half", total_steps=2))
    made.commit("task", "x", ENDED, t.TaskScheduled(not_before_ms=1))
    tasks = [params for method, params in told(Notifications(Fleet), made) if method == "task/progress"]
    assert [(task["status"], task["agent_id"], task["progress"]) for task in tasks] == [
        ("queued", None, None),
        ("assigned", "a", None),
        ("running", "a", None),
        ("running", "a", 0.5),
        ("scheduled", None, None),
    ]
    assert tasks[3] == {
        "task_id": "x",
        "agent_id": "a",
        "progress": 0.5,
        "status": "running",
        "current_step": "half",
        "steps_completed": None,
        "total_steps": 2,
        "unknown": {"steps_completed": NOT_TOLD},
    }
    assert tasks[4]["unknown"]["agent_id"] == "no agent works on it"


def test_an_agent_whose_task_asks_is_free_and_what_waits_for_others_is_told() -> None:
    made = history()
    made.commit("task", "x", t.TaskAsked(fence=4, agent_id="a", question="Which?"))
    made.commit("task", "y", submitted(), t.TaskBlocked())
    seen = told(Notifications(Fleet), made)
    agents = [params["status"] for method, params in seen if method == "agent/status"]
    assert agents == ["starting", "idle", "busy", "idle"]
    tasks = [(params["task_id"], params["status"]) for method, params in seen if method == "task/progress"]
    assert tasks[-3:] == [("x", "assigned"), ("x", "input_required"), ("y", "blocked")]


def test_what_began_before_is_looked_up_in_the_fleet_and_else_said_to_be_unknown() -> None:
    made = history()
    made.commit("task", "x", t.TaskProgressed(fence=4, progress=0.5))
    fleet = Fleet()
    for commit in made.commits:
        fleet.fold(commit)
    seen, blind = Notifications(lambda: fleet), Notifications(Fleet)
    busy = agent_status("busy", "x", 0.5, {"estimated_completion": ESTIMATE})
    assert [n for n in told(seen, made, after=4) if n[0] == "agent/status"] == [busy]
    assert told(seen, made, after=4) == [], "a commit that comes again tells nothing"
    (method, params), *others = told(blind, made, after=4)
    assert (method, params["agent_id"], params["unknown"]["agent_id"], others) == ("task/progress", None, NOT_SEEN, [])


def test_after_a_gap_nothing_of_before_is_believed() -> None:
    made = history()
    made.commit("task", "x", t.TaskCompleted(fence=4, agent_id="a", started_ms=0, result={}))
    made.commit("task", "y", submitted(), t.TaskQueued())
    made.commit("task", "y", assigned())
    notifications = Notifications(Fleet)
    told(notifications, made)
    made.commit("task", "y", t.TaskQueued())
    made.commit("task", "z", assigned())
    statuses = [n for n in told(notifications, made, after=8) if n[0] == "agent/status"]
    unknown = {"estimated_completion": ESTIMATE, "status": NOT_SEEN, "progress": NOT_TOLD}
    assert statuses == [agent_status(None, "z", None, unknown)]


def test_the_fold_is_bounded() -> None:
    made = History(folding=False)
    for number in range(20):
        made.commit("agent", f"a{number}", spawned())
        made.commit("task", f"x{number}", assigned(agent_id=f"a{number}"))
    notifications = Notifications(Fleet, agents_max=3, tasks_max=3)
    told(notifications, made)
    assert (len(notifications._agents), len(notifications._tasks)) == (3, 3)


def test_warnings_of_the_log_are_told_once_without_their_traceback_and_the_oldest_are_dropped() -> None:
    messages = LogMessages(held_max=2)
    logger = logging.Logger("hivebus.test")
    logger.addHandler(messages)
    logger.info("Nothing to see.")
    for number in range(3):
        logger.warning("The disk is %d %% full.", 80 + number)
    try:
        raise ValueError("secret")
    except ValueError:
        logger.exception("It failed.")
    taken = messages.take()
    assert [(n.method, n.params["level"], n.params["logger"], n.params["message"]) for n in taken] == [
        ("log/message", "warning", "hivebus.test", "The disk is 82 % full."),
        ("log/message", "error", "hivebus.test", "It failed."),
    ]
    assert taken[0].params["timestamp"].endswith("Z")
    assert (messages.take(), messages.dropped) == ([], 2)


MEASURED = {"active_agents": 2, "queued_tasks": 3, "live_tasks": 9, "cpu_usage": 12.5, "memory_usage": 40.0}


async def test_metrics_are_measured_and_the_last_hour_is_counted(tmp_path: Path) -> None:
    made = history()
    made.commit("task", "x", t.TaskCompleted(fence=4, agent_id="a", started_ms=0, result={}))
    clock = ManualClock(made.now_ms)
    async with projected(tmp_path, VIEWS, made) as views:
        told_now = (await Metrics(status(MEASURED), views, clock).measure()).params
        clock.advance(3_601)
        told_later = (await Metrics(status(MEASURED), views, clock).measure()).params
    assert told_now == {
        "timestamp": "2026-11-22T00:00:00.000Z",
        "cpu_usage": 12.5,
        "memory_usage": 40.0,
        "active_agents": 2,
        "queued_tasks": 3,
        "completed_tasks_last_hour": 1,
        "unknown": {},
    }
    assert told_later["completed_tasks_last_hour"] == 0


async def test_a_figure_that_cannot_be_measured_is_null_with_the_reason() -> None:
    away = "The database does not answer."
    known = MEASURED | {"active_agents": None, "queued_tasks": None}
    unknown = {"services.agents": away, "metrics.active_agents": away, "metrics.queued_tasks": away}
    told_now = (await Metrics(status(known, unknown), _NoViews(away), ManualClock()).measure()).params
    figures = ("active_agents", "queued_tasks", "completed_tasks_last_hour")
    assert {name: told_now[name] for name in figures} == dict.fromkeys(figures)
    assert told_now["unknown"] == dict.fromkeys(figures, away)


def status(metrics: dict[str, Any], unknown: dict[str, str] | None = None) -> Callable[[], Awaitable[dict[str, Any]]]:
    async def measured() -> dict[str, Any]:
        return {"now": "2026-11-22T00:00:00.000Z", "metrics": metrics, "unknown": unknown or {}}

    return measured


class _NoViews:
    """The database is away."""

    parked = 0

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def reader(self, *, at: int | None, now_ms: int) -> Any:
        raise Unavailable(self._reason)
