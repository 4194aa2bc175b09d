"""The log trimmed: what goes, what stays, and what a command to the trimmed is answered."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import pytest

import adapters.memory.log
import core.services.trim
from adapters.memory.care import MemoryCare
from adapters.memory.log import MemoryLog
from adapters.memory.store import MemoryStore
from core.kernel.command_bus import CommandBus
from core.kernel.commit import subject_of
from core.kernel.errors import Gone, KeyReused, Refused, Unavailable, Unprocessable
from core.kernel.ids import derive
from core.kernel.merkle import Frontier, head_message, leaf_hash
from core.services.dependencies import looked_up
from core.services.heads import Heads
from core.services.positions import PositionGate
from core.services.recorder import Recorder
from core.services.trim import Trimmer, TrimOrder, TrimState
from core.task import AssignTask, CancelChild, CancelTask, CompleteTask, DependencyEnd, QueueTask, SettleDependencies
from tests.given import (
    CODEC,
    DEADLINE_S,
    NOW_MS,
    REGISTRY,
    ManualClock,
    caller,
    command_id,
    quiet,
    running,
    submit,
    until,
)


class HashSigner:
    """Signs with a hash: what is signed is all that a test wants to know."""

    key_id = "hash"

    def sign(self, message: bytes) -> bytes:
        return hashlib.sha512(message).digest()


@dataclass
class World:
    """A bus on a log, a store that has recorded it, and the trimmer."""

    clock: ManualClock = field(default_factory=ManualClock)
    log: MemoryLog = field(default_factory=MemoryLog)
    store: MemoryStore = field(default_factory=MemoryStore)
    recorded: PositionGate = field(default_factory=PositionGate)
    forgotten: list[str] = field(default_factory=list)
    backup: int | None = 10_000
    folded: int = 10_000
    budgets: int = 10_000
    whole: bool = True

    def __post_init__(self) -> None:
        self.kept = MemoryCare(self.store)
        self.heads = Heads(self.store, self.kept, HashSigner(), self.recorded, self.clock)
        self.bus = self.new_bus()
        self.trimmer = Trimmer(
            self.log,
            self.store,
            self.kept,
            self.heads,
            CODEC,
            REGISTRY,
            self.clock,
            folded=lambda: self.folded,
            budgets=lambda: self.budgets,
            backed_up=lambda: self.backup,
            whole=lambda: self.whole,
            on_purged=self.forgotten.append,
        )

    def new_bus(self) -> CommandBus:
        """As after a restart: nothing is cached."""
        return CommandBus(self.log, REGISTRY, CODEC, self.clock, self.store)

    async def record(self) -> None:
        recorder = Recorder(self.log, self.store, CODEC, self.clock, on_recorded=self.recorded.advance)
        async with running(recorder.run()):
            assert await self.recorded.wait_for(await self.log.head(), DEADLINE_S)

    async def trim(self, older: str = "1h", *, dry_run: bool = False, without_backup: bool = False) -> TrimState:
        async with running(self.trimmer.run()):
            self.trimmer.start(TrimOrder(older=older, dry_run=dry_run, without_backup=without_backup), "key:1")
            await until(lambda: self.trimmer.state.state != "running", "the trim to end")
        return self.trimmer.state

    async def finish(self, number: int) -> str:
        """A task, submitted under a key and completed: three commits on its subject; its id."""
        task_id = str(derive(command_id(number), "task"))
        submitted = await self.bus.execute(submit(), caller(number, keyed=True))
        assign = AssignTask(task_id=task_id, agent_id="a", host_id="h", session="s1", term=1)
        fence = (await self.bus.execute(assign, caller(number + 1))).position
        done = CompleteTask(task_id=task_id, fence=fence, started_ms=NOW_MS, result={})
        await self.bus.execute(done, caller(number + 2))
        assert submitted.aggregate_id == task_id
        return task_id

    async def held(self) -> dict[str, int]:
        return await self.log.subjects(offset=0)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(core.services.trim, "SEARCH_MAX", 0)
    return World()


@pytest.fixture
async def old(world: World) -> str:
    """Given a completed task of two hours ago, and a fresh one that waits."""
    task_id = await world.finish(1)
    await world.record()
    world.clock.advance(7200)
    await world.bus.execute(submit(), caller(9))
    await world.record()
    return task_id


def task(task_id: str) -> str:
    return subject_of("task", task_id)


# --- what goes --------------------------------------------------------------------------------------------------------


async def test_what_ended_before_the_age_goes_and_the_rest_stays(world: World, old: str) -> None:
    young = str(derive(command_id(9), "task"))
    state = await world.trim()
    assert (state.state, state.examined, state.subjects, state.commits) == ("done", 2, 1, 3)
    assert (state.limit, state.limited_by) == (3, "age")
    assert list(await world.held()) == [task(young)]
    assert world.forgotten == [task(old)]
    assert await world.kept.trimmed_to() == 3
    assert await world.log.head() == 4


async def test_what_has_not_ended_stays_however_old(world: World) -> None:
    await world.bus.execute(submit(), caller(1))
    await world.bus.execute(QueueTask(task_id=str(derive(command_id(1), "task"))), caller(2))
    await world.record()
    world.clock.advance(7200)
    await world.record()
    assert (await world.trim()).subjects == 0


async def test_every_page_of_subjects_is_looked_at_although_pages_shrink(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters.memory.log, "BATCH_MAX", 2)
    for number in range(10, 80, 10):
        await world.finish(number)
    await world.bus.execute(submit(), caller(90))
    await world.record()
    world.clock.advance(7200)
    await world.record()
    for dry_run in (True, False):
        state = await world.trim(dry_run=dry_run)
        assert (state.examined, state.subjects, state.commits) == (8, 7, 21)
    assert len(await world.held()) == 1


async def test_a_dry_run_counts_and_changes_nothing(world: World, old: str) -> None:
    before = await world.held()
    state = await world.trim(dry_run=True)
    assert (state.dry_run, state.subjects, state.commits) == (True, 1, 3)
    assert (await world.held(), await world.kept.trimmed_to(), world.forgotten) == (before, 0, [])


async def test_a_refusal_is_over_as_soon_as_it_is_said(world: World, old: str) -> None:
    with pytest.raises(Refused):
        await world.bus.execute(CancelTask(task_id=old), caller(20))
    await world.record()
    world.clock.advance(7200)
    await world.bus.execute(submit(), caller(30))
    await world.record()
    await world.trim()
    assert not any("refusal" in subject for subject in await world.held())


async def test_a_wish_that_was_already_fulfilled_does_not_keep_what_ended(world: World) -> None:
    await world.bus.execute(submit(), caller(1))
    task_id = str(derive(command_id(1), "task"))
    await world.bus.execute(CancelTask(task_id=task_id), caller(2))
    await world.bus.execute(CancelTask(task_id=task_id), caller(3))
    await world.record()
    world.clock.advance(7200)
    await world.record()
    assert (await world.trim()).commits == 3


@pytest.mark.parametrize("bound", ["backup", "folded", "budgets", "newest", "recorded"])
async def test_nothing_beyond_a_bound_goes(world: World, old: str, bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 2
    match bound:
        case "backup":
            world.backup = 2
        case "folded":
            world.folded = 2
        case "budgets":
            world.budgets = 2
        case "newest":
            monkeypatch.setattr(core.services.trim, "SEARCH_MAX", 2)
        case "recorded":
            # The age asks the store, so nothing that it lacks is ever old enough.
            await world.finish(40)
            limit = 4
    state = await world.trim("0s")
    assert state.limit == limit
    assert state.subjects == (1 if bound == "recorded" else 0)


async def test_without_a_backup_nothing_is_trimmed_unless_it_is_said(world: World, old: str) -> None:
    world.backup = None
    with pytest.raises(Refused) as refused:
        await world.trim()
    assert refused.value.code == "no_backup"
    assert (await world.trim(without_backup=True)).subjects == 1


async def test_the_trimmed_is_under_a_signed_head(world: World, old: str) -> None:
    await world.trim()
    head = await world.kept.newest_head()
    frontier = Frontier()
    for position in range(1, 5):
        stored = (await world.store.read(after=position - 1, limit=1))[0].entry
        frontier.append(leaf_hash(position, stored.subject, stored.body))
    assert head is not None
    assert (head.size, head.root, head.key_id) == (4, frontier.root(), "hash")
    assert head.signature == HashSigner().sign(head_message(4, frontier.root(), head.signed_ms))


async def test_one_trim_at_a_time(world: World, old: str) -> None:
    world.trimmer.start(TrimOrder(older="1h"), "key:1")
    with pytest.raises(Refused) as refused:
        world.trimmer.start(TrimOrder(older="1h"), "key:1")
    assert refused.value.code == "trim_runs"


@pytest.mark.parametrize("older", ["", "30", "d", "-1d", "30 d", "1w", "1.5h"])
async def test_an_age_that_is_none_is_refused(world: World, older: str) -> None:
    with pytest.raises(Unprocessable):
        world.trimmer.start(TrimOrder(older=older), "key:1")


async def test_nothing_is_purged_while_the_log_is_not_known_to_be_whole(world: World, old: str) -> None:
    world.whole = False
    state = await world.trim()
    assert (state.state, state.subjects) == ("failed", 0)
    assert state.problem
    assert task(old) in await world.held()


async def test_a_trim_that_ended_early_goes_on_when_it_is_ordered_again(world: World, old: str) -> None:
    purge = world.log.purge

    async def refuses(subject: str, *, through: int) -> int:
        raise Unavailable("no")

    world.log.purge = refuses  # type: ignore[method-assign]
    assert (await world.trim()).state == "failed"
    assert await world.kept.trimmed_to() == 3
    world.log.purge = purge  # type: ignore[method-assign]
    assert (await world.trim()).subjects == 1


# --- what a command to the trimmed is answered ------------------------------------------------------------------------


async def test_a_late_duplicate_of_a_trimmed_creation_is_answered_and_creates_nothing(world: World, old: str) -> None:
    await world.trim()
    head = await world.log.head()
    for bus in (world.bus, world.new_bus()):
        again = await bus.execute(submit(), caller(1, keyed=True))
        assert (again.position, again.aggregate_id, again.repeated) == (1, old, True)
        assert again.state.status == "completed"
        with pytest.raises(KeyReused):
            await bus.execute(submit(priority=9), caller(1, keyed=True))
    later = [await world.log.entry(position) for position in range(head + 1, await world.log.head() + 1)]
    assert {entry.subject.split(".")[2] for entry in later if entry} == {"refusal"}


async def test_a_command_to_a_trimmed_aggregate_is_gone_and_leaves_nothing_there(world: World, old: str) -> None:
    await world.trim()
    bus = world.new_bus()
    with pytest.raises(Gone) as gone:
        await bus.execute(CancelTask(task_id=old), caller(50))
    assert (gone.value.status, gone.value.code) == (410, "trimmed_task")
    assert task(old) not in await world.held()


async def test_the_state_of_a_trimmed_aggregate_comes_from_the_store(world: World, old: str) -> None:
    before = await world.bus.load("task", old)
    await world.trim()
    bus = world.new_bus()
    assert (await bus.load("task", old), await bus.position_of("task", old)) == (before, 3)


async def test_what_depends_on_a_trimmed_task_finds_how_it_ended_in_the_store(world: World, old: str) -> None:
    await world.trim()
    bus = world.new_bus()
    dependent = await bus.execute(submit(depends_on=[old]), caller(60))
    alive = await bus.execute(submit(), caller(61))
    command = SettleDependencies(task_id=dependent.aggregate_id, look_up=[old])
    settled = await looked_up(bus, command)
    assert settled == SettleDependencies(
        task_id=dependent.aggregate_id, ends=[DependencyEnd(task=old, status="completed", position=3)]
    )
    assert settled is not None
    await bus.execute(settled, caller(62))
    assert (await bus.load("task", dependent.aggregate_id)).status == "queued"
    with pytest.raises(Unavailable, match="has not ended"):
        await looked_up(bus, SettleDependencies(task_id=dependent.aggregate_id, look_up=[alive.aggregate_id]))
    # A part that came after its parent's end is called back; one that came before goes on.
    late = CancelChild(task_id=dependent.aggregate_id, reason="x", look_up=old)
    assert isinstance(await looked_up(bus, late), CancelChild)
    assert await looked_up(bus, CancelChild(task_id=old, reason="x", look_up=alive.aggregate_id)) is None


async def test_a_bus_that_still_holds_what_another_process_trimmed_reads_again(world: World) -> None:
    await world.bus.execute(submit(), caller(1))
    task_id = str(derive(command_id(1), "task"))
    await world.bus.execute(CancelTask(task_id=task_id), caller(2))
    await world.record()
    await world.log.purge(task(task_id), through=2)
    with pytest.raises(Unavailable) as contended:
        await world.bus.execute(CancelTask(task_id=task_id), caller(3))
    assert contended.value.code == "contended"
    with pytest.raises(Gone):
        await world.bus.execute(CancelTask(task_id=task_id), caller(3))


async def test_a_log_that_lost_only_the_start_of_a_subject_is_completed_from_the_store(world: World, old: str) -> None:
    await world.log.purge(task(old), through=2)
    assert (await world.new_bus().load("task", old)).status == "completed"


# --- signed heads -----------------------------------------------------------------------------------------------------


async def test_a_head_is_signed_when_enough_is_new_and_not_again_before_there_is_more(world: World, old: str) -> None:
    heads = Heads(world.store, world.kept, HashSigner(), world.recorded, world.clock, every_commits=4, every_s=1e6)
    async with running(heads.run()):
        await until(lambda: bool(world.kept._heads), "a head")
        for number in (50, 53):
            await world.finish(number)
            await world.record()
            world.clock.advance(2)
            await quiet()
        await until(lambda: sorted(world.kept._heads) == [4, 10], "the next head")


async def test_a_head_is_signed_when_its_time_has_come_if_there_is_anything_new(world: World, old: str) -> None:
    heads = Heads(world.store, world.kept, HashSigner(), world.recorded, world.clock, every_commits=10**6, every_s=0.01)
    async with running(heads.run()):
        await until(lambda: sorted(world.kept._heads) == [4], "a head")
        world.clock.advance(2)
        await quiet()
        assert sorted(world.kept._heads) == [4]
