from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import cycle
from math import inf
from typing import Any
from uuid import UUID

import pytest
from msgspec import Struct

from adapters.memory.hosts import LocalControl, LocalGateway
from adapters.memory.lease import MemoryLeases
from adapters.memory.log import MemoryLog
from adapters.memory.store import MemoryStore
from core.agent import SpawnAgent
from core.execution import Outcome
from core.host import HostLost, RegisterHost
from core.kernel.command_bus import Accepted, Caller, CommandBus
from core.kernel.commit import Commit, Entry, Event, subject_of
from core.kernel.errors import OutcomeUnknown, Unavailable
from core.kernel.outcomes import RefusalsSuppressed
from core.kernel.ports import Lease
from core.scheduling.election import SCHEDULER_ID, ElectScheduler
from core.services.agent_host import AgentHost
from core.services.host_door import HostDoor
from core.services.leadership import Kept
from core.services.link import Beat, BeatAnswer, Cancel, Gateway, Run
from core.services.scheduler import ANNOUNCED_S, SUSPECT_S, Scheduler
from core.task import (
    AttemptEnded,
    CancelRequested,
    CancelTask,
    CompleteTask,
    FailTask,
    Retry,
    TaskAssigned,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskQueued,
    TaskSubmitted,
)
from tests.given import (
    CODEC,
    NOW_MS,
    REGISTRY,
    HandExecutor,
    History,
    ManualClock,
    portrait,
    quiet,
    running,
    submit,
    until,
    using,
)

LEASE_S = 20.0


class Post:
    """The way to hosts, which nobody empties."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, Run]] = []
        self.cancels: list[tuple[str, Cancel]] = []

    def run(self, host_id: str, run: Run) -> None:
        self.runs.append((host_id, run))

    def cancel(self, host_id: str, cancel: Cancel) -> None:
        self.cancels.append((host_id, cancel))


class Images:
    """Snapshots in memory."""

    def __init__(self) -> None:
        self.image: bytes | None = None

    async def load(self) -> bytes | None:
        return self.image

    async def save(self, image: bytes) -> None:
        self.image = image


class Log(MemoryLog):
    """A memory log whose followers see only what was let through, and whose appends fail as told."""

    def __init__(self) -> None:
        super().__init__()
        self._let_through: float = inf
        self._moved = asyncio.Event()
        self.followed_after: list[int] = []
        self.fails: list[tuple[str, Exception, bool]] = []

    def hold_back(self) -> None:
        """From here on the followers see nothing new."""
        self._let_through = len(self._entries)

    def let(self, position: float = inf) -> None:
        """Show entries up to a position, or all from now on."""
        self._let_through = position
        self._moved.set()

    def follow(self, *, after: int, trimmed_to: int = 0) -> Any:
        self.followed_after.append(after)
        return self._watched(super().follow(after=after))

    async def _watched(self, following: Any) -> AsyncIterator[Sequence[Entry]]:
        async for batch in following:
            for entry in batch:
                while entry.position > self._let_through:
                    self._moved.clear()
                    await self._moved.wait()
                yield [entry]

    async def append(self, subject: str, commit_id: str, body: bytes, *, expected: int) -> int:
        for index, (word, error, stores) in enumerate(self.fails):
            if f'"type":"{word}"'.encode() in body:
                del self.fails[index]
                if stores:
                    await super().append(subject, commit_id, body, expected=expected)
                raise error
        return await super().append(subject, commit_id, body, expected=expected)


class World:
    """A scheduler over a log in memory."""

    def __init__(self, log: Log | None = None, images: Images | None = None, gateway: Gateway | None = None) -> None:
        self.log = log or Log()
        self.clock = ManualClock()
        self.bus = CommandBus(self.log, REGISTRY, CODEC, self.clock, MemoryStore())
        self.post = Post()
        self.images = images or Images()
        self.scheduler = self.another(images=self.images, gateway=gateway)

    def another(
        self,
        *,
        images: Images | None = None,
        gateway: Gateway | None = None,
        version: str = "v1",
        role: Lease | None = None,
        trimmed_to: int = 0,
    ) -> Scheduler:
        """One more scheduler on this log."""

        async def trimmed() -> int:
            return trimmed_to

        return Scheduler(
            self.log,
            self.bus,
            CODEC,
            self.clock,
            gateway or self.post,
            images or Images(),
            version=version,
            lease_s=LEASE_S,
            role=role or Kept(),
            trimmed_to=trimmed,
        )

    async def does(self, command: Struct) -> Accepted:
        return await self.bus.execute(command, Caller(actor="ada"))

    async def has_fleet(self, *, slots: int = 1) -> str:
        """Given host `h`, and an agent that lives on it; the agent's id."""
        await self.does(RegisterHost(host_id="h", name="box", session="s1", executors=["command"], slots=8))
        agent_id = (await self.does(SpawnAgent(type="shell", name="shelly", slots=slots))).aggregate_id
        await until(lambda: agent_id in self.fleet.agents and self.fleet.agents[agent_id].status == "idle", "the agent")
        return agent_id

    async def has_running(self) -> Run:
        """Given a task that is assigned, announced and folded; the order."""
        await self.has_fleet()
        await self.does(submit())
        await until(lambda: bool(self.post.runs), "the order")
        await until(lambda: self.fleet.position >= self.post.runs[0][1].fence, "the fold")
        return self.post.runs[0][1]

    @property
    def fleet(self) -> Any:
        return self.scheduler.fleet

    async def nudge(self) -> None:
        """Something new on the log that means nothing, so that the scheduler looks at the clock."""
        history = History()
        entry = history.entries[history.commit("refusal", "x", RefusalsSuppressed(count=1)).position - 1]
        number = await self.log.head() + 1
        await self.log.append(subject_of("refusal", str(number)), entry.commit_id, entry.body, expected=0)
        await until(lambda: self.fleet.position >= number, "the fold")
        await quiet()

    async def pass_time(self, seconds: float) -> None:
        """Let time pass in steps that no scheduler takes for a pause of its own."""
        while seconds > 0:
            self.clock.advance(min(2.0, seconds))
            await self.nudge()
            seconds -= 2.0

    async def commits(self) -> list[Commit]:
        entries = [await self.log.entry(number) for number in range(1, await self.log.head() + 1)]
        return [CODEC.decode(entry) for entry in entries if entry is not None]

    async def events(self, noun: str) -> list[Event]:
        return [event for commit in await self.commits() if commit.noun == noun for event in commit.events]

    async def events_are(self, noun: str, *kinds: type[Event]) -> list[Event]:
        """Wait until the events of a noun are of these kinds; the events."""

        def types() -> list[type]:
            return [
                type(event)
                for entry in self.log._entries
                if entry.subject.startswith(f"hive.log.{noun}.")
                for event in CODEC.decode(entry).events
            ]

        await until(lambda: types() == list(kinds), f"{[kind.__name__ for kind in kinds]}")
        return await self.events(noun)


