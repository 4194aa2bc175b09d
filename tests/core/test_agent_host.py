from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from core.execution import Attempt, Outcome, Progress, Usage
from core.host import LeaveHost, RegisterHost
from core.kernel.errors import NotFound, Refused, Unavailable
from core.services.agent_host import PROGRESS_EVERY_S, STARTED_AFTER_S, AgentHost
from core.services.link import Beat, BeatAnswer, Cancel, Run
from core.task import CompleteTask, FailTask, ProgressTask, StartTask
from tests.given import NOW_MS, Going, HandExecutor, ManualClock, quiet, running, until

BEAT_S = 5.0
SELF_STOP_S = 15.0
ACCEPTED = 1


class Control:
    """The bus and the scheduler as a host sees them: it keeps what it hears and answers what it is told to."""

    def __init__(self) -> None:
        self.said: list[Struct] = []
        self.calls: list[tuple[str, int, str | None]] = []
        self.beats: list[Beat] = []
        self.answers: list[BeatAnswer] = []
        self.errors: list[Exception] = []
        self.silent = False

    async def execute(
        self, command: Struct, *, correlation_id: str, cause: int = 0, command_id: str | None = None
    ) -> int:
        self.said.append(command)
        self.calls.append((correlation_id, cause, command_id))
        if self.errors and not isinstance(command, RegisterHost):
            raise self.errors.pop(0)
        return ACCEPTED

    async def beat(self, beat: Beat) -> BeatAnswer:
        if self.silent:
            raise Unavailable("Nobody schedules.")
        self.beats.append(beat)
        return self.answers.pop(0) if self.answers else BeatAnswer(alive=True, term=1)

    def verdicts(self) -> list[Struct]:
        """What was said about tasks and at the end."""
        return [command for command in self.said if not isinstance(command, RegisterHost)]

    def reports(self) -> list[Struct]:
        """How attempts ended."""
        return [command for command in self.said if isinstance(command, CompleteTask | FailTask)]


class World:
    """A host that lives, between a control and an executor of the test."""

    def __init__(self, slots: int = 4) -> None:
        self.control = Control()
        self.hand = HandExecutor()
        self.clock = ManualClock()
        executors = {"python": HandExecutor("python"), "command": self.hand}
        self.host = AgentHost(
            "h", "box", executors, self.control, self.clock, slots=slots, beat_s=BEAT_S, self_stop_s=SELF_STOP_S
        )

    def order(self, task_id: str = "t", **changed: Any) -> Run:
        fields: dict[str, Any] = {
            "task_id": task_id,
            "fence": 7,
            "term": 1,
            "session": self.host.session,
            "agent_id": "a",
            "attempt": 1,
            "type": "greet",
            "executor": "command",
            "parameters": {"argv": ["true"]},
            "timeout_s": 60.0,
            "correlation_id": "c",
        }
        return Run(**(fields | changed))

    async def begun(self, task_id: str = "t", **changed: Any) -> Going:
        """Given an attempt that has begun."""
        before = len(self.hand.going)
        self.host.run_attempt(self.order(task_id, **changed))
        await until(lambda: len(self.hand.going) == before + 1, "the attempt")
        return self.hand.going[-1]

    async def beaten(self, answer: BeatAnswer | None = None) -> Beat:
        """Let the host beat once, and obey this answer."""
        if answer is not None:
            self.control.answers.append(answer)
        before = len(self.control.beats)
        self.clock.advance(BEAT_S)
        await until(lambda: len(self.control.beats) > before, "a beat")
        await quiet()
        return self.control.beats[before]

    async def told(self, count: int = 1) -> list[Struct]:
        """The first verdicts."""
        await until(lambda: len(self.control.verdicts()) >= count, "the verdict")
        return self.control.verdicts()


@asynccontextmanager
async def living(slots: int = 4) -> AsyncIterator[World]:
    world = World(slots)
    async with running(world.host.live()):
        await until(lambda: bool(world.control.beats), "the first beat")
        yield world


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with living() as world:
        yield world


def beat_of(session: str, *held: tuple[str, int]) -> Beat:
    return Beat(host_id="h", session=session, registered_at=ACCEPTED, running=held)


