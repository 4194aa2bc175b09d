from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.kernel.commit import Event
from core.kernel.errors import NotFound, Unprocessable
from core.kernel.outcomes import CommandUnchanged
from core.kernel.times import rfc3339
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
from projections import task_queries as q
from projections import tasks as t
from projections.catalogue import VIEWS
from tests.given import CORRELATION, NOW_MS, History, ask, assigned, projected, registered, row_of, spawned, submitted

pytestmark = pytest.mark.usefixtures("each_database")

SUBMITTED: dict[str, Any] = {
    "id": "t",
    "created": 1,
    "status": "queued",
    "type": "greet",
    "priority": 5,
    "correlation_id": CORRELATION,
    "created_ms": NOW_MS,
    "updated_ms": NOW_MS,
    "agent_id": None,
    "attempt": 0,
    "progress": None,
    "current_step": None,
    "assigned_ms": None,
    "started_ms": None,
    "completed_ms": None,
    "not_before_ms": None,
    "cancelling": False,
    "error": None,
    "outcome": None,
    "result": None,
    "attempts": [],
    "routing": None,
}
ASSIGNED = SUBMITTED | {
    "status": "assigned",
    "updated_ms": NOW_MS + 10,
    "agent_id": "a",
    "attempt": 1,
    "assigned_ms": NOW_MS + 10,
}


def lived(*commits: tuple[Event, ...]) -> History:
    """Given task `t`, submitted and queued; then one commit every ten milliseconds."""
    history = History()
    history.commit("task", "t", submitted(), TaskQueued())
    for events in commits:
        history.now_ms += 10
        history.commit("task", "t", *events)
    return history


def row(*commits: tuple[Event, ...]) -> dict[str, Any] | None:
    return row_of(t.Tasks(), lived(*commits), "t")


def attempt(number: int, ended_ms: int, outcome: str, error: str | None, started_ms: int | None) -> dict[str, Any]:
    return {
        "attempt": number,
        "agent_id": "a",
        "started_at": rfc3339(started_ms),
        "ended_at": rfc3339(ended_ms),
        "outcome": outcome,
        "error": error,
    }


def ended(outcome: Any = "failed", started_ms: int | None = None, result: dict[str, Any] | None = None) -> AttemptEnded:
    return AttemptEnded(fence=2, agent_id="a", outcome=outcome, error="it broke", started_ms=started_ms, result=result)


# The row


def test_a_submitted_task_waits() -> None:
    assert row() == SUBMITTED


def test_an_assigned_task_names_its_agent_and_attempt() -> None:
    assert row((assigned(),)) == ASSIGNED


def test_a_running_task_tells_its_start_and_its_latest_progress() -> None:
    started = TaskStarted(fence=2, agent_id="a", started_ms=NOW_MS + 15)
    running = ASSIGNED | {"status": "running", "updated_ms": NOW_MS + 20, "started_ms": NOW_MS + 15}
    assert row((assigned(),), (started,)) == running
    progressed = TaskProgressed(fence=2, progress=0.5, current_step="boil")
    step = {"updated_ms": NOW_MS + 30, "progress": 0.5, "current_step": "boil"}
    assert row((assigned(),), (started,), (progressed,)) == running | step


def test_a_completed_task_has_its_result_and_its_attempt() -> None:
    completed = TaskCompleted(fence=2, agent_id="a", started_ms=NOW_MS + 12, result={"exit_code": 0})
    assert row((assigned(),), (completed,)) == ASSIGNED | {
        "status": "completed",
        "updated_ms": NOW_MS + 20,
        "progress": 1.0,
        "outcome": "completed",
        "result": {"exit_code": 0},
        "started_ms": NOW_MS + 12,
        "completed_ms": NOW_MS + 20,
        "attempts": [attempt(1, NOW_MS + 20, "completed", None, NOW_MS + 12)],
    }


SCHEDULED = ASSIGNED | {
    "status": "scheduled",
    "updated_ms": NOW_MS + 20,
    "agent_id": None,
    "not_before_ms": NOW_MS + 99,
    "error": "it broke",
    "outcome": "failed",
    "result": {"exit_code": 1},
    "started_ms": NOW_MS + 11,
    "attempts": [attempt(1, NOW_MS + 20, "failed", "it broke", NOW_MS + 11)],
}


def test_a_task_in_back_off_tells_why_and_until_when() -> None:
    events = (ended(started_ms=NOW_MS + 11, result={"exit_code": 1}), TaskScheduled(not_before_ms=NOW_MS + 99))
    assert row((assigned(),), events) == SCHEDULED
    assert row((assigned(),), events, (TaskQueued(),)) == SCHEDULED | {
        "status": "queued",
        "updated_ms": NOW_MS + 30,
        "not_before_ms": None,
    }