@asynccontextmanager
async def leading(world: World) -> AsyncIterator[World]:
    async with running(world.scheduler.run()):
        await until(lambda: world.scheduler.leading, "the election")
        yield world


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with leading(World()) as world:
        yield world


def beat(*held: tuple[str, int], session: str = "s1", registered_at: int = 1) -> Beat:
    return Beat(host_id="h", session=session, registered_at=registered_at, running=held)


# Terms


async def test_the_position_of_its_election_is_the_term_of_a_scheduler(world: World) -> None:
    (commit,) = await world.commits()
    assert (commit.noun, commit.body.actor, commit.position) == ("scheduler", "system:scheduler", 1)
    assert (world.scheduler.term, world.fleet.term) == (1, 1)


async def test_nothing_is_decided_before_the_own_election_is_folded() -> None:
    world = World()
    await world.does(RegisterHost(host_id="h", name="box", session="s1", executors=["command"], slots=8))
    await world.does(SpawnAgent(type="shell"))
    world.log.hold_back()
    async with running(world.scheduler.run()):
        await until(lambda: world.scheduler.term == 3, "the election")
        await quiet()
        assert (world.scheduler.leading, await world.log.head()) == (False, 3)
        with pytest.raises(Unavailable) as caught:
            await world.scheduler.beat(beat())
        assert caught.value.code == "no_leader"
        world.log.let()
        await until(lambda: world.scheduler.leading and len(world.log._entries) > 3, "a decision")