def failed(outcome: Any, error: str, **more: Any) -> FailTask:
    return FailTask(task_id="t", fence=7, outcome=outcome, error=error, **({"started_ms": NOW_MS} | more))


# A session


async def test_a_host_registers_and_then_beats_with_what_it_runs(world: World) -> None:
    session = world.host.session
    assert world.control.said == [
        RegisterHost(host_id="h", name="box", session=session, executors=["command", "python"], slots=4)
    ]
    assert world.control.beats == [beat_of(session)]
    await world.begun("t", fence=7)
    await world.begun("u", fence=9)
    assert await world.beaten() == beat_of(session, ("t", 7), ("u", 9))


async def test_between_two_beats_a_host_waits(world: World) -> None:
    world.clock.advance(BEAT_S - 0.001)
    await quiet()
    assert len(world.control.beats) == 1


async def test_a_session_that_is_over_ends_what_runs_without_a_word_and_another_begins(world: World) -> None:
    first = world.host.session
    going = await world.begun()
    world.control.answers.append(BeatAnswer(alive=False, term=1, void=(("t", 7),)))
    await world.beaten()
    world.clock.advance(0.2)
    await until(lambda: world.host.session not in ("", first), "another session")
    assert (going.token.reason, going.token.grace_s, world.host.running) == ("void", 0.0, 0)
    await until(lambda: len(world.control.beats) == 3, "the next beat")
    assert world.control.beats[2] == beat_of(world.host.session)
    assert world.control.reports() == []


async def test_an_unanswered_host_ends_its_attempts_before_its_lease_can_run_out(world: World) -> None:
    going = await world.begun()
    await world.beaten()
    world.control.silent = True
    for _ in range(2):
        world.clock.advance(BEAT_S)
        await quiet()
    world.clock.advance(BEAT_S - 0.001)
    await quiet()
    assert not going.token.cancelled.is_set()
    world.clock.advance(0.201)
    await until(going.token.cancelled.is_set, "the end of the attempt")
    assert (going.token.reason, world.host.running) == ("void", 0)
    world.control.silent = False
    world.clock.advance(0.2)
    await until(lambda: len([said for said in world.control.said if isinstance(said, RegisterHost)]) == 2, "a session")
    assert world.control.reports() == []


async def test_a_fence_is_never_run_twice(world: World) -> None:
    going = await world.begun()
    order = world.order()
    going.end(Outcome(outcome="completed"))
    await until(lambda: world.host.running == 0, "the end")
    await world.beaten(BeatAnswer(alive=True, term=1, run=(order,)))
    assert len(world.hand.going) == 1


async def test_the_answer_of_a_scheduler_that_was_deposed_is_no_answer(world: World) -> None:
    going = await world.begun(term=5)
    world.control.answers = [BeatAnswer(alive=True, term=4)] * 100
    for _ in range(4):
        world.clock.advance(BEAT_S)
        await quiet()
    assert going.token.cancelled.is_set(), "nobody renewed its lease"
    assert world.control.reports() == []


async def test_a_host_stops_by_itself_before_the_schedulers_lease_whatever_its_own_setting_says(world: World) -> None:
    going = await world.begun()
    await world.beaten(BeatAnswer(alive=True, term=1, lease_s=8.0))
    world.control.silent = True
    world.clock.advance(BEAT_S)
    await quiet()
    assert not going.token.cancelled.is_set()
    world.clock.advance(1.3)
    await until(going.token.cancelled.is_set, "the end of the attempt")


async def test_a_nudged_host_beats_at_once_and_then_as_before(world: World) -> None:
    world.host.nudge()
    await until(lambda: len(world.control.beats) == 2, "the beat")
    await quiet()
    await world.beaten()
    assert len(world.control.beats) == 3


async def test_the_sessions_of_one_life_are_numbered(world: World) -> None:
    assert world.host.session == f"{world.host.life}.1"
    await world.beaten(BeatAnswer(alive=False, term=1))
    world.clock.advance(0.2)
    await until(lambda: world.host.session == f"{world.host.life}.2", "another session")


