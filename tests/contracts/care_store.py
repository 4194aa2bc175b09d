"""What every CareStore promises. A subclass gives the fixture `kept`: a store and its care, fresh and empty."""

from __future__ import annotations

from core.kernel.commit import Entry
from core.kernel.merkle import leaf_hash
from core.kernel.ports import CareStore, Checkpoint, LastCommit, Recording, SignedHead, Store, Trim

Kept = tuple[Store, CareStore]


def head(size: int, text: bytes = b"r") -> SignedHead:
    return SignedHead(size, text * 32, 1000 + size, b"s" * 64, "0123456789abcdef")


class CareStoreContract:
    async def test_there_is_no_head_and_no_trim_at_first(self, kept: Kept) -> None:
        _, care = kept
        assert (await care.newest_head(), await care.trimmed_to()) == (None, 0)

    async def test_the_newest_head_is_the_largest(self, kept: Kept) -> None:
        _, care = kept
        for size in (5, 9, 7):
            await care.add_head(head(size))
        assert await care.newest_head() == head(9)

    async def test_the_first_head_of_a_size_stays(self, kept: Kept) -> None:
        _, care = kept
        await care.add_head(head(5))
        await care.add_head(head(5, b"x"))
        assert await care.newest_head() == head(5)

    async def test_the_furthest_trim_counts(self, kept: Kept) -> None:
        _, care = kept
        for at_ms, position in ((1, 40), (2, 90), (3, 60)):
            await care.add_trim(Trim(trimmed_to=position, at_ms=at_ms, actor="key:1"))
        assert await care.trimmed_to() == 90

    async def test_the_last_commit_of_each_subject_is_found_and_a_parked_one_has_no_body(self, kept: Kept) -> None:
        store, care = kept
        ids = [f"00000000-0000-8000-8000-00000000000{number}" for number in range(4)]
        subjects = ["hive.log.task.a", "hive.log.task.b", "hive.log.task.a", "hive.log.task.c"]
        entries = [Entry(n + 1, subject, ids[n], b"%d" % n) for n, subject in enumerate(subjects)]
        recordings = [
            Recording(
                entry=entry,
                leaf=leaf_hash(entry.position, entry.subject, entry.body),
                version=1,
                parked="undecodable" if entry.position == 4 else None,
            )
            for entry in entries
        ]
        await store.record(recordings, old=Checkpoint(), new=Checkpoint(position=4, recorded_ms=1))
        found = await care.last_commits([*dict.fromkeys(subjects), "hive.log.task.unknown"])
        assert sorted(found, key=lambda last: last.position) == [
            LastCommit("hive.log.task.b", 2, b"1"),
            LastCommit("hive.log.task.a", 3, b"2"),
            LastCommit("hive.log.task.c", 4, None),
        ]
