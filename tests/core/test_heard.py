"""What one process hears on the log of what another appended: fewer reads, the same decisions."""

from __future__ import annotations

import asyncio

import pytest

from adapters.memory.log import MemoryLog
from adapters.memory.store import MemoryStore
from core.kernel.command_bus import CommandBus
from core.kernel.commit import Entry
from core.kernel.errors import Refused
from core.kernel.ids import derive
from core.task import AssignTask, CancelTask, CompleteTask
from tests.given import CODEC, NOW_MS, REGISTRY, ManualClock, caller, command_id, submit

TASK = str(derive(command_id(1), "task"))
TTL_S = 60.0
ASSIGN = AssignTask(task_id=TASK, agent_id="a", host_id="h", session="s", term=1)


class CountingLog(MemoryLog):
    """Counts what is read, and acknowledges what is appended when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.acknowledge = asyncio.Event()
        self.acknowledge.set()
        self.stored = asyncio.Event()

    async def append(self, subject: str, commit_id: str, body: bytes, *, expected: int) -> int:
        position = await super().append(subject, commit_id, body, expected=expected)
        if not self.acknowledge.is_set():
            self.stored.set()
        await self.acknowledge.wait()
        return position

    async def read(self, subject: str, *, after: int = 0) -> list[Entry]:
        self.reads += 1
        return await super().read(subject, after=after)


class Process:
    """A bus, and how far its follower of the log has come."""

    def __init__(self, log: CountingLog, clock: ManualClock) -> None:
        self.log = log
        self.bus = CommandBus(log, REGISTRY, CODEC, clock, MemoryStore(), cache_ttl_s=TTL_S)
        self.followed_to = 0

    async def follow(self) -> None:
        """Hear all that the log holds and was not heard before."""
        while self.followed_to < await self.log.head():
            self.followed_to += 1
            entry = await self.log.entry(self.followed_to)
            assert entry is not None
            self.bus.heard(CODEC.decode(entry))

    async def reads(self, command: object, number: int) -> int:
        """How often a command read the log."""
        before = self.log.reads
        await self.bus.execute(command, caller(number))  # type: ignore[arg-type]
        return self.log.reads - before


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def log() -> CountingLog:
    return CountingLog()


@pytest.fixture
def api(log: CountingLog, clock: ManualClock) -> Process:
    return Process(log, clock)


@pytest.fixture
def scheduler(log: CountingLog, clock: ManualClock) -> Process:
    return Process(log, clock)


async def test_who_heard_of_a_task_decides_on_it_without_a_read(api: Process, scheduler: Process) -> None:
    await api.bus.execute(submit(), caller(1))
    await scheduler.follow()
    assert await scheduler.reads(ASSIGN, 2) == 0
    await api.follow()
    done = CompleteTask(task_id=TASK, fence=2, started_ms=NOW_MS, result={})
    assert await api.reads(done, 3) == 0
    assert (await scheduler.bus.load("task", TASK)).status == "completed"


async def test_who_did_not_hear_of_it_reads_it(api: Process, scheduler: Process) -> None:
    await api.bus.execute(submit(), caller(1))
    assert await scheduler.reads(ASSIGN, 2) == 1


async def test_own_commits_are_heard_and_change_nothing(api: Process) -> None:
    await api.bus.execute(submit(), caller(1))
    await api.bus.execute(CancelTask(task_id=TASK), caller(2))
    before = await api.bus.load("task", TASK)
    await api.follow()
    assert (await api.bus.load("task", TASK), await api.bus.position_of("task", TASK)) == (before, 2)


async def test_what_is_heard_after_a_gap_is_left_to_a_read(api: Process, scheduler: Process) -> None:
    await api.bus.execute(submit(), caller(1))
    await api.bus.execute(ASSIGN, caller(2))
    scheduler.followed_to = 1
    await scheduler.follow()
    assert await scheduler.reads(CancelTask(task_id=TASK), 3) == 1


async def test_what_is_older_than_the_cache_keeps_is_not_taken_in(
    api: Process, scheduler: Process, clock: ManualClock
) -> None:
    await api.bus.execute(submit(), caller(1))
    clock.advance(TTL_S + 1)
    await scheduler.follow()
    assert await scheduler.reads(ASSIGN, 2) == 1


async def test_a_repeat_is_known_from_what_was_heard(api: Process, scheduler: Process) -> None:
    await api.bus.execute(submit(), caller(1))
    first = await api.bus.execute(CancelTask(task_id=TASK), caller(2))
    await scheduler.follow()
    again = await scheduler.bus.execute(CancelTask(task_id=TASK), caller(2))
    assert (again.repeated, again.position) == (True, first.position)


async def test_a_refusal_is_decided_on_the_log_and_not_on_what_was_heard(api: Process, scheduler: Process) -> None:
    await api.bus.execute(submit(), caller(1))
    await scheduler.follow()
    await api.bus.execute(CancelTask(task_id=TASK), caller(2))
    with pytest.raises(Refused):
        await scheduler.bus.execute(ASSIGN, caller(3))
    assert await scheduler.bus.position_of("task", TASK) == 2


async def test_an_own_commit_that_is_heard_before_its_acknowledgement_is_folded_once(
    api: Process, log: CountingLog
) -> None:
    await api.bus.execute(submit(), caller(1))
    log.acknowledge.clear()
    assigning = asyncio.create_task(api.bus.execute(ASSIGN, caller(2)))
    await log.stored.wait()
    await api.follow()
    log.acknowledge.set()
    await assigning
    await api.bus.execute(CancelTask(task_id=TASK), caller(3))
    entries = [await log.entry(position) for position in (1, 2, 3)]
    assert [CODEC.decode(entry).body.version for entry in entries if entry is not None] == [1, 2, 3]