async def test_an_unanswered_host_without_attempts_keeps_its_session(world: World) -> None:
    session = world.host.session
    world.control.silent = True
    for _ in range(10):
        world.clock.advance(BEAT_S)
        await quiet()
    world.control.silent = False
    assert (await world.beaten()).session == session


# An attempt


async def test_an_executor_gets_the_whole_attempt_and_its_result_is_reported_with_the_fence(world: World) -> None:
    going = await world.begun(attempt=2, timeout_s=3.0, parameters={"argv": ["x"]})
    assert going.attempt == Attempt(
        task_id="t",
        agent_id="a",
        attempt=2,
        executor="command",
        type="greet",
        parameters={"argv": ["x"]},
        timeout_s=3.0,
        fence=7,
    )
    world.clock.advance(0.1)
    going.end(Outcome(outcome="completed", result={"exit_code": 0}))
    assert await world.told() == [CompleteTask(task_id="t", fence=7, started_ms=NOW_MS, result={"exit_code": 0})]
    assert world.control.calls[-1][0] == "c"
    await until(lambda: world.host.running == 0, "the end")


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (
            Outcome(outcome="failed", error="exit 1", result={"exit_code": 1}),
            failed("failed", "exit 1", result={"exit_code": 1}),
        ),
        (Outcome(outcome="timed_out", error="late"), failed("timed_out", "late")),
        (Outcome(outcome="output_limit", error="much"), failed("output_limit", "much")),
        (Outcome(outcome="crashed"), failed("crashed", "The attempt was crashed.")),
        (
            Outcome(outcome="failed", error="no", retryable=False, retry_after_ms=9),
            failed("failed", "no", retryable=False, retry_after_ms=9),
        ),
        (ValueError("broken"), failed("crashed", "The executor failed: ValueError: broken")),
    ],
    ids=["failed", "timed out", "output limit", "crashed", "not retryable", "a broken promise"],
)
async def test_an_end_without_completion_is_reported_as_it_was(
    world: World, outcome: Outcome | Exception, verdict: FailTask
) -> None:
    (await world.begun()).end(outcome)
    assert await world.told() == [verdict]


async def test_a_host_without_the_executor_says_so_and_asks_for_no_other_attempt(world: World) -> None:
    world.host.run_attempt(world.order(executor="brush"))
    assert await world.told() == [failed("failed", "This host has no executor brush.", retryable=False)]


async def test_only_an_attempt_that_still_runs_after_a_quarter_of_a_second_says_that_it_started(world: World) -> None:
    short = await world.begun("short", fence=7)
    await quiet()
    world.clock.advance(STARTED_AFTER_S - 0.01)
    short.end(Outcome(outcome="completed"))
    await world.told()
    long = await world.begun("long", fence=8)
    await quiet()
    began_ms = world.clock.now_ms()
    world.clock.advance(STARTED_AFTER_S)
    await world.told(2)
    long.end(Outcome(outcome="completed"))
    assert await world.told(3) == [
        CompleteTask(task_id="short", fence=7, started_ms=NOW_MS, result={}),
        StartTask(task_id="long", fence=8, started_ms=began_ms),
        CompleteTask(task_id="long", fence=8, started_ms=began_ms, result={}),
    ]
    assert world.control.calls[-2][:2] == ("c", 8)


async def test_progress_reaches_the_log_at_a_new_step_and_at_most_every_ten_seconds(world: World) -> None:
    going = await world.begun()
    boil = Progress(progress=0.5, current_step="boil", steps_completed=1, total_steps=2)
    going.report(boil)
    going.report(Progress(progress=0.6, current_step="boil"))
    going.report(Progress(progress=0.7, current_step="too soon"))
    world.clock.advance(PROGRESS_EVERY_S)
    going.report(Progress(progress=0.8, current_step="boil"))
    going.report(Progress(progress=0.9, current_step="serve"))
    await quiet()
    progress = [said for said in world.control.verdicts() if isinstance(said, ProgressTask)]
    assert progress == [
        ProgressTask(task_id="t", fence=7, progress=0.5, current_step="boil", steps_completed=1, total_steps=2),
        ProgressTask(task_id="t", fence=7, progress=0.9, current_step="serve"),
    ]


# What a host does not do


