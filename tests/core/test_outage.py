"""A database that is away: recorder and projector wait, say so, and write every position exactly once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest

from adapters.clock import SystemClock
from adapters.memory.store import MemoryStore
from core.kernel.commit import Commit
from core.kernel.errors import Unavailable
from core.kernel.ports import Checkpoint, CheckpointMoved, Recording, Stored
from core.services.positions import PositionGate
from core.services.projector import Projector
from core.services.recorder import Recorder
from tests.given import CODEC, DEADLINE_S, History, appended, running, spawned, started

AWAY = Unavailable("The database is away.", code="database_unavailable")


class FailingStore(MemoryStore):
    """Follows a script: for each record `ok`, `away` (nothing written) or `lost` (written, and the answer too)."""

    def __init__(self, *script: str) -> None:
        super().__init__()
        self.script = list(script)
        self.recorded = 0

    async def record(self, recordings: Sequence[Recording], *, old: Checkpoint, new: Checkpoint) -> Collection[int]:
        step = "ok" if not self.script or self.script[0] == "checkpoint away" else self.script.pop(0)
        if step == "away":
            raise AWAY
        repeats = await super().record(recordings, old=old, new=new)
        self.recorded += 1
        if step == "lost":
            raise AWAY
        return repeats

    async def checkpoint(self) -> Checkpoint:
        if self.script and self.script[0] == "checkpoint away":
            self.script.pop(0)
            raise AWAY
        return await super().checkpoint()


class FailingViews:
    """Views whose applies follow the same kind of script."""

    def __init__(self, *script: str) -> None:
        self.script = list(script)
        self.position = 0
        self.durable = 0
        self.folded: list[int] = []

    async def apply(self, commits: Sequence[Commit], position: int) -> None:
        step = self.script.pop(0) if self.script else "ok"
        if step == "away":
            raise AWAY
        self.folded += [commit.position for commit in commits]
        self.durable = position
        if step == "lost":
            raise AWAY
        self.position = position

    async def refresh(self) -> None:
        if self.script and self.script[0] == "refresh away":
            self.script.pop(0)
            raise AWAY
        self.position = self.durable


def a_history() -> History:
    history = History()
    history.commit("agent", "a", spawned())
    history.commit("agent", "a", started())
    return history


@pytest.mark.parametrize(
    "script",
    [
        ("away",),
        ("away", "away", "away"),
        ("lost",),
        ("lost", "checkpoint away", "checkpoint away"),
        ("checkpoint away", "lost"),
    ],
)
async def test_a_recorder_waits_for_its_store_and_writes_each_position_once(
    script: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    history = a_history()
    store, gate = FailingStore(*script), PositionGate()
    recorder = Recorder(await appended(history), store, CODEC, SystemClock(), on_recorded=gate.advance)
    async with running(recorder.run()):
        assert await gate.wait_for(history.head, DEADLINE_S)
    assert [stored.entry for stored in await store.read(after=0, limit=9)] == history.entries
    assert (store.recorded, store.script, recorder.trouble) == (1, [], None)
    said = [line.message for line in caplog.records]
    assert any("Recording waits" in line for line in said)
    assert any("Recording goes on" in line for line in said)


async def test_a_rival_that_wrote_during_the_outage_stops_the_recorder() -> None:
    history = a_history()

    class Taken(FailingStore):
        async def record(self, recordings: Sequence[Recording], *, old: Checkpoint, new: Checkpoint) -> Collection[int]:
            await MemoryStore.record(self, recordings[:1], old=old, new=Checkpoint(1, 7, (bytes(32),)))
            raise AWAY

    with pytest.raises(CheckpointMoved):
        await Recorder(await appended(history), Taken(), CODEC, SystemClock()).run()


@pytest.mark.parametrize(
    "script", [("away",), ("lost",), ("lost", "refresh away", "refresh away"), ("away", "away", "lost")]
)
async def test_views_wait_for_their_database_and_fold_each_position_once(script: tuple[str, ...]) -> None:
    history = a_history()
    store, recorded, applied = FailingStore(), PositionGate(), PositionGate()
    views = FailingViews(*script)
    projector = Projector(store, views, CODEC, recorded, applied.advance)
    recorder = Recorder(await appended(history), store, CODEC, SystemClock(), on_recorded=recorded.advance)
    async with running(recorder.run(), projector.run()):
        assert await applied.wait_for(history.head, DEADLINE_S)
    assert (views.folded, views.script, projector.trouble) == ([1, 2], [], None)


async def test_while_it_waits_a_projector_says_for_what() -> None:
    class Away(MemoryStore):
        async def read(self, *, after: int, limit: int) -> list[Stored]:
            told.advance(1)
            raise AWAY

    told = PositionGate()
    projector = Projector(Away(), FailingViews(), CODEC, PositionGate(), lambda position: None)
    async with running(projector.run()):
        assert await told.wait_for(1, DEADLINE_S)
        assert projector.trouble in (None, AWAY.sentence)
    assert projector.trouble == AWAY.sentence
