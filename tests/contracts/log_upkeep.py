"""What every LogUpkeep promises. A subclass gives the fixture `both`: a log and its upkeep, fresh and empty."""

from __future__ import annotations

import pytest

from core.kernel.commit import Entry
from core.kernel.errors import Unavailable
from core.kernel.ids import uuid7
from core.kernel.ports import EventLog, LogUpkeep
from tests.contracts.event_log import OTHER, TASK, given, taken

Both = tuple[EventLog, LogUpkeep]


def lost(*positions: int) -> list[Entry]:
    """Entries as a store would give them back; the last one has no id, as a parked one."""
    entries = [Entry(position, f"{TASK}.{position % 3}", str(uuid7()), b"body %d" % position) for position in positions]
    return [*entries[:-1], Entry(entries[-1].position, OTHER, "", b"\xff\x00")]


class LogUpkeepContract:
    async def test_the_head_of_an_empty_log_is_zero_and_it_holds_no_subject(self, both: Both) -> None:
        _, upkeep = both
        assert (await upkeep.head(), await upkeep.subjects(offset=0), await upkeep.entry(1)) == (0, {}, None)

    async def test_restored_entries_stand_at_their_positions_byte_for_byte(self, both: Both) -> None:
        log, upkeep = both
        first = await given(log, TASK, OTHER)
        entries = lost(*range(3, 700))
        await upkeep.restore(entries)
        assert await upkeep.head() == 699
        assert [await upkeep.entry(position) for position in (1, 2, 3, 350, 699)] == [
            *first,
            entries[0],
            entries[347],
            entries[-1],
        ]
        assert await taken(log.follow(after=2), 697) == entries

    @pytest.mark.parametrize("start", [2, 4], ids=["a position that is taken", "a position after a gap"])
    async def test_nothing_is_restored_anywhere_but_next_after_the_head(self, both: Both, start: int) -> None:
        log, upkeep = both
        await given(log, TASK, OTHER)
        with pytest.raises(Unavailable):
            await upkeep.restore(lost(start, start + 1))
        assert await upkeep.head() == 2

    async def test_an_append_after_a_restore_expects_what_was_restored(self, both: Both) -> None:
        log, upkeep = both
        await upkeep.restore(lost(1, 2, 3, 4))
        assert await log.append(f"{TASK}.1", str(uuid7()), b"next", expected=1) == 5

    async def test_a_purge_takes_a_subject_up_to_a_position_and_leaves_the_head(self, both: Both) -> None:
        log, upkeep = both
        entries = await given(log, TASK, OTHER, TASK, TASK)
        before = await upkeep.size()
        assert await upkeep.purge(TASK, through=3) == 2
        assert await log.read(TASK) == entries[3:]
        assert await upkeep.purge(TASK, through=4) == 1
        assert await upkeep.purge(TASK, through=4) == 0
        assert await upkeep.subjects(offset=0) == {OTHER: 1}
        assert [await upkeep.entry(position) for position in (1, 2, 3, 4)] == [None, entries[1], None, None]
        assert await upkeep.head() == 4
        assert 0 < await upkeep.size() < before

    async def test_subjects_come_in_order_with_the_number_of_their_entries(self, both: Both) -> None:
        log, upkeep = both
        await given(log, OTHER, TASK, OTHER)
        assert list((await upkeep.subjects(offset=0)).items()) == [(TASK, 1), (OTHER, 2)]
        assert await upkeep.subjects(offset=1) == {OTHER: 2}
        assert await upkeep.subjects(offset=2) == {}

    async def test_a_follower_passes_a_trimmed_start(self, both: Both) -> None:
        log, upkeep = both
        entries = await given(log, TASK, OTHER, TASK, OTHER, TASK)
        await upkeep.purge(OTHER, through=4)
        assert await taken(log.follow(after=0, trimmed_to=4), 3) == [entries[0], entries[2], entries[4]]

    @pytest.mark.parametrize("trimmed_to", [0, 3])
    async def test_a_hole_above_the_trim_ends_a_follower(self, both: Both, trimmed_to: int) -> None:
        log, upkeep = both
        await given(log, TASK, OTHER, TASK, OTHER, TASK)
        await upkeep.purge(OTHER, through=4)
        following = log.follow(after=0, trimmed_to=trimmed_to)
        with pytest.raises(Unavailable) as hole:
            await taken(following, 5)
        assert hole.value.code == "log_hole"