@pytest.mark.parametrize(
    "changed",
    [{"session": "another"}, {"term": 1}, {"fence": 7}, {"fence": 6}],
    ids=["another session", "an older term", "a repeat", "an older fence"],
)
async def test_an_order_that_is_out_of_date_is_ignored(world: World, changed: dict[str, Any]) -> None:
    await world.begun(term=2)
    world.host.run_attempt(world.order(**({"term": 2, "fence": 8} | changed)))
    await quiet()
    assert len(world.hand.going) == 1
    assert not world.hand.going[0].token.cancelled.is_set()


async def test_what_an_attempt_used_is_told_now_and_then_and_at_its_end(world: World) -> None:
    going = await world.begun()
    going.report(Progress(usage=Usage(tokens=10)))
    going.report(Progress(progress=0.5, current_step="boil", usage=Usage(tokens=20)))
    world.clock.advance(PROGRESS_EVERY_S)
    going.report(Progress(usage=Usage(cost=0.5)))
    going.report(Progress(usage=Usage(tokens=30)))
    await quiet()
    progress = [said for said in world.control.verdicts() if isinstance(said, ProgressTask)]
    boil = {"task_id": "t", "fence": 7, "progress": 0.5, "current_step": "boil"}
    assert progress == [
        ProgressTask(**boil, usage=Usage(tokens=20)),
        ProgressTask(**boil, usage=Usage(tokens=20, cost=0.5)),
    ]
    going.end(Outcome(outcome="completed", result={}, usage=Usage(cost=0.75)))
    await until(lambda: bool(world.control.reports()))
    usage = Usage(tokens=30, cost=0.75)
    assert world.control.reports() == [CompleteTask(task_id="t", fence=7, started_ms=NOW_MS, result={}, usage=usage)]


@pytest.mark.parametrize(
    ("left", "usage"),
    [(Usage(tokens=9), Usage(tokens=10)), (Usage(cost=0.1), Usage(cost=0.2)), (Usage(tokens=0), Usage(tokens=1))],
)
async def test_an_attempt_that_passes_what_is_left_to_it_says_so_at_once_and_once(
    world: World, left: Usage, usage: Usage
) -> None:
    going = await world.begun(left=left)
    assert going.attempt.left == left
    going.report(Progress(usage=usage))
    going.report(Progress(usage=usage))
    await quiet()
    assert world.control.verdicts() == [ProgressTask(task_id="t", fence=7, usage=usage)]


async def test_a_beat_brings_the_newest_term(world: World) -> None:
    await world.beaten(BeatAnswer(alive=True, term=5))
    world.host.run_attempt(world.order(term=4))
    await quiet()
    assert world.hand.going == []
    await world.begun(term=5)


async def test_a_newer_fence_replaces_the_attempt_and_only_the_newer_one_reports(world: World) -> None:
    old = await world.begun(fence=7)
    new = await world.begun(fence=9)
    assert (old.token.reason, world.host.running) == ("void", 1)
    new.end(Outcome(outcome="completed"))
    await quiet()
    assert world.control.verdicts() == [CompleteTask(task_id="t", fence=9, started_ms=NOW_MS, result={})]


async def test_a_full_host_takes_nothing_until_a_slot_is_free() -> None:
    async with living(slots=1) as world:
        going = await world.begun("t")
        world.host.run_attempt(world.order("u"))
        await quiet()
        assert (len(world.hand.going), world.host.running) == (1, 1)
        going.end(Outcome(outcome="completed"))
        await until(lambda: world.host.running == 0)
        await world.beaten(BeatAnswer(alive=True, term=1, run=(world.order("u"),)))
        assert [going.attempt.task_id for going in world.hand.going] == ["t", "u"]


# Cancelling


async def test_a_cancelled_attempt_gets_its_grace_and_says_how_it_ended(world: World) -> None:
    going = await world.begun()
    world.host.cancel_attempt(Cancel("t", 6, 1.0))
    world.host.cancel_attempt(Cancel("u", 7, 1.0))
    assert not going.token.cancelled.is_set()
    world.host.cancel_attempt(Cancel("t", 7, 2.5))
    assert (going.token.reason, going.token.grace_s) == ("cancelled", 2.5)
    assert await world.told() == [failed("cancelled", "stopped: cancelled")]


