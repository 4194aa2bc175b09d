from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from adapters.blobs.files import FileBlobs
from tests.contracts.blobs import StreamingBlobsContract, WallClock, name_of


def files_beneath(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


class TestFileBlobs(StreamingBlobsContract):
    @pytest.fixture
    def blobs(self, tmp_path: Path, clock: WallClock) -> FileBlobs:
        return FileBlobs(tmp_path, now_s=clock)

    async def test_another_store_over_the_same_directory_has_the_blob(self, tmp_path: Path) -> None:
        name = await FileBlobs(tmp_path).put(b"durable")
        assert await FileBlobs(tmp_path).get(name) == b"durable"
        assert (tmp_path / "blobs" / name[:2] / name).read_bytes() == b"durable"

    async def test_a_damaged_blob_is_never_returned_and_is_healed_by_a_put(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        blobs = FileBlobs(tmp_path)
        name = await blobs.put(b"truth")
        (tmp_path / "blobs" / name[:2] / name).write_bytes(b"lies!")
        with caplog.at_level(logging.ERROR):
            assert await blobs.get(name) is None
            assert await blobs.open_get(name) is None
        assert "damaged" in caplog.text
        await blobs.put(b"truth")
        assert await blobs.get(name) == b"truth"

    async def test_no_temporary_file_stays(self, tmp_path: Path) -> None:
        blobs = FileBlobs(tmp_path)
        await blobs.put(b"one")
        async with blobs.open_put(name_of(b"two"), max_bytes=10) as writer:
            await writer.write(b"two")
            await writer.commit()
        async with blobs.open_put(name_of(b"three"), max_bytes=10) as writer:
            await writer.write(b"three")
        assert files_beneath(tmp_path) == sorted([name_of(b"one"), name_of(b"two")])

    async def test_a_sweep_removes_abandoned_uploads(self, tmp_path: Path) -> None:
        blobs = FileBlobs(tmp_path)
        name = await blobs.put(b"neighbour")
        abandoned = tmp_path / "blobs" / name[:2] / ".incoming-abandoned"
        abandoned.write_bytes(b"half")
        os.utime(abandoned, (1, 1))

        async def referenced(names: Sequence[str]) -> Collection[str]:
            return names

        await blobs.sweep(referenced)
        assert not abandoned.exists()
        assert await blobs.get(name) == b"neighbour"