async def test_a_scheduler_stops_when_another_was_elected_and_the_other_leads_on() -> None:
    world = World()
    deposed = asyncio.create_task(world.scheduler.run())
    await until(lambda: world.scheduler.leading, "the election")
    other = world.another()
    async with running(other.run()):
        await until(lambda: other.leading, "the other election")
        with pytest.raises(ExceptionGroup) as caught:
            await deposed
    assert [getattr(error, "code", None) for error in caught.value.exceptions] == ["deposed"]
    assert (world.scheduler.leading, other.fleet.term) == (False, 2)


async def test_of_two_that_may_lead_one_does_and_the_other_follows_at_once_when_it_is_cut_off() -> None:
    world, leases = World(), MemoryLeases(ttl_s=0.3)
    roles = [leases.lease("scheduler") for _ in range(2)]
    first, second = (world.another(role=role) for role in roles)
    async with running(first.run()):
        await until(lambda: first.leading, "the first leader")
        async with running(second.run()):
            await world.does(submit())
            await until(lambda: second.fleet.position == 2, "the fold of the one that stands by")
            assert not second.leading
            roles[0].reachable = False
            await until(lambda: second.leading, "the second leader")
            assert (first.leading, second.term) == (False, second.fleet.term)
            with pytest.raises(Unavailable):
                await first.beat(beat())
            roles[0].reachable = True
        await until(lambda: first.leading, "the first again")
    assert (await world.events("scheduler"))[3:] == []


class RanOut(Kept):
    """A lease that is over by the clock, and nobody had the time to say so: the process stood still."""

    held = True


async def test_a_leader_that_stood_still_beyond_its_lease_decides_nothing_even_before_it_is_told() -> None:
    world, role = World(), RanOut()
    leader = world.another(role=role)
    async with running(leader.run()):
        await world.does(RegisterHost(host_id="h", name="box", session="s1", executors=["command"], slots=8))
        await until(lambda: leader.leading, "the lead")
        role.held = False
        await world.does(SpawnAgent(type="shell"))
        await until(lambda: leader.fleet.position == head_of(world), "the fold")
        await quiet()
        assert (leader.leading, len(await world.events("agent"))) == (False, 1)
        with pytest.raises(Unavailable):
            await leader.beat(beat())


def head_of(world: World) -> int:
    return len(world.log._entries)


async def test_a_deposed_scheduler_that_may_lead_again_stands_by_instead_of_ending() -> None:
    world = World()
    other = world.another(role=MemoryLeases(ttl_s=30).lease("scheduler"))
    async with running(other.run()):
        await until(lambda: other.leading, "the election")
        await world.does(ElectScheduler(scheduler_id=SCHEDULER_ID, leader="a third"))
        await until(lambda: other.fleet.leader not in ("", "a third"), "an election after that of the third")
        await until(lambda: other.leading, "the lead")


async def test_without_a_role_the_fleet_is_known_and_nothing_is_decided() -> None:
    world = World()
    images = Images()
    follower = world.another(images=images)
    follower._role = None
    async with running(follower.run()):
        await world.does(RegisterHost(host_id="h", name="box", session="s1", executors=["command"], slots=8))
        await world.does(SpawnAgent(type="shell"))
        await world.does(submit())
        await until(lambda: follower.fleet.position == 3, "the fold")
        assert (len(follower.fleet.tasks), follower.leading) == (1, False)
        await follower.save()
    assert (await world.log.head(), images.image) == (3, None)


async def test_an_election_that_the_log_does_not_take_is_tried_again() -> None:
    world = World()
    world.log.fails = [("scheduler.elected", Unavailable("away"), False)]
    async with running(world.scheduler.run()):
        await until(lambda: world.clock.sleeping == 1, "the pause")
        world.clock.advance(1.0)
        await until(lambda: world.scheduler.leading, "the election")
    assert world.scheduler.fleet.term == 1


# Deciding