def test_another_attempt_begins_without_what_the_last_one_left() -> None:
    events = (ended(started_ms=NOW_MS + 11, result={"exit_code": 1}), TaskQueued())
    again = row((assigned(),), events, (assigned(attempt=2),))
    assert again == SCHEDULED | {
        "status": "assigned",
        "updated_ms": NOW_MS + 30,
        "agent_id": "a",
        "attempt": 2,
        "assigned_ms": NOW_MS + 30,
        "not_before_ms": None,
        "started_ms": None,
        "result": None,
        "outcome": None,
    }


def test_an_attempt_that_was_lost_before_it_started_has_no_start() -> None:
    lost = (ended("crashed"), TaskQueued())
    found = row((assigned(),), (ended(started_ms=NOW_MS + 11), TaskQueued()), (assigned(attempt=2),), lost)
    assert found is not None
    assert found["attempts"] == [
        attempt(1, NOW_MS + 20, "failed", "it broke", NOW_MS + 11),
        attempt(2, NOW_MS + 40, "crashed", "it broke", None),
    ]


def test_a_failed_task_keeps_its_error_and_names_its_last_agent() -> None:
    found = row((assigned(),), (ended("timed_out"), TaskFailed(error="no more", outcome="timed_out")))
    assert found == ASSIGNED | {
        "status": "failed",
        "updated_ms": NOW_MS + 20,
        "error": "no more",
        "outcome": "timed_out",
        "completed_ms": NOW_MS + 20,
        "attempts": [attempt(1, NOW_MS + 20, "timed_out", "it broke", None)],
    }


def test_a_cancelled_task_ends_at_once_or_after_its_attempt() -> None:
    gone = {"status": "cancelled", "outcome": "cancelled"}
    assert row((TaskCancelled(),)) == SUBMITTED | gone | {"updated_ms": NOW_MS + 10, "completed_ms": NOW_MS + 10}
    asked = row((assigned(),), (CancelRequested(grace_s=5.0),))
    assert asked == ASSIGNED | {"updated_ms": NOW_MS + 20, "cancelling": True}
    stopped = row((assigned(),), (CancelRequested(grace_s=5.0),), (ended("cancelled"), TaskCancelled()))
    assert stopped == ASSIGNED | gone | {
        "cancelling": True,
        "error": "it broke",
        "updated_ms": NOW_MS + 30,
        "completed_ms": NOW_MS + 30,
        "attempts": [attempt(1, NOW_MS + 30, "cancelled", "it broke", None)],
    }


def test_a_command_that_changed_nothing_changes_no_row() -> None:
    assert row((assigned(),), (CommandUnchanged(),)) == ASSIGNED


def test_what_was_asked_for_is_kept_beside_the_life() -> None:
    history = History()
    wishes = submitted(
        requires=["gpu"], agent_id="a", name="first", labels={"x": "y"}, retry=Retry(max_attempts=1), timeout_s=3.0
    )
    history.commit("task", "t", wishes, TaskQueued(), actor="grace")
    assert row_of(t.TaskSpecs(), history, "t") == {
        "id": "t",
        "executor": "command",
        "parameters": {"argv": ["true"]},
        "requires": ["gpu"],
        "agent_type": "shell",
        "pinned_agent": "a",
        "timeout_s": 3.0,
        "retry": {
            "max_attempts": 1,
            "max_crashes": 5,
            "initial_interval_ms": 1_000,
            "backoff_multiplier": 2.0,
            "max_interval_ms": 60_000,
            "non_retryable": [],
            "avoid_last_agent": False,
        },
        "project": "default",
        "name": "first",
        "labels": {"x": "y"},
        "actor": "grace",
        "deadline_ms": None,
        "queue_timeout_s": None,
        "total_timeout_s": None,
        "silence_timeout_s": None,
        "replay_of": None,
        "schedule_id": None,
        "fairness_key": None,
        "concurrency_key": None,
        "rate_key": None,
        "depends_on": None,
        "on_dependency_failure": None,
        "parent": None,
    }


# Questions


def a_day() -> History:
    """Given an agent, and tasks t0 to t4 in several states; the position of each commit is told beside it."""
    history = History()
    history.commit("host", "h", registered())  # 1
    history.commit("agent", "a", spawned())  # 2
    for number in range(5):
        history.now_ms += 1_000
        history.commit("task", f"t{number}", submitted(type="odd" if number % 2 else "even"), TaskQueued())  # 3-7
    history.commit("task", "t0", assigned())  # 8
    history.commit("task", "t1", assigned())  # 9
    history.now_ms += 500
    history.commit(
        "task", "t0", TaskCompleted(fence=8, agent_id="a", started_ms=history.now_ms - 100, result={"exit_code": 0})
    )  # 10
    history.commit(
        "task",
        "t2",
        assigned(),
    )  # 11
    history.commit(
        "task",
        "t2",
        AttemptEnded(fence=11, agent_id="a", outcome="timed_out", error="late"),
        TaskFailed(error="late", outcome="timed_out"),
    )  # 12
    history.commit("task", "t3", TaskCancelled())  # 13
    return history


