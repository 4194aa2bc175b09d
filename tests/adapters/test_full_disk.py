"""What a full disk does to the adapters that write: a clear error, and the next try goes through."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from adapters.blobs.files import FileBlobs
from adapters.disk import FileSystem, refuse_exhausted
from adapters.snapshots import FileSnapshots
from adapters.sql.store import SqlStore
from core.kernel.errors import LogFull, StartRefused, Unavailable
from core.kernel.ports import Checkpoint
from core.services.disk import Space
from tests.contracts.store import at, commit


async def test_a_store_that_cannot_grow_says_so_and_records_when_it_can(tmp_path: Path) -> None:
    store = await SqlStore.open(tmp_path / "store.db")
    batch = [commit(position, f"hive.log.task.t{position}") for position in range(1, 501)]
    new = at(500)

    await bounded(store, pages=1)
    with pytest.raises(Unavailable) as refused:
        await store.record(batch, old=Checkpoint(), new=new)
    assert refused.value.code == "store_unavailable"
    assert await store.checkpoint() == Checkpoint()

    await bounded(store, pages=1_000_000)
    await store.record(batch, old=Checkpoint(), new=new)

    assert await store.checkpoint() == new
    assert [stored.entry for stored in await store.read(after=0, limit=1000)] == [item.entry for item in batch]
    await store.close()


async def bounded(store: SqlStore, *, pages: int) -> None:
    """Let the database have so many pages: SQLite answers beyond it as on a full disk."""
    await store._engines.thread.transact(lambda c: c.exec_driver_sql(f"PRAGMA max_page_count={pages}"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_a_blob_that_finds_no_room_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    blobs = FileBlobs(tmp_path)
    with monkeypatch.context() as full:
        full.setattr("adapters.blobs.files.sync_file", refusing(number))
        with pytest.raises(LogFull) as refused:
            await blobs.put(b"value")
        assert refused.value.code == "disk_full"
        async with blobs.open_put("a" * 64, max_bytes=100) as writer:
            monkeypatch.setattr(writer, "_digest", Digest())
            with pytest.raises(LogFull):
                await writer.commit()

    assert files(tmp_path) == []
    assert await blobs.get(await blobs.put(b"value")) == b"value"


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


class Digest:
    def update(self, data: bytes) -> None: ...

    def hexdigest(self) -> str:
        return "a" * 64


def refusing(number: int) -> Any:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


async def test_an_image_that_finds_no_room_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots = FileSnapshots(tmp_path / "scheduler.image")
    await snapshots.save(b"old")
    monkeypatch.setattr(Path, "write_bytes", refusing(errno.ENOSPC))

    await snapshots.save(b"new")

    assert await snapshots.load() == b"old"


def test_a_start_on_a_full_disk_is_refused_before_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, refused in ((1_000_000, True), (3_000_000, False)):
        monkeypatch.setattr("adapters.disk.space_of", lambda _, free=free: Space(100_000_000, free))
        if refused:
            with pytest.raises(StartRefused, match="99 % full") as error:
                refuse_exhausted(tmp_path / "not" / "yet")
            assert error.value.code == "disk_full"
        else:
            refuse_exhausted(tmp_path / "not" / "yet")
    assert files(tmp_path) == []


async def test_a_file_system_is_measured_as_df_sees_it(tmp_path: Path) -> None:
    seen = os.statvfs(tmp_path)

    space = await FileSystem(tmp_path).measure()

    assert space.total == (seen.f_blocks - seen.f_bfree + seen.f_bavail) * seen.f_frsize
    assert 0 < space.free <= space.total