async def test_a_task_is_announced_to_its_host_once_its_assignment_is_on_the_log(world: World) -> None:
    agent_id = await world.has_fleet()
    accepted = await world.does(submit(timeout_s=3.0))
    await until(lambda: bool(world.post.runs), "the order")
    fence = await world.bus.position_of("task", accepted.aggregate_id)
    assert (await world.events("task"))[2:] == [
        TaskAssigned(agent_id=agent_id, host_id="h", session="s1", term=1, attempt=1, agent_type="shell")
    ]
    order = Run(
        task_id=accepted.aggregate_id,
        fence=fence,
        term=1,
        session="s1",
        agent_id=agent_id,
        attempt=1,
        type="greet",
        executor="command",
        parameters={"argv": ["true"]},
        timeout_s=3.0,
        correlation_id=accepted.correlation_id,
    )
    assert world.post.runs == [("h", order)]
    assigned = (await world.commits())[fence - 1]
    assert (assigned.body.correlation_id, assigned.body.causation_id) == (
        accepted.correlation_id,
        f"@{accepted.position}",
    )


async def test_a_slot_that_becomes_free_is_given_to_the_next_task(world: World) -> None:
    first = await world.has_running()
    await world.does(submit())
    await quiet()
    assert len(world.post.runs) == 1
    await world.does(CompleteTask(task_id=first.task_id, fence=first.fence, started_ms=NOW_MS, result={}))
    await until(lambda: len(world.post.runs) == 2, "the next order")


async def test_a_failed_task_comes_back_after_its_back_off(world: World) -> None:
    order = await world.has_running()
    await world.does(
        FailTask(task_id=order.task_id, fence=order.fence, outcome="failed", error="x", retry_after_ms=5_000)
    )
    await world.nudge()
    assert len(world.post.runs) == 1
    world.clock.advance(5.0)
    await world.nudge()
    await until(lambda: len(world.post.runs) == 2, "the second attempt")
    assert world.post.runs[1][1].attempt == 2


async def test_a_decision_that_the_log_has_overtaken_leaves_nothing_behind(world: World) -> None:
    agent_id = await world.has_fleet()
    world.log.hold_back()
    task_id = (await world.does(submit())).aggregate_id
    cancelled = (await world.does(CancelTask(task_id=task_id))).position
    world.log.let(cancelled - 1)
    await until(lambda: world.scheduler._overlay.claims.by_agent[agent_id] == 1, "the decision")
    await quiet()
    assert world.scheduler._overlay.claims.by_agent[agent_id] == 1  # the slot is kept until the fold knows better
    world.log.let()
    await until(lambda: len(world.scheduler._overlay) == 0, "the end of the decision")
    assert await world.log.head() == cancelled
    await world.does(submit())
    await until(lambda: len(world.post.runs) == 1, "the order")


@pytest.mark.parametrize("stored", [True, False])
async def test_a_decision_of_unknown_outcome_happens_once(world: World, stored: bool) -> None:
    await world.has_fleet(slots=4)
    world.log.fails = [("task.assigned", OutcomeUnknown("lost"), stored)]
    await world.does(submit())
    await world.events_are("task", TaskSubmitted, TaskQueued, TaskAssigned)
    await until(lambda: len(world.scheduler._overlay) == 0, "the end of the decision")
    await quiet()
    await world.events_are("task", TaskSubmitted, TaskQueued, TaskAssigned)


async def test_while_the_log_is_away_a_decision_waits_and_is_then_made_again(world: World) -> None:
    await world.has_fleet()
    world.log.fails = [("task.assigned", Unavailable("away"), False)]
    await world.does(submit())
    await until(lambda: world.clock.sleeping == 1, "the pause")
    assert world.post.runs == []
    world.clock.advance(0.2)
    await until(lambda: len(world.post.runs) == 1, "the order")


async def test_what_cannot_be_decoded_is_passed_over(world: World) -> None:
    await world.log.append("hive.log.task.broken", str(UUID(int=1)), b"{", expected=0)
    await world.has_running()


# Beats


async def test_a_beat_of_a_session_that_the_log_does_not_know_ends_that_session(world: World) -> None:
    assert await world.scheduler.beat(beat(("t", 1))) == BeatAnswer(alive=False, term=1, void=(("t", 1),))
    await world.has_fleet()
    assert await world.scheduler.beat(beat(session="s0")) == BeatAnswer(alive=False, term=1)
    assert await world.scheduler.beat(beat()) == BeatAnswer(alive=True, term=1, lease_s=LEASE_S)