async def ids(views: Any, at: int | None = None, **filters: Any) -> list[str]:
    answer = await ask(views, q.list_tasks, q.ListTasks(**filters), at)
    return [task["id"] for task in answer["tasks"]]


async def test_tasks_are_listed_newest_first_page_by_page(tmp_path: Path) -> None:
    async with projected(tmp_path, VIEWS, a_day()) as views:
        assert await ids(views) == ["t4", "t3", "t2", "t1", "t0"]
        page = await ask(views, q.list_tasks, q.ListTasks(limit=2, offset=1))
        assert [task["id"] for task in page["tasks"]] == ["t3", "t2"]
        assert page["pagination"] == {"total": 5, "limit": 2, "offset": 1, "has_more": True}
        assert page["position"] == 13
        last = await ask(views, q.list_tasks, q.ListTasks(limit=2, offset=4))
        assert last["pagination"] == {"total": 5, "limit": 2, "offset": 4, "has_more": False}


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"status": "completed"}, ["t0"]),
        ({"status": "assigned"}, ["t1"]),
        ({"status": "pending"}, ["t4"]),
        ({"status": "created"}, []),
        ({"status": "timeout"}, ["t2"]),
        ({"type": "odd"}, ["t3", "t1"]),
        ({"agent_id": "a"}, ["t2", "t1", "t0"]),
        ({"correlation_id": CORRELATION, "type": "even", "status": "failed"}, ["t2"]),
        ({"correlation_id": "other"}, []),
        ({"status": "completed,pending,failed"}, ["t4", "t2", "t0"]),
        ({"updated_since": rfc3339(NOW_MS + 5_500)}, ["t3", "t2", "t0"]),
        ({"updated_since": rfc3339(NOW_MS + 5_501)}, []),
        ({"order": "updated"}, ["t3", "t2", "t0", "t1", "t4"]),
        ({"order": "updated", "before": 12, "limit": 2}, ["t0", "t1"]),
    ],
    ids=str,
)
async def test_a_list_can_be_narrowed(tmp_path: Path, filters: dict[str, Any], found: list[str]) -> None:
    async with projected(tmp_path, VIEWS, a_day()) as views:
        assert await ids(views, **filters) == found


async def test_a_word_that_is_no_status_is_refused_and_not_answered_with_nothing(tmp_path: Path) -> None:
    async with projected(tmp_path, VIEWS, a_day()) as views:
        with pytest.raises(Unprocessable) as caught:
            await ids(views, status="done")
        assert caught.value.pointer == "/status"


async def test_pages_by_the_last_change_hold_each_task_once_whatever_happens_in_between(tmp_path: Path) -> None:
    async with projected(tmp_path, VIEWS, a_day()) as views:
        first = await ask(views, q.list_tasks, q.ListTasks(order="updated", limit=3), 11)
        assert [task["id"] for task in first["tasks"]] == ["t2", "t0", "t1"]
        assert first["pagination"]["has_more"]
        # t3 is cancelled at 13, t2 fails at 12: neither moves within the pages that began at 11.
        before = first["tasks"][-1]["updated"]
        last = await ask(views, q.list_tasks, q.ListTasks(order="updated", limit=3, before=before), 11)
        assert [task["id"] for task in last["tasks"]] == ["t4", "t3"]
        assert last["pagination"] == {"total": 5, "limit": 3, "offset": 0, "has_more": False}


@pytest.mark.parametrize(
    ("filters", "pointer"), [({"updated_since": "yesterday"}, "/updated_since"), ({"before": 5}, "/before")], ids=str
)
async def test_what_says_no_time_or_no_place_is_refused(tmp_path: Path, filters: dict[str, Any], pointer: str) -> None:
    async with projected(tmp_path, VIEWS, a_day()) as views:
        with pytest.raises(Unprocessable) as caught:
            await ids(views, **filters)
        assert caught.value.pointer == pointer


async def test_a_list_as_of_a_position_is_what_it_was_then(tmp_path: Path) -> None:
    async with projected(tmp_path, VIEWS, a_day()) as views:
        assert await ids(views, at=5) == ["t2", "t1", "t0"]
        assert await ids(views, at=9, status="assigned") == ["t1", "t0"]
        assert await ids(views, at=10, status="assigned") == ["t1"]
        then = await ask(views, q.list_tasks, q.ListTasks(status="completed"), 9)
        assert (then["tasks"], then["position"], then["pagination"]["total"]) == ([], 9, 0)


