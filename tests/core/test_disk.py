"""The high-water marks of the disk: pure levels, what each refuses, and how everybody waits for its end."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest

from adapters.memory.store import MemoryStore
from core.actions import AGGREGATES
from core.kernel.commit import Commit
from core.kernel.errors import LogFull, Unavailable
from core.kernel.ports import Checkpoint, Recording
from core.kernel.registry import CommandSpec, Registry, Scope
from core.services import projector as projector_module
from core.services.disk import RESERVE_BYTES, DiskGuard, Level, Marks, Space, level_of
from core.services.positions import PositionGate
from core.services.projector import Projector
from core.services.recorder import Recorder
from tests.core.test_dispatch import World
from tests.given import ManualClock, running, submit, until

MB, GB, TB = 10**6, 10**9, 10**12
MARKS = Marks(enough_bytes=10 * GB)
REGISTRY = Registry(AGGREGATES)

FINISHING = ["agent.retire", "alert.acknowledge", "task.cancel", "task.reject"]


class Steps:
    """A disk whose free space is told by the test."""

    path = "/data"

    def __init__(self, total: int, free: int) -> None:
        self.space = Space(total, free)
        self.broken = False

    async def measure(self) -> Space:
        if self.broken:
            raise OSError("stale file handle")
        return self.space

    def leave(self, free: int) -> None:
        self.space = Space(self.space.total, free)


@pytest.mark.parametrize(
    ("total", "free", "level"),
    [
        (100 * MB, 21 * MB, Level.OK),
        (100 * MB, 20 * MB, Level.WARN),
        (100 * MB, 11 * MB, Level.WARN),
        (100 * MB, 10 * MB, Level.FULL),
        (100 * MB, 2 * MB, Level.FULL),
        (100 * MB, 2 * MB - 1, Level.EXHAUSTED),
        (40 * GB, 8 * GB, Level.WARN),
        (40 * GB, 4 * GB, Level.FULL),
        (40 * GB, RESERVE_BYTES - 1, Level.EXHAUSTED),
        # A share of a large disk is a lot of space.
        (1 * TB, 90 * GB, Level.OK),
        (1 * TB, 10 * GB, Level.OK),
        (1 * TB, 10 * GB - 1, Level.WARN),
        (1 * TB, 5 * GB - 1, Level.FULL),
        (0, 0, Level.OK),
    ],
)
def test_a_disk_is_full_by_share_and_by_bytes(total: int, free: int, level: Level) -> None:
    assert level_of(Space(total, free), MARKS) is level


def test_only_what_ends_work_is_declared_to_finish() -> None:
    assert sorted(spec.name for spec in REGISTRY.commands.values() if spec.finishes) == FINISHING


async def guarded(free: int) -> tuple[DiskGuard, Steps, list[bool]]:
    heard: list[bool] = []
    disk = Steps(100 * MB, free)
    guard = DiskGuard(disk, MARKS, ManualClock(), heard.append)
    await guard.look()
    return guard, disk, heard


def refused(guard: DiskGuard) -> set[str]:
    """The commands that the guard does not let through."""

    def is_refused(spec: CommandSpec) -> bool:
        try:
            guard.refuse(spec)
        except LogFull as error:
            return error.code == "disk_full" and "/data" in error.remedy
        return False

    return {spec.name for spec in REGISTRY.commands.values() if is_refused(spec)}


@pytest.mark.parametrize("free", [90 * MB, 15 * MB])
async def test_up_to_the_second_mark_everything_is_accepted(free: int) -> None:
    guard, _, _ = await guarded(free)

    assert refused(guard) == set()
    guard.refuse_growth()


@pytest.mark.parametrize("free", [9 * MB, 0])
async def test_on_a_full_disk_callers_may_only_end_work(free: int) -> None:
    guard, _, _ = await guarded(free)

    begin = {s.name for s in REGISTRY.commands.values() if s.scope is Scope.CLIENT} - set(FINISHING)
    assert refused(guard) == begin
    with pytest.raises(LogFull):
        guard.refuse_growth()


async def test_appends_stop_at_the_reserve_and_go_on_above_it() -> None:
    guard, disk, heard = await guarded(50 * MB)

    for free in (5 * MB, 1 * MB, 0, 5 * MB, 50 * MB):
        disk.leave(free)
        await guard.look()

    assert heard == [True, False]
    assert guard.level is Level.OK


async def test_a_disk_that_cannot_be_measured_keeps_its_level() -> None:
    guard, disk, _ = await guarded(5 * MB)

    disk.broken = True

    assert await guard.look() is Level.FULL


async def test_the_guard_measures_again_and_again() -> None:
    clock, disk = ManualClock(), Steps(100 * MB, 50 * MB)
    guard = DiskGuard(disk, MARKS, clock)
    async with running(guard.run()):
        await until(lambda: clock.sleeping == 1, "the first look")
        disk.leave(0)
        clock.advance(1.0)
        await until(lambda: guard.level is Level.EXHAUSTED, "the second look")


async def test_a_refused_command_leaves_nothing_on_the_log() -> None:
    world = World()
    guard, _, _ = await guarded(5 * MB)
    world.door._refuse = guard.refuse

    with pytest.raises(LogFull):
        await world.says(submit())

    assert await world.log.head() == 0


# --- who waits for the disk -------------------------------------------------------------------------------------------


class Stubborn(MemoryStore):
    """A store on a full disk: it refuses the first writes, after having taken them where `taken` says so."""

    def __init__(self, refusals: int, *, taken: bool) -> None:
        super().__init__()
        self.refusals = refusals
        self.taken = taken
        self.tries = 0

    async def record(self, recordings: Sequence[Recording], *, old: Checkpoint, new: Checkpoint) -> Collection[int]:
        self.tries += 1
        if self.tries > self.refusals:
            return await super().record(recordings, old=old, new=new)
        if self.taken:
            await super().record(recordings, old=old, new=new)
        raise Unavailable("The store cannot be written: database or disk is full.")


@pytest.mark.parametrize(("refusals", "taken", "tries"), [(3, False, 4), (1, True, 2)])
async def test_the_recorder_waits_for_the_disk_and_writes_each_commit_once(
    refusals: int, taken: bool, tries: int
) -> None:
    world = World()
    await world.says(submit())
    head = await world.log.head()
    store = Stubborn(refusals, taken=taken)
    recorder = Recorder(world.log, store, world.codec, world.clock)

    async with running(recorder.run()):
        for _ in range(refusals):
            await until(lambda: world.clock.sleeping == 1, "the recorder to wait")
            world.clock.advance(1.0)
        await until(lambda: recorder.position == head, "the record")

    assert (await store.checkpoint()).position == head
    assert len(await store.read(after=0, limit=10)) == head
    assert store.tries == tries


class FullViews:
    """Views that the disk refuses to write, a few times."""

    def __init__(self, refusals: int) -> None:
        self.position = 0
        self.refusals = refusals
        self.applied: list[int] = []

    async def apply(self, commits: Sequence[Commit], position: int) -> None:
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("The views cannot be written: database or disk is full.")
        self.applied += [commit.position for commit in commits]
        self.position = position

    async def refresh(self) -> None:
        """Nothing was written that is not known."""


async def test_the_views_wait_for_the_disk_and_fold_each_commit_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projector_module, "RETRY_S", 0.0)
    world = World()
    await world.says(submit())
    await world.record()
    head = await world.log.head()
    views, applied = FullViews(3), PositionGate()

    async with running(Projector(world.store, views, world.codec, PositionGate(head), applied.advance).run()):
        await until(lambda: applied.position == head, "the views")

    assert views.applied == list(range(1, head + 1))