async def test_a_beat_offers_again_what_must_have_been_lost_on_its_way(world: World) -> None:
    order = await world.has_running()
    held = (order.task_id, order.fence)
    assert (await world.scheduler.beat(beat())).run == ()
    world.clock.advance(ANNOUNCED_S + 0.001)
    assert (await world.scheduler.beat(beat())).run == (order,)
    assert (await world.scheduler.beat(beat((order.task_id, order.fence - 1)))).run == (order,)
    assert await world.scheduler.beat(beat(held)) == BeatAnswer(alive=True, term=1, lease_s=LEASE_S)


async def test_a_beat_names_what_is_void_and_never_what_the_fold_has_not_reached(world: World) -> None:
    order = await world.has_running()
    head = await world.log.head()
    listed = (("gone", 2), (order.task_id, order.fence - 1), (order.task_id, order.fence), ("coming", head + 1))
    assert (await world.scheduler.beat(beat(*listed))).void == listed[:2]


async def test_a_cancel_is_passed_on_at_once_and_again_with_each_beat(world: World) -> None:
    order = await world.has_running()
    await world.does(CancelTask(task_id=order.task_id))
    await until(lambda: bool(world.post.cancels), "the cancel")
    cancel = Cancel(order.task_id, order.fence, 5.0)
    assert world.post.cancels == [("h", cancel)]
    for _ in range(2):
        answer = await world.scheduler.beat(beat((order.task_id, order.fence)))
        assert answer == BeatAnswer(alive=True, term=1, lease_s=LEASE_S, cancel=(cancel,))


# Leases


async def test_a_silent_host_is_lost_after_its_lease_and_its_tasks_go_elsewhere(world: World) -> None:
    order = await world.has_running()
    await world.does(RegisterHost(host_id="h2", name="box2", session="s9", executors=["command"], slots=1))
    await world.pass_time(LEASE_S - 0.5)
    assert HostLost not in map(type, await world.events("host"))
    await world.scheduler.beat(Beat(host_id="h2", session="s9", registered_at=1, running=()))
    await world.pass_time(1.0)
    await until(lambda: len(world.post.runs) == 2, "the second attempt")
    host_id, second = world.post.runs[1]
    assert (host_id, second.session, second.attempt, second.task_id) == ("h2", "s9", 2, order.task_id)
    assert (await world.events("host"))[-1] == HostLost(session="s1", reason="no beat for 20 s")
    assert (await world.events("task"))[3] == AttemptEnded(
        fence=order.fence,
        agent_id=order.agent_id,
        outcome="lease_expired",
        agent_type="shell",
        type="greet",
        error="Its host was lost: no beat for 20 s.",
        used=using(wall_ms=20_500),
    )


async def has_host(world: World, session: str) -> None:
    await world.does(RegisterHost(host_id="h", name="box", session=session, executors=["command"], slots=8))
    await until(lambda: "h" in world.fleet.hosts and world.fleet.hosts["h"].session == session, "the host")


async def test_a_host_whose_connection_ended_is_lost_unless_it_beats_again_at_once(world: World) -> None:
    await has_host(world, "life.1")
    world.scheduler.suspect("h", "life")
    await quiet()
    world.clock.advance(SUSPECT_S - 0.001)
    await quiet()
    assert HostLost not in map(type, await world.events("host"))
    world.clock.advance(0.002)
    await until(lambda: world.fleet.hosts["h"].session == "", "the loss")
    reason = "its connection ended and did not come back"
    assert (await world.events("host"))[-1] == HostLost(session="life.1", reason=reason)


async def test_a_host_that_is_connected_again_loses_nothing(world: World) -> None:
    await has_host(world, "life.1")
    world.scheduler.suspect("h", "life")
    await quiet()
    world.clock.advance(0.1)
    await world.scheduler.beat(beat(session="life.1"))
    world.clock.advance(SUSPECT_S)
    await world.nudge()
    assert HostLost not in map(type, await world.events("host"))


@pytest.mark.parametrize("life", ["earlier", "lif", ""])
async def test_the_end_of_another_lifes_connection_means_nothing(world: World, life: str) -> None:
    await has_host(world, "life.1")
    world.scheduler.suspect("h", life)
    world.scheduler.suspect("unknown", "life")
    await quiet()
    world.clock.advance(SUSPECT_S + 0.1)
    await world.nudge()
    assert HostLost not in map(type, await world.events("host"))


