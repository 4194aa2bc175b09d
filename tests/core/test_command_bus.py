from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given as sampled
from hypothesis import settings
from hypothesis import strategies as st

from adapters.memory.log import MemoryLog
from adapters.memory.store import MemoryStore
from core.host import Host, HostLost, LoseHost, RegisterHost
from core.kernel.command_bus import TRIES_MAX, Accepted, CommandBus
from core.kernel.commit import Commit, Entry, commit_id_of, fingerprint_of, subject_of
from core.kernel.errors import KeyReused, NotFound, OutcomeUnknown, Refused, TooLarge, Unavailable
from core.kernel.ids import derive
from core.kernel.loaded import RECENT_MAX
from core.kernel.outcomes import CommandRefused, CommandUnchanged
from core.kernel.ports import Conflict, Remembered
from core.scheduling.election import ElectScheduler
from core.task import (
    AssignTask,
    CancelTask,
    CompleteTask,
    QueueTask,
    Retry,
    StartTask,
    SubmitTask,
    TaskCancelled,
    TaskQueued,
)
from tests.given import CODEC, DEADLINE_S, NOW_MS, REGISTRY, ManualClock, caller, command_id, submit, submitted

TASK = str(derive(command_id(1), "task"))
SUBJECT = subject_of("task", TASK)


ENVELOPE: dict[str, Any] = {
    "id": str(command_id(9)),
    "command": "task.queue",
    "command_id": str(command_id(9)),
    "fingerprint": "f",
    "actor": "ada",
    "correlation_id": "c",
    "causation_id": "c",
    "occurred_at": NOW_MS,
    "version": 2,
}


class Memory(MemoryStore):
    """A store that remembers what it is told to."""

    def __init__(self, known: dict[UUID, Remembered]) -> None:
        super().__init__()
        self.known = known

    async def remembered(self, command_id: UUID) -> Remembered | None:
        return self.known.get(command_id)


