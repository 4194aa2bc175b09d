"""Schedules: what may be set, when runs are due, and that each is submitted once, whatever is lost."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given as sampled
from hypothesis import settings

from adapters.memory.log import MemoryLog
from adapters.memory.store import MemoryStore
from core.kernel.command_bus import Caller, CommandBus
from core.kernel.errors import Refused, Unprocessable
from core.kernel.times import rfc3339
from core.schedule import (
    FireSchedule,
    PauseSchedule,
    RemoveSchedule,
    ResumeSchedule,
    RunsSkipped,
    ScheduleFired,
    SchedulePaused,
    ScheduleRemoved,
    ScheduleResumed,
    ScheduleSet,
    SetSchedule,
    SkipRuns,
    schedule_id,
)
from core.scheduling.fleet import Fleet
from core.scheduling.overlay import Overlay
from core.scheduling.policy import Decision, decide, next_due_ms
from core.scheduling.schedules import LATE_MS, MADE_UP_FOR_MAX
from core.services.decisions import carry_out
from core.task import RunScheduled, TaskCompleted, TaskSubmitted, run_id
from tests.given import CODEC, NOW_MS, REGISTRY, STEPS, ManualClock, Simulation, assigned, given, submit, submitted
from tests.scene import Scene

TASK = {"type": "greet", "agent_type": "shell", "parameters": {"argv": ["true"]}}
ID = schedule_id("s")
MINUTE_MS = 60_000


def spec(**changed: Any) -> ScheduleSet:
    fields: dict[str, Any] = {"name": "s", "task": TASK, "timezone": "UTC", "missed": "run_once", "overlap": "skip"}
    return ScheduleSet(**(fields | ({} if "cron" in changed else {"every_s": 60}) | changed))


def sets(**changed: Any) -> SetSchedule:
    fields: dict[str, Any] = {"name": "s", "task": submit()}
    return SetSchedule(**(fields | ({} if "cron" in changed else {"every_s": 60}) | changed))


GOLDEN = [
    (
        spec(cron="@daily", until_ms=5),
        'schedule.set/1 {"name":"s","task":{"type":"greet","agent_type":"shell","parameters":{"argv":["true"]}},'
        '"timezone":"UTC","missed":"run_once","overlap":"skip","cron":"@daily","until_ms":5}',
    ),
    (
        spec(after_ms=6),
        'schedule.set/1 {"name":"s","task":{"type":"greet","agent_type":"shell","parameters":{"argv":["true"]}},'
        '"timezone":"UTC","missed":"run_once","overlap":"skip","every_s":60,"after_ms":6}',
    ),
    (SchedulePaused(reason="x"), 'schedule.paused/1 {"reason":"x"}'),
    (ScheduleResumed(), "schedule.resumed/1 {}"),
    (ScheduleRemoved(), "schedule.removed/1 {}"),
    (ScheduleFired(due_ms=7, task_id="t"), 'schedule.fired/1 {"due_ms":7,"task_id":"t"}'),
    (RunsSkipped(due_ms=7, reason="missed"), 'schedule.skipped/1 {"due_ms":7,"reason":"missed"}'),
]


# What may be set


def test_a_schedule_keeps_what_its_task_says_and_nothing_else() -> None:
    state = given().when(sets()).then(spec())
    assert (state.status, state.cursor_ms) == ("active", NOW_MS)
    given(spec()).when(sets()).then()
    given(spec()).when(sets(every_s=61)).then(spec(every_s=61))


@pytest.mark.parametrize(
    ("changed", "code", "pointer"),
    [
        ({"cron": "0 0 30 2 *"}, "never_fires", "/cron"),
        ({"cron": "0 0 * * *", "until": rfc3339(NOW_MS)}, "never_fires", "/until"),
        ({"cron": "0 0 * *"}, "invalid_cron", "/cron"),
        ({"cron": "0 25 * * *"}, "invalid_cron", "/cron"),
        ({"timezone": "Mars/Olympus"}, "unknown_timezone", "/timezone"),
        ({"cron": None}, "cron_or_every", "/cron"),
        ({"cron": "@daily", "every_s": 5}, "cron_or_every", "/cron"),
        ({"missed": "run_all"}, "run_all_overlaps", "/missed"),
        ({"task": submit(deadline="2090-01-01T00:00:00Z")}, "not_for_schedules", "/task/deadline"),
        ({"task": submit(agent_type=None)}, "executor_required", "/task/executor"),
        ({"task": submit(parameters={"argv": []})}, "invalid_field", "/task/parameters/argv"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_could_never_run_is_refused_each_with_its_own_error(
    changed: dict[str, Any], code: str, pointer: str
) -> None:
    given().when(sets(**changed)).then_raises(Unprocessable, code=code, pointer=pointer)


def test_a_schedule_is_paused_resumed_and_removed_once_each() -> None:
    given(spec()).when(PauseSchedule(name="s", reason="x")).then(SchedulePaused(reason="x"))
    paused = given(spec(), SchedulePaused())
    paused.when(PauseSchedule(name="s")).then()
    assert paused.when(ResumeSchedule(name="s"), now_ms=NOW_MS).then(ScheduleResumed()).status == "active"
    assert paused.when(sets(every_s=9)).then(spec(every_s=9)).status == "paused"
    given(spec()).when(ResumeSchedule(name="s")).then()
    given(spec()).when(RemoveSchedule(name="s")).then(ScheduleRemoved())
    removed = given(spec(), ScheduleRemoved())
    removed.when(RemoveSchedule(name="s")).then()
    removed.when(PauseSchedule(name="s")).then_raises(Refused, code="schedule_removed")
    assert removed.when(sets()).then(spec()).status == "active"


def test_one_that_was_removed_and_is_set_again_after_the_clock_went_back_goes_on_behind_what_it_ran() -> None:
    removed = given(spec(), ScheduleRemoved())
    again = removed.when(sets(), now_ms=NOW_MS - 20_000)
    state = again.then(spec(after_ms=NOW_MS))
    assert state.cursor_ms == NOW_MS
    given(spec(after_ms=NOW_MS)).when(sets()).then()
    # The scheduler, which forgets what was removed, decides as the aggregate does.
    steps = [("schedule", 5), ("rearrange", 5), ("back", 2), ("schedule", 7), ("clock", 6), ("rest", 6)]
    simulation = Simulation.after(steps)
    entry = simulation.fleet.schedules.entries[schedule_id("s1")]
    assert entry.state == simulation.history.states["schedule", entry.id]


def test_a_time_is_dealt_with_once() -> None:
    fired = given(spec(), ScheduleFired(due_ms=NOW_MS + 60_000, task_id="t"))
    fired.when(FireSchedule(schedule_id=ID, due_ms=NOW_MS + 60_000, task_id="t")).then()
    fired.when(SkipRuns(schedule_id=ID, due_ms=NOW_MS + 59_999, reason="missed")).then()


# When runs are due


class Times(Scene):
    """A scene with the schedule `s`."""

    def __init__(self, **changed: Any) -> None:
        super().__init__()
        self.has("schedule", ID, spec(**changed))

    def steps(self, at_ms: int) -> list[Any]:
        """The commands that are decided so many milliseconds after the schedule was set."""
        return [decision.command for decision in self.decides(now_ms=NOW_MS + at_ms)]

    def ran(self, due_ms: int, task: str) -> Times:
        """The run of a time is on the log."""
        self.has("task", task, submitted(timeout_s=3600, schedule_id=ID, due_ms=NOW_MS + due_ms))
        return self

    def fired(self, due_ms: int, task: str) -> Times:
        """And the schedule knows."""
        self.ran(due_ms, task).has("schedule", ID, ScheduleFired(due_ms=NOW_MS + due_ms, task_id=task))
        return self


def run(due_ms: int) -> RunScheduled:
    return RunScheduled(schedule_id=ID, due_ms=NOW_MS + due_ms, task=TASK)


def skips(due_ms: int, reason: Any = "missed") -> SkipRuns:
    return SkipRuns(schedule_id=ID, due_ms=NOW_MS + due_ms, reason=reason)


def test_a_run_is_submitted_at_its_time_under_the_id_of_schedule_and_time_for_its_owner() -> None:
    times = Times()
    assert times.steps(MINUTE_MS - 1) == []
    assert next_due_ms(times.fleet) == NOW_MS + MINUTE_MS
    (decision,) = times.decides(now_ms=NOW_MS + MINUTE_MS)
    assert (decision.key, decision.command, decision.cause) == (ID, run(MINUTE_MS), 1)
    assert (decision.command_id, decision.on_behalf_of) == (run_id(ID, NOW_MS + MINUTE_MS), "ada")


def test_a_run_on_the_log_is_marked_and_only_then_comes_the_next() -> None:
    times = Times(overlap="allow").ran(MINUTE_MS, "t")
    mark = FireSchedule(schedule_id=ID, due_ms=NOW_MS + MINUTE_MS, task_id="t")
    assert times.steps(3 * MINUTE_MS) == [mark]
    times.has("schedule", ID, ScheduleFired(due_ms=NOW_MS + MINUTE_MS, task_id="t"))
    assert times.steps(2 * MINUTE_MS) == [run(2 * MINUTE_MS)]


def test_a_run_is_skipped_while_the_last_one_has_not_ended() -> None:
    times = Times().host().agent()
    assert isinstance(times, Times)
    times.fired(MINUTE_MS, "t").has("task", "t", assigned())
    fence = times.history.head
    assert times.steps(2 * MINUTE_MS) == [skips(2 * MINUTE_MS, "overlap")]
    times.has("schedule", ID, RunsSkipped(due_ms=NOW_MS + 2 * MINUTE_MS, reason="overlap"))
    times.has("task", "t", TaskCompleted(fence=fence, agent_id="a", started_ms=NOW_MS, result={}))
    assert times.steps(3 * MINUTE_MS) == [run(3 * MINUTE_MS)]


def test_runs_that_were_missed_are_left_out_made_up_for_once_or_all() -> None:
    down_ms = 10 * MINUTE_MS + LATE_MS // 2
    once = Times()
    assert once.steps(down_ms) == [skips(9 * MINUTE_MS)]
    once.has("schedule", ID, RunsSkipped(due_ms=NOW_MS + 9 * MINUTE_MS, reason="missed"))
    assert once.steps(down_ms) == [run(10 * MINUTE_MS)]
    assert Times(missed="run_all", overlap="allow").steps(down_ms) == [run(MINUTE_MS)]
    beyond = MADE_UP_FOR_MAX + 5
    assert Times(missed="run_all", overlap="allow").steps(beyond * MINUTE_MS) == [skips(5 * MINUTE_MS)]
    hourly: dict[str, Any] = {"every_s": 3600, "missed": "skip"}
    assert Times(**hourly).steps(3_600_000 + LATE_MS + 1) == [skips(3_600_000)]
    assert Times(**hourly).steps(3_600_000 + LATE_MS) == [run(3_600_000)]


def test_what_passed_while_it_was_paused_is_not_made_up_for() -> None:
    times = Times().has("schedule", ID, SchedulePaused())
    assert isinstance(times, Times)
    assert (times.steps(5 * MINUTE_MS), next_due_ms(times.fleet)) == ([], None)
    times.has("schedule", ID, ScheduleResumed(), after_ms=5 * MINUTE_MS)
    assert times.steps(5 * MINUTE_MS) == []
    assert times.steps(6 * MINUTE_MS) == [run(6 * MINUTE_MS)]


def test_after_its_end_or_its_removal_nothing_is_due() -> None:
    over = Times(until_ms=NOW_MS + MINUTE_MS).fired(MINUTE_MS, "t")
    assert (over.steps(9 * MINUTE_MS), over.fleet.schedules.due) == ([], [])
    gone = Times().has("schedule", ID, ScheduleRemoved())
    assert gone.decides(now_ms=NOW_MS + MINUTE_MS) == []


def test_a_cron_of_a_time_zone_fires_on_its_wall_clock() -> None:
    times = Times(cron="30 6 * * *", timezone="Europe/Berlin")
    (entry,) = times.decides(limit=0) or times.fleet.schedules.entries.values()
    assert entry.next_ms == int(datetime.fromisoformat("2027-01-16T06:30:00+01:00").timestamp()) * 1000


def test_while_as_many_tasks_live_as_may_a_run_is_skipped_and_says_so() -> None:
    times = Times()
    now_ms = NOW_MS + MINUTE_MS

    def commands(tasks_max: int) -> list[Any]:
        fleet = Fleet()
        for commit in times.history.commits:
            fleet.fold(commit)
        return [d.command for d in decide(fleet, Overlay(), now_ms, limit=9, tasks_max=tasks_max)]

    assert commands(0) == [SkipRuns(schedule_id=ID, due_ms=now_ms, reason="too_many")]
    assert commands(1) == [run(MINUTE_MS)]


async def test_a_run_that_was_submitted_and_never_marked_is_marked_by_the_attempt_to_submit_it_again() -> None:
    # A trim may have taken its task from the log before any fold saw it; what was told once is known by its id.
    bus = CommandBus(MemoryLog(), REGISTRY, CODEC, ManualClock(), MemoryStore())
    await bus.execute(sets(), Caller(actor="ada"))
    decision = Decision(key=ID, command=run(60_000), command_id=run_id(ID, NOW_MS + 60_000))
    first = await carry_out(bus, decision)
    assert (await bus.load("schedule", ID)).cursor_ms == NOW_MS
    again = await carry_out(bus, decision)
    assert first is not None
    assert again is not None
    assert again.events == [ScheduleFired(due_ms=NOW_MS + 60_000, task_id=first.aggregate_id)]
    assert (await bus.load("schedule", ID)).cursor_ms == NOW_MS + 60_000


# Laws


@settings(max_examples=100)
@sampled(STEPS)
def test_each_time_is_dealt_with_once_and_every_run_belongs_to_one(steps: list[tuple[str, int]]) -> None:
    simulation = Simulation.after(steps)
    simulation.end_well()
    runs = Counter(
        (event.schedule_id, event.due_ms)
        for commit in simulation.history.commits
        for event in commit.events
        if isinstance(event, TaskSubmitted) and event.schedule_id
    )
    marks = Counter(
        (commit.aggregate_id, event.due_ms)
        for commit in simulation.history.commits
        for event in commit.events
        if isinstance(event, ScheduleFired)
    )
    assert all(count == 1 for count in (*runs.values(), *marks.values()))
    assert marks.keys() <= runs.keys()
    dues: dict[str, int] = {}
    for commit in simulation.history.commits:
        for event in commit.events:
            if isinstance(event, ScheduleFired | RunsSkipped):
                assert event.due_ms > dues.get(commit.aggregate_id, 0)
                dues[commit.aggregate_id] = event.due_ms


def test_a_second_leader_decides_the_same_run() -> None:
    times = Times()
    first = times.decides(now_ms=NOW_MS + MINUTE_MS)
    other = Fleet()
    for commit in times.history.commits:
        other.fold(commit)
    assert decide(other, Overlay(), NOW_MS + MINUTE_MS + 5_000, limit=9) == first
