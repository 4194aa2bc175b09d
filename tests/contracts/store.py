"""What every Store promises. A store's own test file is only the factory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from uuid import UUID

import pytest

from core.kernel.commit import Entry
from core.kernel.ids import derive
from core.kernel.merkle import leaf_hash
from core.kernel.ports import Checkpoint, CheckpointMoved, Recording, Remembered, Store, Stored

START = Checkpoint()
ROOT = UUID("01900000-0000-7000-8000-000000000000")


def commit(
    position: int,
    subject: str = "hive.log.task.a",
    *,
    commit_id: str = "",
    command: int = 0,
    actor: str = "ada",
    remembered: bool = True,
) -> Recording:
    """A recording at a position; the ids follow from the numbers."""
    entry = Entry(position, subject, commit_id or str(derive(ROOT, f"commit {position}")), b"body %d" % position)
    return Recording(
        entry=entry,
        leaf=leaf_hash(position, subject, entry.body),
        version=position,
        command="task.submit",
        command_id=derive(ROOT, f"command {command or position}") if remembered else None,
        fingerprint=f"fingerprint {position}",
        actor=actor,
    )


def parked(position: int, *, commit_id: str = "") -> Recording:
    """A recording that the recorder could not read."""
    readable = commit(position, commit_id=commit_id)
    return Recording(entry=readable.entry, leaf=readable.leaf, parked="undecodable")


def at(position: int, recorded_ms: int = 1_000) -> Checkpoint:
    """The checkpoint after a position, with a frontier that is told from others."""
    return Checkpoint(position=position, recorded_ms=recorded_ms, frontier=(bytes([position % 256]) * 32,) * 2)


async def given(store: Store, *recordings: Recording, recorded_ms: int = 1_000) -> None:
    """Record a batch after whatever the store holds."""
    new = at(recordings[-1].entry.position, recorded_ms)
    await store.record(recordings, old=await store.checkpoint(), new=new)


def stored(recording: Recording, *, recorded_ms: int = 1_000, reason: str | None = None) -> Stored:
    """What the store gives back for a recording."""
    return Stored(recording.entry, recorded_ms, reason or recording.parked)


async def everything(store: Store) -> tuple[Checkpoint, Sequence[Stored]]:
    """All that a reader sees."""
    return await store.checkpoint(), await store.read(after=0, limit=10_000)


class StoreContract:
    """The promises of the Store port; a subclass gives the `store` fixture."""

    async def test_a_new_store_holds_nothing(self, store: Store) -> None:
        assert await everything(store) == (START, [])
        assert await store.remembered(derive(ROOT, "command 1")) is None
        assert await store.position_at(2**62) == 0
        assert [await store.recorded_ms(0), await store.body_at(1), await store.leaf(1)] == [None, None, None]

    async def test_what_was_recorded_reads_back_whole_with_its_checkpoint(self, store: Store) -> None:
        batch = [commit(1), commit(2, "hive.log.task.b"), commit(3)]
        await store.record(batch, old=START, new=at(3, 7))
        assert await everything(store) == (at(3, 7), [stored(item, recorded_ms=7) for item in batch])

    async def test_bodies_and_leaves_come_back_byte_for_byte(self, store: Store) -> None:
        batch = [commit(1), parked(2)]
        await given(store, *batch)
        assert [await store.body_at(n) for n in (0, 1, 2, 3)] == [None, b"body 1", b"body 2", None]
        assert [await store.leaf(n) for n in (0, 1, 2, 3)] == [None, batch[0].leaf, batch[1].leaf, None]

    async def test_reading_goes_on_after_a_position_and_stops_at_the_limit(self, store: Store) -> None:
        batch = [commit(position) for position in range(1, 8)]
        await given(store, *batch)
        assert await store.read(after=2, limit=3) == [stored(item) for item in batch[2:5]]
        assert await store.read(after=7, limit=3) == []

    async def test_a_stream_is_one_subject_in_order(self, store: Store) -> None:
        batch = [commit(n, "hive.log.task.even" if n % 2 == 0 else "hive.log.task.odd") for n in range(1, 10)]
        await given(store, *batch[:5])
        await given(store, *batch[5:])
        even = [stored(item) for item in batch if item.entry.position % 2 == 0]
        assert await store.stream("hive.log.task.even", after=0, limit=10) == even
        assert await store.stream("hive.log.task.even", after=2, limit=2) == even[1:3]
        assert await store.stream("hive.log.task.unknown", after=0, limit=10) == []

    async def test_a_checkpoint_that_moved_refuses_the_batch_and_writes_nothing(self, store: Store) -> None:
        await given(store, commit(1))
        before = await everything(store)
        with pytest.raises(CheckpointMoved):
            await store.record([commit(1, "hive.log.task.other")], old=START, new=at(1))
        with pytest.raises(CheckpointMoved):
            await store.record([commit(6)], old=at(5), new=at(6))
        assert await everything(store) == before
        assert await store.stream("hive.log.task.other", after=0, limit=1) == []

    async def test_of_two_recorders_at_one_checkpoint_exactly_one_records(self, store: Store) -> None:
        rivals = [store.record([commit(1, f"hive.log.task.{name}")], old=START, new=at(1)) for name in "abcd"]
        outcomes = await asyncio.gather(*rivals, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes].count(CheckpointMoved) == 3
        assert len(await store.read(after=0, limit=10)) == 1

    async def test_after_a_refused_batch_the_store_records_on(self, store: Store) -> None:
        first = commit(1)
        with pytest.raises(CheckpointMoved):
            await store.record([first], old=at(9), new=at(10))
        await given(store, first)
        second = commit(2)
        await given(store, second)
        assert await store.stream(first.entry.subject, after=0, limit=9) == [stored(first), stored(second)]

    async def test_an_accepted_command_is_remembered_with_its_position_and_fingerprint(self, store: Store) -> None:
        await given(store, commit(1), commit(2))
        assert await store.remembered(derive(ROOT, "command 2")) == Remembered(2, "fingerprint 2")

    async def test_a_commit_without_command_id_is_recorded_and_not_remembered(self, store: Store) -> None:
        refusal = commit(1, "hive.log.refusal.x", remembered=False)
        await given(store, refusal)
        assert await store.read(after=0, limit=1) == [stored(refusal)]
        assert await store.remembered(derive(ROOT, "command 1")) is None

    @pytest.mark.parametrize("together", [True, False], ids=["in one batch", "in two"])
    async def test_a_repeated_command_id_keeps_the_first(self, store: Store, together: bool) -> None:
        first, again, other = commit(1), commit(2, command=1), commit(3)
        await self._record(store, [first, again, other], together)
        assert await store.read(after=0, limit=9) == [stored(first), stored(again), stored(other)]
        assert await store.remembered(derive(ROOT, "command 1")) == Remembered(1, "fingerprint 1")
        assert await store.remembered(derive(ROOT, "command 3")) == Remembered(3, "fingerprint 3")

    @pytest.mark.parametrize("together", [True, False], ids=["in one batch", "in two"])
    async def test_a_commit_id_met_twice_is_parked_raw_alarmed_and_never_remembered(
        self, store: Store, together: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = commit(1)
        repeat = commit(2, commit_id=first.entry.commit_id, command=77)
        with caplog.at_level(logging.ERROR, "hivebus.store"):
            await self._record(store, [first, repeat, commit(3)], together)
        assert await store.read(after=0, limit=2) == [stored(first), stored(repeat, reason="duplicate_commit_id")]
        assert await store.remembered(derive(ROOT, "command 77")) is None
        assert [record.message for record in caplog.records] == [
            f"position 2 repeats commit id {first.entry.commit_id}: parked"
        ]

    async def test_recording_tells_which_positions_were_parked_as_repeats(self, store: Store) -> None:
        first = commit(1)
        repeats = [commit(position, commit_id=first.entry.commit_id, command=70 + position) for position in (2, 4)]
        told = await store.record([first, repeats[0], commit(3)], old=START, new=at(3))
        told_later = await store.record([repeats[1], commit(5)], old=at(3), new=at(5))
        assert (list(told), list(told_later)) == ([2], [4])

    async def test_a_parked_commit_keeps_the_id_it_came_with_and_does_not_hold_it(self, store: Store) -> None:
        garbage = parked(1, commit_id="not a uuid")
        impostor = parked(2, commit_id=str(derive(ROOT, "commit 3")))
        real = commit(3)
        await given(store, garbage, impostor, real)
        assert await store.read(after=0, limit=9) == [stored(garbage), stored(impostor), stored(real)]
        assert await store.remembered(derive(ROOT, "command 3")) == Remembered(3, "fingerprint 3")

    async def test_the_time_of_a_position_and_the_position_of_a_time_agree(self, store: Store) -> None:
        await given(store, commit(1), commit(2), recorded_ms=100)
        await given(store, commit(3), recorded_ms=100)
        await given(store, commit(4), recorded_ms=250)
        assert [await store.position_at(ms) for ms in (99, 100, 249, 250, 251)] == [0, 3, 3, 4, 4]
        assert [await store.recorded_ms(n) for n in (1, 3, 4, 5)] == [100, 100, 250, None]

    async def test_a_batch_of_a_thousand_subjects_actors_and_commands_reads_back_whole(self, store: Store) -> None:
        first = [commit(n, f"hive.log.task.{n}", actor=f"actor {n}", command=n) for n in range(1, 1_001)]
        second = [commit(n, f"hive.log.task.{n - 1_000}", actor=f"actor {n}") for n in range(1_001, 2_001)]
        await given(store, *first)
        await given(store, *second)
        assert await store.read(after=0, limit=3_000) == [stored(item) for item in first + second]
        assert await store.stream("hive.log.task.7", after=0, limit=9) == [stored(first[6]), stored(second[6])]

    async def test_a_cancelled_record_is_all_or_nothing_and_the_store_records_on(self, store: Store) -> None:
        batch = [commit(n) for n in range(1, 301)]
        recording = asyncio.create_task(store.record(batch, old=START, new=at(300)))
        await asyncio.sleep(0)
        recording.cancel()
        await asyncio.wait([recording])
        checkpoint, commits = await everything(store)
        assert (checkpoint, commits) in [(START, []), (at(300), [stored(item) for item in batch])]
        following = commit(checkpoint.position + 1)
        await given(store, following)
        assert (await store.read(after=checkpoint.position, limit=9)) == [stored(following)]

    @staticmethod
    async def _record(store: Store, recordings: list[Recording], together: bool) -> None:
        if together:
            await given(store, *recordings)
        else:
            for recording in recordings:
                await given(store, recording)