async def test_a_task_is_shown_with_all_that_is_known_about_it(tmp_path: Path) -> None:
    history = a_day()
    made_ms, end_ms = NOW_MS + 1_000, NOW_MS + 5_500
    async with projected(tmp_path, VIEWS, history) as views:
        shown = await ask(views, q.show_task, q.ShowTask(task_id="t0"))
    assert shown == {
        "id": "t0",
        "agent_id": "a",
        "type": "even",
        "status": "completed",
        "progress": 1.0,
        "current_step": None,
        "executor": "command",
        "name": None,
        "priority": 5,
        "project": "default",
        "labels": {},
        "requires": [],
        "agent_type": "shell",
        "parent": None,
        "depends_on": [],
        "on_dependency_failure": None,
        "blocked_by": [],
        "inputs": {},
        "approvals": [],
        "question": None,
        "choices": None,
        "answers": [],
        "children": 0,
        "attempt": 1,
        "cancelling": False,
        "outcome": "completed",
        "error": None,
        "exit_code": 0,
        "unassignable": None,
        "actor": "ada",
        "correlation_id": CORRELATION,
        "created_at": rfc3339(made_ms),
        "started_at": rfc3339(end_ms - 100),
        "completed_at": rfc3339(end_ms),
        "updated": 10,
        "updated_at": rfc3339(end_ms),
        "not_before": None,
        "estimated_completion": None,
        "unknown": {"estimated_completion": q.UNKNOWN_ESTIMATE},
        "parameters": {"argv": ["true"]},
        "result": {"exit_code": 0},
        "attempts": [attempt(1, end_ms, "completed", None, end_ms - 100)],
        "history": [
            {"position": 3, "time": rfc3339(made_ms), "type": "task.submitted", "actor": "ada"},
            {"position": 3, "time": rfc3339(made_ms), "type": "task.queued", "actor": "ada"},
            {"position": 8, "time": rfc3339(made_ms + 4_000), "type": "task.assigned", "actor": "ada"},
            {"position": 10, "time": rfc3339(end_ms), "type": "task.completed", "actor": "ada"},
        ],
        "retry": {
            "max_attempts": 3,
            "max_crashes": 5,
            "initial_interval_ms": 1_000,
            "backoff_multiplier": 2.0,
            "max_interval_ms": 60_000,
            "non_retryable": [],
            "avoid_last_agent": False,
        },
        "timeout_s": 60.0,
        "deadline": None,
        "queue_timeout_s": None,
        "total_timeout_s": None,
        "silence_timeout_s": None,
        "paused": None,
        "replay_of": None,
        "replayed_by": [],
        "schedule_id": None,
        "position": 13,
    }


async def test_a_task_as_of_a_position_knows_nothing_of_its_future(tmp_path: Path) -> None:
    async with projected(tmp_path, VIEWS, a_day()) as views:
        shown = await ask(views, q.show_task, q.ShowTask(task_id="t0"), 8)
        assert (shown["status"], shown["result"], shown["attempts"], shown["position"]) == ("assigned", None, [], 8)
        assert [event["type"] for event in shown["history"]] == ["task.submitted", "task.queued", "task.assigned"]
        with pytest.raises(NotFound):
            await ask(views, q.show_task, q.ShowTask(task_id="t0"), 2)
        with pytest.raises(NotFound) as caught:
            await ask(views, q.show_task, q.ShowTask(task_id="nobody"))
        assert caught.value.code == "unknown_task"


async def test_a_waiting_task_that_nobody_can_do_says_why_and_only_while_it_is_so(tmp_path: Path) -> None:
    history = History()
    history.commit("task", "t", submitted(), TaskQueued())
    history.commit("agent", "a", spawned())
    async with projected(tmp_path, VIEWS, history) as views:
        before = await ask(views, q.show_task, q.ShowTask(task_id="t"), 1)
        after = await ask(views, q.show_task, q.ShowTask(task_id="t"), 2)
    assert (before["unassignable"], after["unassignable"]) == ("there is no agent of type shell", None)


async def test_assignments_tell_who_works_on_what(tmp_path: Path) -> None:
    async with projected(tmp_path, VIEWS, a_day()) as views:
        now = await ask(views, q.list_assignments, q.ListAssignments())
        then = await ask(views, q.list_assignments, q.ListAssignments(), 9)
    assert [(item["task_id"], item["agent_id"], item["since"]) for item in now["assignments"]] == [
        ("t1", "a", rfc3339(NOW_MS + 5_000))
    ]
    assert [item["task_id"] for item in then["assignments"]] == ["t0", "t1"]