async def test_a_session_that_began_meanwhile_is_not_the_one_that_was_doubted(world: World) -> None:
    await has_host(world, "life.1")
    world.scheduler.suspect("h", "life")
    await quiet()
    await has_host(world, "life.2")
    world.clock.advance(SUSPECT_S + 0.1)
    await world.nudge()
    assert HostLost not in map(type, await world.events("host"))


async def test_a_beat_renews_the_lease(world: World) -> None:
    await world.has_fleet()
    for _ in range(4):
        await world.pass_time(LEASE_S - 1)
        await world.scheduler.beat(beat())
    assert HostLost not in map(type, await world.events("host"))


async def test_a_new_leader_grants_every_host_a_whole_lease() -> None:
    world = World()
    await world.does(RegisterHost(host_id="h", name="box", session="s1", executors=["command"], slots=8))
    world.clock.advance(LEASE_S * 5)
    async with leading(world):
        await world.nudge()
        await world.pass_time(LEASE_S - 0.5)
        assert HostLost not in map(type, await world.events("host"))
        await world.pass_time(1.0)
        await until(lambda: world.fleet.hosts["h"].session == "", "the loss")


async def test_time_in_which_the_scheduler_itself_stood_still_is_no_hosts_silence(world: World) -> None:
    await world.has_fleet()
    await world.nudge()
    world.clock.advance(LEASE_S * 10)
    await world.nudge()
    assert HostLost not in map(type, await world.events("host"))
    await world.pass_time(LEASE_S + 2.0)
    await until(lambda: world.fleet.hosts["h"].session == "", "the loss")


async def test_a_new_session_begins_with_a_whole_lease(world: World) -> None:
    await world.has_fleet()
    await world.pass_time(LEASE_S - 1)
    await world.does(RegisterHost(host_id="h", name="box", session="s2", executors=["command"], slots=8))
    await world.pass_time(LEASE_S - 1)
    assert HostLost not in map(type, await world.events("host"))


async def test_an_attempt_that_its_host_does_not_end_is_ended_far_beyond_its_timeout(world: World) -> None:
    await world.has_fleet()
    await world.does(submit(timeout_s=1.0, retry=Retry(max_attempts=1)))
    await until(lambda: bool(world.post.runs), "the order")
    world.clock.advance(15.5)
    await world.scheduler.beat(beat())
    await world.nudge()
    await quiet()
    assert len(await world.events("task")) == 3
    world.clock.advance(0.5)
    await world.nudge()
    *_, failed = await world.events_are("task", TaskSubmitted, TaskQueued, TaskAssigned, AttemptEnded, TaskFailed)
    assert failed == TaskFailed(error="The host did not end it at its timeout.", outcome="timed_out")


# Images


async def test_a_restart_reads_the_image_and_then_only_what_came_after_it() -> None:
    world = World()
    async with leading(world):
        await world.has_running()
        await until(lambda: world.fleet.position == len(world.log._entries), "the fold")
        await world.scheduler.save()
        saved, before = world.fleet.position, portrait(world.fleet)
    restarted = World(world.log, world.images)
    await restarted.scheduler._restore()
    assert portrait(restarted.fleet) == before
    world.log.followed_after.clear()
    async with leading(World(world.log, world.images)):
        assert world.log.followed_after == [saved]


@pytest.mark.parametrize("harm", ["another version", "another log", "no image", "cut", "trimmed beyond it"])
async def test_an_image_that_does_not_fit_is_not_read(harm: str) -> None:
    world = World()
    async with leading(world):
        await world.has_fleet()
        await world.scheduler.save()
    log, images = world.log, world.images
    if harm == "another log":
        log = Log()
        for number in range(await world.log.head()):
            await log.append(f"hive.log.other.{number}", str(UUID(int=number)), b"{}", expected=0)
    elif harm == "no image":
        images.image = b"\x01"
    elif harm == "cut":
        log = Log()
    restarted = World(log, images)
    scheduler = restarted.another(
        images=images,
        version="v2" if harm == "another version" else "v1",
        trimmed_to=world.fleet.position + 1 if harm == "trimmed beyond it" else world.fleet.position,
    )
    await scheduler._restore()
    assert scheduler.fleet.position == 0


async def test_an_image_is_written_only_when_something_was_folded(world: World) -> None:
    await world.has_fleet()
    await until(lambda: world.fleet.position == len(world.log._entries), "the fold")
    await world.scheduler.save()
    assert world.images.image is not None
    world.images.image = None
    await world.scheduler.save()
    assert world.images.image is None


