"""What every EventLog promises. A subclass gives the fixture `log`, fresh and empty, and `full_log`, small."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Protocol, cast
from uuid import UUID

import pytest

from core.kernel.commit import COMMIT_MAX_BYTES, Entry
from core.kernel.errors import LogFull, TooLarge
from core.kernel.ports import Conflict, EventLog
from tests.given import new_id

TASK = "hive.log.task.1"
OTHER = "hive.log.task.2"
DEADLINE_S = 10.0


class Closable(Protocol):
    async def aclose(self) -> None: ...


async def given(log: EventLog, *subjects: str) -> list[Entry]:
    """Append one entry per subject, in order, each after the subject's last one."""
    entries = []
    for number, subject in enumerate(subjects):
        older = await log.read(subject)
        commit_id = new_id()
        body = b"body %d of %s" % (number, subject.encode())
        position = await log.append(subject, commit_id, body, expected=older[-1].position if older else 0)
        entries.append(Entry(position, subject, commit_id, body))
    return entries


async def taken(following: AsyncIterator[Sequence[Entry]], count: int) -> list[Entry]:
    """Exactly the next entries, however they are batched."""
    entries: list[Entry] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(entries) < count:
            entries += await anext(following)
    assert len(entries) == count
    return entries


class EventLogContract:
    @pytest.fixture
    async def entries(self, log: EventLog) -> list[Entry]:
        """Given three entries on one subject with another subject's in between."""
        return await given(log, TASK, OTHER, TASK, TASK)

    # Positions

    async def test_an_empty_log_ends_at_zero(self, log: EventLog) -> None:
        assert await log.head() == 0
        assert await log.read(TASK) == []
        assert await log.entry(1) is None

    async def test_positions_are_dense_and_start_at_one(self, log: EventLog, entries: list[Entry]) -> None:
        assert [entry.position for entry in entries] == [1, 2, 3, 4]
        assert await log.head() == 4

    async def test_a_refused_append_uses_no_position(self, log: EventLog, entries: list[Entry]) -> None:
        with pytest.raises(Conflict):
            await log.append(TASK, new_id(), b"late", expected=1)
        assert await log.append(TASK, new_id(), b"next", expected=4) == 5

    async def test_each_position_gives_its_entry(self, log: EventLog, entries: list[Entry]) -> None:
        assert [await log.entry(entry.position) for entry in entries] == entries
        assert await log.entry(0) is None
        assert await log.entry(5) is None

    # Expectations

    async def test_a_conflict_names_what_came_after_the_expectation(self, log: EventLog, entries: list[Entry]) -> None:
        with pytest.raises(Conflict) as caught:
            await log.append(TASK, new_id(), b"late", expected=1)
        assert list(caught.value.newer) == [entries[2], entries[3]]

    async def test_expecting_a_new_subject_conflicts_with_all_of_an_old_one(
        self, log: EventLog, entries: list[Entry]
    ) -> None:
        with pytest.raises(Conflict) as caught:
            await log.append(OTHER, new_id(), b"again", expected=0)
        assert list(caught.value.newer) == [entries[1]]

    async def test_expecting_what_never_was_conflicts_with_nothing_newer(
        self, log: EventLog, entries: list[Entry]
    ) -> None:
        with pytest.raises(Conflict) as caught:
            await log.append(OTHER, new_id(), b"early", expected=99)
        assert list(caught.value.newer) == []

    async def test_a_repeated_append_finds_its_own_commit_id_among_the_newer(self, log: EventLog) -> None:
        commit_id = new_id()
        position = await log.append(TASK, commit_id, b"once", expected=0)
        with pytest.raises(Conflict) as caught:
            await log.append(TASK, commit_id, b"once", expected=0)
        assert list(caught.value.newer) == [Entry(position, TASK, commit_id, b"once")]
        assert await log.head() == 1

    async def test_of_concurrent_appends_to_one_subject_exactly_one_wins_each_round(self, log: EventLog) -> None:
        expected = 0
        for _ in range(20):
            rivals = [log.append(TASK, new_id(), b"%d" % n, expected=expected) for n in range(8)]
            outcomes = await asyncio.gather(*rivals, return_exceptions=True)
            winners = [outcome for outcome in outcomes if isinstance(outcome, int)]
            losers = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
            assert (len(winners), len(losers)) == (1, 7)
            assert all([entry.position for entry in loser.newer] == winners for loser in losers)
            expected = winners[0]
        assert await log.head() == 20

    async def test_concurrent_appends_to_many_subjects_all_succeed(self, log: EventLog) -> None:
        subjects = [f"hive.log.task.{n}" for n in range(300)]
        positions = await asyncio.gather(*(log.append(s, new_id(), b"x", expected=0) for s in subjects))
        assert sorted(positions) == list(range(1, 301))
        assert [entry.position for entry in await log.read(subjects[7])] == [positions[7]]

    async def test_of_many_concurrent_appends_each_position_holds_its_own(self, log: EventLog) -> None:
        own = [(f"hive.log.task.{n}", new_id(), b"%d" % n) for n in range(700)]
        positions = await asyncio.gather(*(log.append(*commit, expected=0) for commit in own))
        assert sorted(positions) == list(range(1, 701))
        stored = {entry.position: entry for entry in await taken(log.follow(after=0), 700)}
        assert [stored[position] for position in positions] == [
            Entry(position, *commit) for position, commit in zip(positions, own, strict=True)
        ]

    async def test_one_conflict_among_many_appends_leaves_the_others(self, log: EventLog) -> None:
        entries = await given(log, "hive.log.task.70")
        subjects = [f"hive.log.task.{n}" for n in range(100)]
        appends = (log.append(subject, new_id(), b"x", expected=0) for subject in subjects)
        outcomes = await asyncio.gather(*appends, return_exceptions=True)
        conflict = outcomes.pop(70)
        assert isinstance(conflict, Conflict)
        assert list(conflict.newer) == entries
        assert sorted(outcome for outcome in outcomes if isinstance(outcome, int)) == list(range(2, 101))

    async def test_two_appends_to_one_subject_among_many_leave_the_others(self, log: EventLog) -> None:
        subjects = [f"hive.log.task.{n % 99}" for n in range(100)]
        appends = (log.append(subject, new_id(), b"x", expected=0) for subject in subjects)
        outcomes = await asyncio.gather(*appends, return_exceptions=True)
        stored = [outcome for outcome in outcomes if isinstance(outcome, int)]
        (conflict,) = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
        assert sorted(stored) == list(range(1, 100))
        assert [entry.subject for entry in conflict.newer] == ["hive.log.task.0"]

    async def test_large_bodies_at_once_are_all_stored(self, log: EventLog) -> None:
        bodies = [b"%d" % n * COMMIT_MAX_BYTES for n in range(10)] * 2 + [b"x" * 200_000] * 12
        appends = (log.append(f"hive.log.task.{n}", new_id(), body, expected=0) for n, body in enumerate(bodies))
        positions = await asyncio.gather(*appends)
        entries = [await log.entry(position) for position in positions]
        assert [entry.body if entry else None for entry in entries] == bodies

    # Bodies

    async def test_any_bytes_up_to_the_limit_come_back_as_they_were(self, log: EventLog) -> None:
        bodies = [b"", bytes(range(256)), b"\r\nMSG a 1 2\r\n", b"x" * COMMIT_MAX_BYTES]
        for number, body in enumerate(bodies):
            await log.append(TASK, UUID(int=number), body, expected=number)
        assert [entry.body for entry in await log.read(TASK)] == bodies
        assert await taken(log.follow(after=0), 4) == await log.read(TASK)

    async def test_a_larger_body_is_refused_and_nothing_is_stored(self, log: EventLog) -> None:
        with pytest.raises(TooLarge):
            await log.append(TASK, new_id(), b"x" * (COMMIT_MAX_BYTES + 1), expected=0)
        assert await log.head() == 0

    async def test_a_full_log_refuses_and_keeps_what_it_has(self, full_log: EventLog) -> None:
        appends = [full_log.append(f"hive.log.task.{n}", new_id(), b"x" * 10_000, expected=0) for n in range(20)]
        outcomes = await asyncio.gather(*appends, return_exceptions=True)
        stored = [outcome for outcome in outcomes if isinstance(outcome, int)]
        refused = [outcome for outcome in outcomes if isinstance(outcome, LogFull)]
        assert len(stored) + len(refused) == 20
        assert stored == list(range(1, len(stored) + 1))
        assert all(error.remedy for error in refused)
        assert await full_log.head() == len(stored) < 20

    # Reading

    async def test_a_read_sees_own_appends_at_once(self, log: EventLog) -> None:
        position = 0
        for _ in range(50):
            position = await log.append(TASK, new_id(), b"x", expected=position)
            assert (await log.read(TASK))[-1].position == position

    async def test_a_read_gives_one_subject_after_a_position_in_order(
        self, log: EventLog, entries: list[Entry]
    ) -> None:
        assert await log.read(TASK) == [entries[0], entries[2], entries[3]]
        assert await log.read(TASK, after=1) == [entries[2], entries[3]]
        assert await log.read(TASK, after=4) == []
        assert await log.read("hive.log.task.3") == []

    async def test_a_long_subject_is_read_whole(self, log: EventLog) -> None:
        for number in range(600):
            await log.append(TASK, new_id(), b"x", expected=number)
        assert [entry.position for entry in await log.read(TASK)] == list(range(1, 601))
        assert [entry.position for entry in await log.read(TASK, after=598)] == [599, 600]

    # Following

    async def test_a_follower_gets_everything_from_the_start(self, log: EventLog, entries: list[Entry]) -> None:
        assert await taken(log.follow(after=0), 4) == entries

    async def test_a_follower_starts_in_the_middle(self, log: EventLog, entries: list[Entry]) -> None:
        assert await taken(log.follow(after=2), 2) == entries[2:]

    async def test_a_follower_at_the_end_gets_what_comes_later(self, log: EventLog, entries: list[Entry]) -> None:
        following = log.follow(after=4)
        waiting = asyncio.ensure_future(taken(following, 1))
        later = await given(log, "hive.log.task.3")
        assert await waiting == later

    async def test_a_follower_passes_from_old_to_new_without_gap_or_repeat(self, log: EventLog) -> None:
        count = 3000

        async def append(subject: str) -> None:
            for number in range(count // 10):
                entries = await log.read(subject, after=0) if number == 0 else []
                assert entries == []
                last[subject] = await log.append(subject, new_id(), b"x", expected=last.get(subject, 0))

        last: dict[str, int] = {}
        following = asyncio.ensure_future(taken(log.follow(after=0), count))
        await asyncio.gather(*(append(f"hive.log.task.{n}") for n in range(10)))
        assert [entry.position for entry in await following] == list(range(1, count + 1))

    async def test_batches_are_bounded_for_a_consumer_that_is_slow(self, log: EventLog) -> None:
        following = log.follow(after=0)
        await given(log, TASK)
        seen = list(await anext(following))
        total = 3501
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(
                *(log.append(f"hive.log.task.n{n}", new_id(), b"x", expected=0) for n in range(total - 1))
            )
            while len(seen) < total:
                batch = await anext(following)
                assert 1 <= len(batch) <= 1000
                seen += batch
        assert [entry.position for entry in seen] == list(range(1, total + 1))

    async def test_followers_do_not_disturb_each_other(self, log: EventLog, entries: list[Entry]) -> None:
        first, second = log.follow(after=0), log.follow(after=3)
        assert await taken(first, 4) == entries
        assert await taken(second, 1) == entries[3:]

    async def test_a_cancelled_wait_loses_nothing(self, log: EventLog, entries: list[Entry]) -> None:
        following = log.follow(after=4)
        for _ in range(3):
            waiting = asyncio.ensure_future(anext(following))
            await asyncio.wait({waiting}, timeout=0.01)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        later = await given(log, "hive.log.task.3")
        assert await taken(following, 1) == later

    async def test_closing_a_follower_ends_it_for_who_waits(self, log: EventLog, entries: list[Entry]) -> None:
        following = log.follow(after=4)
        closable = cast("Closable", following)
        waiting = asyncio.ensure_future(anext(following, None))
        await asyncio.wait({waiting}, timeout=0.05)
        await closable.aclose()
        await closable.aclose()
        async with asyncio.timeout(DEADLINE_S):
            assert await waiting is None
            assert await anext(following, None) is None

    # Cancelling and health

    async def test_cancelling_the_caller_does_not_undo_or_leak(self, log: EventLog) -> None:
        appends = [
            asyncio.ensure_future(log.append(f"hive.log.task.{n}", new_id(), b"x", expected=0)) for n in range(64)
        ]
        await asyncio.wait(appends, timeout=0)
        for append in appends:
            append.cancel()
        outcomes = await asyncio.gather(*appends, return_exceptions=True)
        after = await log.append(TASK + ".after", new_id(), b"x", expected=0)
        kept = {entry.position for n in range(64) for entry in await log.read(f"hive.log.task.{n}")}
        assert {outcome for outcome in outcomes if isinstance(outcome, int)} <= kept
        assert after == len(kept) + 1 == await log.head()

    async def test_a_log_that_answers_is_healthy(self, log: EventLog) -> None:
        assert await log.healthy()