class CountingLog(MemoryLog):
    """Counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    async def read(self, subject: str, *, after: int = 0) -> list[Entry]:
        self.reads += 1
        return await super().read(subject, after=after)


class RivalLog(MemoryLog):
    """Before each append somebody else is faster, as often as told."""

    def __init__(self, rival: Callable[[MemoryLog], Any], times: int) -> None:
        super().__init__()
        self.rival = rival
        self.times = times
        self.tries = 0

    async def append(self, subject: str, commit_id: str, body: bytes, *, expected: int) -> int:
        self.tries += 1
        if self.times:
            self.times -= 1
            await self.rival(self)
        return await super().append(subject, commit_id, body, expected=expected)


class LossyLog(MemoryLog):
    """Stores, and loses the acknowledgement of the next append: the error is raised instead."""

    def __init__(self) -> None:
        super().__init__()
        self.loses: type[Exception] | None = None
        self.stores = True

    async def append(self, subject: str, commit_id: str, body: bytes, *, expected: int) -> int:
        error, self.loses = self.loses, None
        if error is None:
            return await super().append(subject, commit_id, body, expected=expected)
        if self.stores:
            await super().append(subject, commit_id, body, expected=expected)
        if error is Conflict:
            raise Conflict(await self.read(subject, after=expected))
        raise error("lost")


def bus_on(log: MemoryLog, *, clock: ManualClock | None = None, memory: Any = None, **settings: Any) -> CommandBus:
    return CommandBus(log, REGISTRY, CODEC, clock or ManualClock(), memory or MemoryStore(), **settings)


async def commits_of(log: MemoryLog) -> list[Commit]:
    return [CODEC.decode(entry) for n in range(1, await log.head() + 1) if (entry := await log.entry(n)) is not None]


def answered(accepted: Accepted) -> tuple[int, str, list[Any], bool]:
    return accepted.position, accepted.aggregate_id, list(accepted.events), accepted.repeated


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def bus(log: MemoryLog) -> CommandBus:
    return bus_on(log)


# A command becomes a commit


async def test_a_command_leaves_one_commit_that_tells_all_about_it(bus: CommandBus, log: MemoryLog) -> None:
    who = caller(1, correlation_id="corr", causation_id="@9", on_behalf_of="grace")
    accepted = await bus.execute(submit(), who)
    (commit,) = await commits_of(log)
    assert (commit.position, commit.noun, commit.aggregate_id) == (1, "task", TASK)
    assert commit.events == (submitted(), TaskQueued()) == tuple(accepted.events)
    body = {**msgspec.structs.asdict(commit.body), "events": None}
    assert body == {
        "id": commit_id_of(command_id(1), SUBJECT),
        "command": "task.submit",
        "command_id": str(command_id(1)),
        "fingerprint": fingerprint_of("task.submit", submit()),
        "actor": "ada",
        "on_behalf_of": "grace",
        "correlation_id": "corr",
        "causation_id": "@9",
        "occurred_at": NOW_MS,
        "version": 1,
        "events": None,
    }
    entry = await log.entry(1)
    assert entry is not None
    assert entry.commit_id == commit.body.id
    assert (accepted.before, accepted.state.status, accepted.time_ms) == (None, "queued", NOW_MS)


async def test_a_callers_command_is_its_own_cause_and_begins_a_correlation(bus: CommandBus, log: MemoryLog) -> None:
    accepted = await bus.execute(submit(), caller(1))
    (commit,) = await commits_of(log)
    key = str(command_id(1))
    assert (commit.body.correlation_id, commit.body.causation_id, accepted.correlation_id) == (key, key, key)


async def test_later_commands_find_the_state_before_and_count_the_versions(bus: CommandBus, log: MemoryLog) -> None:
    await bus.execute(submit(), caller(1))
    accepted = await bus.execute(CancelTask(task_id=TASK, reason="enough"), caller(2))
    assert (accepted.before.status, accepted.state.status) == ("queued", "cancelled")
    assert accepted.events == [TaskCancelled(reason="enough")]
    assert [commit.body.version for commit in await commits_of(log)] == [1, 2]
    assert await bus.load("task", TASK) == accepted.state
    assert await bus.position_of("task", TASK) == accepted.position == 2


async def test_a_command_that_upserts_may_be_the_first_of_its_aggregate(bus: CommandBus) -> None:
    first = await bus.execute(ElectScheduler(scheduler_id="main", leader="l1"), caller(1))
    second = await bus.execute(ElectScheduler(scheduler_id="main", leader="l2"), caller(2))
    assert ((first.before, first.state.term), (second.before.term, second.state.term)) == ((None, 1), (1, 2))


@pytest.mark.parametrize("task_id", ["0b", "../x", "a.b", "", "*", "x" * 65, "a b"])
async def test_an_id_that_names_nothing_is_unknown_and_leaves_nothing(
    bus: CommandBus, log: MemoryLog, task_id: str
) -> None:
    with pytest.raises(NotFound) as caught:
        await bus.execute(CancelTask(task_id=task_id), caller(1))
    assert caught.value.code == "unknown_task"
    with pytest.raises(NotFound):
        await bus.load("task", task_id)
    assert (await bus.position_of("task", task_id), await log.head()) == (0, 0)


async def test_a_command_too_large_for_the_log_leaves_nothing_and_breaks_nothing(
    bus: CommandBus, log: MemoryLog
) -> None:
    with pytest.raises(TooLarge):
        await bus.execute(submit(parameters={"argv": ["x" * 100_000] * 3}), caller(1))
    assert await log.head() == 0
    assert (await bus.execute(submit(), caller(1))).position == 1


# Several buses on one log


async def test_what_another_bus_changed_is_seen_before_a_command_is_refused(bus: CommandBus, log: MemoryLog) -> None:
    other = bus_on(log)
    await bus.execute(submit(), caller(1))
    assigned = AssignTask(task_id=TASK, agent_id="a", host_id="h", session="s", term=1)
    fence = (await other.execute(assigned, caller(2))).position
    done = CompleteTask(task_id=TASK, fence=fence, started_ms=NOW_MS, result={})
    assert (await bus.execute(done, caller(3))).state.status == "completed"
    assert (await other.execute(done, caller(3))).repeated, "its own commit, come by the other bus"
    with pytest.raises(Refused):
        await other.execute(done, caller(4))


async def test_what_another_bus_changed_is_seen_before_nothing_is_to_do(bus: CommandBus, log: MemoryLog) -> None:
    other = bus_on(log)
    for number, session in ((1, "s1"), (2, "s2")):
        sender = bus if number == 1 else other
        await sender.execute(
            RegisterHost(host_id="h", name="box", session=session, executors=[], slots=1), caller(number)
        )
    await bus.execute(LoseHost(host_id="h", session="s2", reason="silent"), caller(3))
    assert [type(event) for commit in await commits_of(log) for event in commit.events][-1] is HostLost


async def test_a_load_shows_what_another_bus_changed(bus: CommandBus, log: MemoryLog) -> None:
    await bus.execute(submit(), caller(1))
    await bus_on(log).execute(CancelTask(task_id=TASK), caller(2))
    assert (await bus.load("task", TASK)).status == "cancelled"


# Repeats


async def test_a_create_said_twice_is_one_task_also_after_a_restart(bus: CommandBus, log: MemoryLog) -> None:
    first = await bus.execute(submit(), caller(1))
    for repeating in (bus, bus_on(log)):
        again = await repeating.execute(submit(), caller(1))
        assert answered(again) == (first.position, TASK, [], True)
        assert (again.state, again.time_ms) == (first.state, first.time_ms)
    assert await log.head() == 1


async def test_a_command_said_twice_answers_with_its_first_commit(bus: CommandBus, log: MemoryLog) -> None:
    await bus.execute(submit(), caller(1))
    await bus.execute(CancelTask(task_id=TASK), caller(2))
    await bus.execute(CancelTask(task_id=TASK), caller(3))
    for repeating in (bus, bus_on(log)):
        again = await repeating.execute(CancelTask(task_id=TASK), caller(2))
        assert answered(again) == (2, TASK, [], True)
    assert await log.head() == 3


async def test_one_key_for_two_bodies_is_refused_and_changes_nothing(bus: CommandBus, log: MemoryLog) -> None:
    await bus.execute(submit(), caller(1))
    await bus.execute(CancelTask(task_id=TASK), caller(2))
    for command, number in ((submit(priority=9), 1), (CancelTask(task_id=TASK, reason="other"), 2)):
        with pytest.raises(KeyReused) as caught:
            await bus.execute(command, caller(number))
        assert caught.value.extra == {"position": number}
    assert [commit.noun for commit in await commits_of(log)] == ["task", "task", "refusal", "refusal"]


async def test_the_callers_fingerprint_decides_what_counts_as_the_same_body(bus: CommandBus) -> None:
    await bus.execute(submit(parameters={"argv": ["sealed once"]}), caller(1, fingerprint="same"))
    again = await bus.execute(submit(parameters={"argv": ["sealed again"]}), caller(1, fingerprint="same"))
    assert again.repeated
    with pytest.raises(KeyReused):
        await bus.execute(submit(parameters={"argv": ["sealed once"]}), caller(1, fingerprint="other"))


async def test_a_late_repeat_is_known_from_the_store(log: MemoryLog) -> None:
    cancel = CancelTask(task_id=TASK)
    memory = Memory({command_id(7): Remembered(41, fingerprint_of("task.cancel", cancel))})
    bus = bus_on(log, memory=memory)
    await bus.execute(submit(), caller(1))
    again = await bus.execute(cancel, caller(7, keyed=True))
    assert answered(again) == (41, TASK, [], True)
    with pytest.raises(KeyReused):
        await bus.execute(CancelTask(task_id=TASK, reason="other"), caller(7, keyed=True))
    assert [commit.noun for commit in await commits_of(log)] == ["task", "refusal"]


async def test_the_last_64_commands_are_known_without_the_store(bus: CommandBus, log: MemoryLog) -> None:
    await bus.execute(submit(), caller(1))
    await bus.execute(CancelTask(task_id=TASK), caller(2))
    for number in range(3, 2 + RECENT_MAX):
        await bus.execute(CancelTask(task_id=TASK), caller(number))
    for repeating in (bus, bus_on(log)):
        assert (await repeating.execute(CancelTask(task_id=TASK), caller(2))).position == 2
    head = await log.head()
    await bus.execute(CancelTask(task_id=TASK), caller(200))
    assert (await bus.execute(CancelTask(task_id=TASK), caller(2))).position == head + 2


async def test_a_key_stands_for_one_body_whatever_it_is_sent_to(bus: CommandBus, log: MemoryLog) -> None:
    for number in (1, 2):
        await bus.execute(submit(), caller(number))
    other = str(derive(command_id(2), "task"))
    await bus.execute(CancelTask(task_id=TASK), caller(9, keyed=True))
    with pytest.raises(KeyReused):
        await bus.execute(CancelTask(task_id=other), caller(9, keyed=True))
    assert (await bus.load("task", other)).status == "queued"
    assert (await bus.execute(CancelTask(task_id=TASK), caller(9, keyed=True))).repeated


async def test_a_repeat_answers_with_the_time_and_correlation_of_the_first(log: MemoryLog) -> None:
    clock = ManualClock()
    bus = bus_on(log, clock=clock)
    first = await bus.execute(submit(), caller(1, correlation_id="first"))
    clock.advance(60)
    for repeating in (bus, bus_on(log, clock=clock)):
        again = await repeating.execute(submit(), caller(1, correlation_id="second"))
        assert (again.time_ms, again.correlation_id) == (first.time_ms, "first")


# Nothing to do, and no


async def test_a_wish_already_fulfilled_leaves_an_event_that_no_fold_sees(bus: CommandBus, log: MemoryLog) -> None:
    await bus.execute(submit(), caller(1))
    cancelled = await bus.execute(CancelTask(task_id=TASK), caller(2))
    again = await bus.execute(CancelTask(task_id=TASK), caller(3))
    assert (again.position, again.events, again.state) == (3, (CommandUnchanged(),), cancelled.state)
    assert (await commits_of(log))[-1].events == (CommandUnchanged(),)
    assert await bus_on(log).load("task", TASK) == cancelled.state


async def test_what_the_system_says_in_vain_leaves_nothing(bus: CommandBus, log: MemoryLog) -> None:
    await bus.execute(submit(), caller(1))
    answer = await bus.execute(QueueTask(task_id=TASK), caller(2))
    assert answered(answer) == (1, TASK, [], False)
    register = RegisterHost(host_id="h", name="box", session="s", executors=[], slots=1)
    await bus.execute(register, caller(3))
    assert answered(await bus.execute(register, caller(4))) == (2, "h", [], False)
    assert await log.head() == 2
    assert await bus.load("host", "h") == Host(session="s", last_session="s")


async def completed(bus: CommandBus) -> None:
    """Given a task that an attempt has completed."""
    await bus.execute(submit(), caller(1))
    assign = AssignTask(task_id=TASK, agent_id="a", host_id="h", session="s1", term=1)
    await bus.execute(assign, caller(2))
    await bus.execute(CompleteTask(task_id=TASK, fence=2, started_ms=NOW_MS, result={}), caller(3))


async def test_a_refusal_of_a_caller_or_a_host_is_on_the_log_and_one_of_the_system_is_not(
    bus: CommandBus, log: MemoryLog
) -> None:
    await completed(bus)
    for command, number in (
        (CancelTask(task_id=TASK), 4),
        (StartTask(task_id=TASK, fence=2, started_ms=NOW_MS), 5),
        (AssignTask(task_id=TASK, agent_id="a", host_id="h", session="s1", term=1), 6),
    ):
        with pytest.raises(Refused):
            await bus.execute(command, caller(number))
    refusals = [(commit.noun, event) for commit in (await commits_of(log))[3:] for event in commit.events]
    assert refusals == [
        (
            "refusal",
            CommandRefused(
                command="task.cancel",
                target=TASK,
                code="illegal_transition",
                sentence="The task has ended already: it is completed.",
            ),
        ),
        (
            "refusal",
            CommandRefused(
                command="task.start",
                target=TASK,
                code="stale_fence",
                sentence="Fence 2 does not hold this task any more: it is completed with fence 2.",
            ),
        ),
    ]


async def test_a_refused_key_may_be_tried_again(bus: CommandBus, log: MemoryLog) -> None:
    await bus.execute(submit(), caller(1))
    early = StartTask(task_id=TASK, fence=3, started_ms=NOW_MS)
    with pytest.raises(Refused):
        await bus.execute(early, caller(2))
    assign = AssignTask(task_id=TASK, agent_id="a", host_id="h", session="s1", term=1)
    assert (await bus.execute(assign, caller(3))).position == 3
    assert (await bus.execute(early, caller(2))).state.status == "running"


# Conflicts


async def test_on_a_conflict_the_command_is_decided_again_on_the_newer_state(log: MemoryLog) -> None:
    here, there = bus_on(log), bus_on(log)
    await here.execute(submit(), caller(1))
    assign = AssignTask(task_id=TASK, agent_id="a", host_id="h", session="s1", term=1)
    await there.execute(assign, caller(2))
    accepted = await here.execute(CancelTask(task_id=TASK), caller(3))
    assert (accepted.before.status, accepted.state.cancelling) == ("assigned", True)
    assert [commit.body.version for commit in await commits_of(log)] == [1, 2, 3]


async def test_of_completion_and_expiry_exactly_one_wins(log: MemoryLog) -> None:
    here, there = bus_on(log), bus_on(log)
    await here.execute(submit(), caller(1))
    await here.execute(AssignTask(task_id=TASK, agent_id="a", host_id="h", session="s1", term=1), caller(2))
    await there.load("task", TASK)
    complete = CompleteTask(task_id=TASK, fence=2, started_ms=NOW_MS, result={})
    await there.execute(complete, caller(3))
    with pytest.raises(Refused) as caught:
        await here.execute(msgspec.structs.replace(complete, result={"late": True}), caller(4))
    assert caught.value.code == "stale_fence"
    assert (await here.load("task", TASK)).status == "completed"


async def rival_cancel(log: MemoryLog) -> None:
    """Somebody says something that changes nothing, through a bus of their own."""
    mine = await log.read(SUBJECT)
    number = 1000 + len(mine)
    await bus_on(_plain(log)).execute(CancelTask(task_id=TASK), caller(number))


def _plain(log: MemoryLog) -> MemoryLog:
    """The same log without what a subclass adds."""
    plain = MemoryLog()
    plain.__dict__ = log.__dict__
    return plain


@pytest.mark.parametrize("conflicts", [1, TRIES_MAX - 1])
async def test_a_command_survives_some_conflicts(conflicts: int) -> None:
    log = RivalLog(rival_cancel, 0)
    bus = bus_on(log)
    await bus.execute(submit(), caller(1))
    log.times, log.tries = conflicts, 0
    accepted = await bus.execute(CancelTask(task_id=TASK), caller(2))
    assert (accepted.position, log.tries) == (2 + conflicts, conflicts + 1)


async def test_a_command_that_always_loses_gives_up_with_a_clear_error() -> None:
    log = RivalLog(rival_cancel, 0)
    bus = bus_on(log)
    await bus.execute(submit(), caller(1))
    log.times, log.tries = 99, 0
    with pytest.raises(Unavailable) as caught:
        await bus.execute(CancelTask(task_id=TASK), caller(2))
    assert (caught.value.code, caught.value.retry_after_s, log.tries) == ("contended", 1, TRIES_MAX)
    log.times = 0
    assert not (await bus.execute(CancelTask(task_id=TASK), caller(2))).repeated


# Lost acknowledgements


async def test_ones_own_commit_behind_a_conflict_is_success() -> None:
    log = LossyLog()
    bus = bus_on(log)
    await bus.execute(submit(), caller(1))
    log.loses = Conflict
    accepted = await bus.execute(CancelTask(task_id=TASK), caller(2))
    assert answered(accepted) == (2, TASK, [], True)
    assert accepted.state.status == "cancelled"
    assert await log.head() == 2


@pytest.mark.parametrize("stored", [True, False])
async def test_after_an_unknown_outcome_the_log_is_read_again_and_a_repeat_finds_the_truth(stored: bool) -> None:
    log = LossyLog()
    bus = bus_on(log)
    await bus.execute(submit(), caller(1))
    log.loses, log.stores = OutcomeUnknown, stored
    with pytest.raises(OutcomeUnknown):
        await bus.execute(CancelTask(task_id=TASK), caller(2))
    assert (await bus.load("task", TASK)).status == ("cancelled" if stored else "queued")
    again = await bus.execute(CancelTask(task_id=TASK), caller(2))
    assert (again.position, again.repeated, again.state.status) == (2, stored, "cancelled")
    assert await log.head() == 2


# The cache


async def test_a_cached_aggregate_is_not_read_again_until_its_time_is_over() -> None:
    log, clock = CountingLog(), ManualClock()
    bus = bus_on(log, clock=clock, cache_ttl_s=10.0)
    await bus.execute(submit(), caller(1))
    for _ in range(3):  # each use makes it young again
        clock.advance(10.0)
        await bus.position_of("task", TASK)
    assert log.reads == 0
    clock.advance(10.5)
    await bus.position_of("task", TASK)
    assert log.reads == 1


async def test_the_cache_is_bounded_and_what_fell_out_is_read_again() -> None:
    log = CountingLog()
    bus = bus_on(log, cache_max=2)
    for number in (1, 2, 3):
        await bus.execute(submit(), caller(number))
    assert len(bus._cache._items) == 2
    await bus.position_of("task", str(derive(command_id(3), "task")))
    assert log.reads == 0
    assert await bus.position_of("task", TASK) == 1
    assert log.reads == 1


async def test_many_commands_at_once_on_one_aggregate_all_succeed_in_some_order(
    bus: CommandBus, log: MemoryLog
) -> None:
    await bus.execute(submit(), caller(1))
    commands = [bus.execute(CancelTask(task_id=TASK), caller(number)) for number in range(2, 66)]
    async with asyncio.timeout(DEADLINE_S):
        answers = await asyncio.gather(*commands)
    assert sorted(answer.position for answer in answers) == list(range(2, 66))
    assert [commit.body.version for commit in await commits_of(log)] == list(range(1, 66))


# Newer programs


async def test_an_aggregate_that_a_newer_program_wrote_to_is_not_decided_here(log: MemoryLog) -> None:
    body = msgspec.json.decode(CODEC.encode(events=[TaskQueued()], **ENVELOPE))
    body["events"].append({"type": "task.delegated", "schema": 1, "data": {"to": "x"}})
    await bus_on(log).execute(submit(), caller(1))
    await log.append(SUBJECT, str(command_id(9)), msgspec.json.encode(body), expected=1)
    bus = bus_on(log)
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            await bus.execute(CancelTask(task_id=TASK), caller(2))
        assert (caught.value.code, caught.value.status) == ("upgrade_in_progress", 503)
    assert await log.head() == 2


# Replay equals live


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["submit", "cancel", "assign", "complete", "start"]), st.integers(1, 3), st.booleans()),
    max_size=25,
)


@settings(max_examples=50)
@sampled(ACTIONS)
async def test_a_fresh_bus_reads_the_state_that_the_last_accepted_command_answered(
    actions: list[tuple[str, int, bool]],
) -> None:
    log = MemoryLog()
    buses = (bus_on(log), bus_on(log))
    answered_last: dict[str, Accepted] = {}
    for step, (kind, which, first) in enumerate(actions):
        task_id = str(derive(command_id(which), "task"))
        fence = next((entry.position for entry in reversed(await log.read(subject_of("task", task_id)))), 0)
        command: Any = {
            "submit": submit(retry=Retry(max_attempts=1)),
            "cancel": CancelTask(task_id=task_id),
            "assign": AssignTask(task_id=task_id, agent_id="a", host_id="h", session="s1", term=1),
            "complete": CompleteTask(task_id=task_id, fence=fence, started_ms=NOW_MS, result={}),
            "start": StartTask(task_id=task_id, fence=fence, started_ms=NOW_MS),
        }[kind]
        try:
            bus = buses[0] if first else buses[1]
            accepted = await bus.execute(command, caller(which if isinstance(command, SubmitTask) else 100 + step))
        except (Refused, NotFound):
            continue
        if accepted.events:
            answered_last[task_id] = accepted
    for task_id, accepted in answered_last.items():
        fresh = bus_on(log)
        assert await fresh.load("task", task_id) == accepted.state
        assert await fresh.position_of("task", task_id) == accepted.position
        entries = await log.read(subject_of("task", task_id))
        assert [CODEC.decode(entry).body.version for entry in entries] == list(range(1, len(entries) + 1))