# Together with a real host


@asynccontextmanager
async def together(slots: int = 4) -> AsyncIterator[tuple[World, AgentHost, HandExecutor]]:
    """A scheduler and a host that talk to each other, and an agent."""
    gateway = LocalGateway()
    world = World(gateway=gateway)
    hand = HandExecutor()
    control = LocalControl(HostDoor(world.bus, REGISTRY), world.scheduler.beat, "h")
    host = AgentHost("h", "box", {"command": hand}, control, world.clock, slots=slots)
    gateway.add(host)
    async with leading(world), running(host.live()):
        agent_id = (await world.does(SpawnAgent(type="shell", slots=slots))).aggregate_id
        await until(
            lambda: agent_id in world.fleet.agents and world.fleet.agents[agent_id].status == "idle", "an agent"
        )
        yield world, host, hand


async def begun(hand: HandExecutor, count: int) -> None:
    await until(lambda: len(hand.going) == count, f"{count} attempts")


async def test_a_quick_task_costs_three_commits() -> None:
    async with together() as (world, _, hand):
        before = await world.log.head()
        await world.does(submit())
        await begun(hand, 1)
        hand.going[0].end(Outcome(outcome="completed", result={"n": 1}))
        *_, completed = await world.events_are("task", TaskSubmitted, TaskQueued, TaskAssigned, TaskCompleted)
        assert isinstance(completed, TaskCompleted)
        assert completed.result == {"n": 1}
        assert await world.log.head() == before + 3


async def test_a_cancelled_attempt_ends_its_task() -> None:
    async with together() as (world, _, hand):
        task_id = (await world.does(submit())).aggregate_id
        await begun(hand, 1)
        await world.does(CancelTask(task_id=task_id, reason="enough"))
        *_, end = await world.events_are(
            "task", TaskSubmitted, TaskQueued, TaskAssigned, CancelRequested, AttemptEnded, TaskCancelled
        )
        assert end == TaskCancelled(reason="enough")


async def test_work_that_a_leaving_host_interrupts_is_queued_again_at_once() -> None:
    async with together() as (world, host, hand):
        await world.does(submit(retry=Retry(max_attempts=1)))
        await begun(hand, 1)
        await host.drain(5.0)
        await world.events_are("task", TaskSubmitted, TaskQueued, TaskAssigned, AttemptEnded, TaskQueued)


async def test_many_tasks_each_end_once_whatever_their_attempts_come_to() -> None:
    outcomes: list[Callable[[], Outcome | Exception]] = [
        lambda: Outcome(outcome="completed"),
        lambda: Outcome(outcome="failed", error="x", retry_after_ms=0),
        lambda: Outcome(outcome="failed", error="x", retryable=False),
        lambda: Outcome(outcome="crashed", error="x"),
        lambda: ValueError("broken"),
    ]
    async with together() as (world, host, hand):
        tasks = [(await world.does(submit(retry=Retry(max_crashes=2)))).aggregate_id for _ in range(40)]
        for outcome in cycle(outcomes):
            await until(lambda: bool(hand.going) or ended(world) == set(tasks), "an attempt, or the end of all")
            if not hand.going:
                break
            assert host.running <= 4
            hand.going.pop(0).end(outcome())
        events = [(commit.aggregate_id, event) for commit in await world.commits() for event in commit.events]
        ends = [id_ for id_, event in events if isinstance(event, TaskCompleted | TaskFailed)]
        assert sorted(ends) == sorted(tasks)
        attempts = Counter(id_ for id_, event in events if isinstance(event, TaskAssigned))
        assert all(1 <= attempts[id_] <= 3 + 2 for id_ in tasks)
        await until(lambda: len(world.scheduler._overlay) == 0 and not world.fleet.tasks, "the end of all decisions")
        assert (+world.scheduler._overlay.claims.by_agent, +world.scheduler._overlay.claims.by_host) == ({}, {})


def ended(world: World) -> set[str]:
    """The tasks that have ended, as the scheduler has folded them."""
    log = world.log._entries
    submitted = {entry.subject.rpartition(".")[2] for entry in log if entry.subject.startswith("hive.log.task.")}
    return submitted - set(world.fleet.tasks) if world.fleet.position == len(log) else set()