async def test_what_a_beat_calls_off_is_cancelled_or_ended_without_a_word(world: World) -> None:
    cancelled, void, stays = await world.begun("t"), await world.begun("u", fence=8), await world.begun("v", fence=9)
    answer = BeatAnswer(alive=True, term=1, cancel=(Cancel("t", 7, 2.5),), void=(("u", 8), ("v", 3)))
    await world.beaten(answer)
    assert (cancelled.token.reason, void.token.reason, stays.token.reason) == ("cancelled", "void", None)
    verdicts = [said for said in world.control.verdicts() if isinstance(said, FailTask)]
    assert verdicts == [failed("cancelled", "stopped: cancelled")]


# Reporting


async def test_a_result_is_told_under_one_id_until_it_was_heard(world: World) -> None:
    going = await world.begun()
    world.control.errors = [Unavailable("busy"), Unavailable("busy"), Unavailable("busy")]
    going.end(Outcome(outcome="completed"))
    for count in (1, 2, 3):
        await world.told(count)
        await until(lambda: world.clock.sleeping > 1)  # the beat, and the pause
        assert len(world.control.verdicts()) == count
        world.clock.advance(2.0)
    assert len(await world.told(4)) == 4
    await until(lambda: world.host.running == 0, "the end")
    command_ids = {command_id for _, _, command_id in world.control.calls[1:]}
    assert len(command_ids) == 1
    assert None not in command_ids


@pytest.mark.parametrize("error", [Refused("stale", code="stale_fence"), NotFound("gone")])
async def test_a_result_that_is_refused_is_told_once(world: World, error: Exception) -> None:
    going = await world.begun()
    world.control.errors = [error]
    going.end(Outcome(outcome="completed"))
    await until(lambda: world.host.running == 0, "the end")
    assert len(world.control.verdicts()) == 1


async def test_an_attempt_that_becomes_void_while_its_result_waits_is_told_no_more(world: World) -> None:
    going = await world.begun()
    world.control.errors = [Unavailable("busy"), Unavailable("busy")]
    going.end(Outcome(outcome="completed"))
    await world.told()
    await world.beaten(BeatAnswer(alive=True, term=1, void=(("t", 7),)))
    world.clock.advance(2.0)
    await quiet()
    assert len(world.control.reports()) == 2  # before the word that it is void, not after


# Leaving


async def test_a_drained_host_interrupts_what_runs_says_so_and_leaves() -> None:
    async with living() as world:
        session = world.host.session
        going = await world.begun()
        await world.host.drain(5.0)
        assert (going.token.reason, going.token.grace_s) == ("interrupted", 5.0)
        assert world.control.verdicts() == [
            failed("interrupted", "stopped: interrupted"),
            LeaveHost(host_id="h", session=session),
        ]
        world.host.run_attempt(world.order("u"))
        await quiet()
        assert len(world.hand.going) == 1


async def test_an_attempt_that_finishes_while_the_host_drains_is_completed(world: World) -> None:
    going = await world.begun()
    going.end(Outcome(outcome="completed", result={"n": 1}))
    await world.host.drain(5.0)
    assert world.control.verdicts() == [
        CompleteTask(task_id="t", fence=7, started_ms=NOW_MS, result={"n": 1}),
        LeaveHost(host_id="h", session=world.host.session),
    ]


async def test_a_host_that_cannot_say_goodbye_leaves_all_the_same(world: World) -> None:
    world.control.errors = [Unavailable("gone")]
    await world.host.drain(5.0)
    assert world.control.verdicts() == [LeaveHost(host_id="h", session=world.host.session)]


async def test_a_cancelled_life_stops_beating(world: World) -> None:
    async with running(world.host.live()) as (life,):
        await quiet()
        life.cancel()
        await asyncio.wait([life])
        assert life.cancelled()


def test_a_run_names_everything_that_an_attempt_needs() -> None:
    needed: Callable[[type[Struct]], set[str]] = lambda struct: set(struct.__struct_fields__)  # noqa: E731
    assert needed(Attempt) - needed(Run) == {"steps", "metadata"}
    assert msgspec.structs.fields(Run)
