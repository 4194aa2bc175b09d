"""What every blob store promises. A store's test file is a subclass with two fixtures: the clock and the store."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Sequence

import pytest

from core.blobs import StreamingBlobs, Swept
from core.kernel.errors import TooLarge, Unprocessable
from core.kernel.ports import Blobs

DAY_S = 24 * 3600.0
ABSENT = "0" * 64


def name_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def stream(blobs: StreamingBlobs, name: str, *chunks: bytes, max_bytes: int = 100) -> None:
    async with blobs.open_put(name, max_bytes=max_bytes) as writer:
        for chunk in chunks:
            await writer.write(chunk)
        await writer.commit()


class WallClock:
    def __init__(self) -> None:
        self.now = 2_000_000_000.0

    def __call__(self) -> float:
        return self.now


NO_BLOBS = (ABSENT, "", "../../etc/passwd", "A" * 64, "0" * 63)


class BlobsContract:
    """What whoever refers to values needs: subclasses give the fixture `blobs`."""

    async def test_what_is_put_is_got_back_under_its_hash(self, blobs: Blobs) -> None:
        assert await blobs.put(b"hello") == name_of(b"hello")
        assert await blobs.get(name_of(b"hello")) == b"hello"

    async def test_an_empty_blob_is_a_blob(self, blobs: Blobs) -> None:
        assert await blobs.get(await blobs.put(b"")) == b""

    async def test_a_large_blob_comes_back_whole(self, blobs: Blobs) -> None:
        data = bytes(range(256)) * 12_000
        assert await blobs.get(await blobs.put(data)) == data

    async def test_a_repeated_put_is_harmless(self, blobs: Blobs) -> None:
        names = await asyncio.gather(*(blobs.put(b"again") for _ in range(20)))
        assert set(names) == {name_of(b"again")}
        assert await blobs.get(names[0]) == b"again"

    @pytest.mark.parametrize("name", NO_BLOBS)
    async def test_what_was_never_put_is_none(self, blobs: Blobs, name: str) -> None:
        assert await blobs.get(name) is None


class StreamingBlobsContract(BlobsContract):
    """What the store itself promises."""

    @pytest.fixture
    def clock(self) -> WallClock:
        return WallClock()

    async def test_the_size_of_what_was_put_is_known(self, blobs: StreamingBlobs) -> None:
        assert await blobs.size(await blobs.put(b"hello")) == 5

    @pytest.mark.parametrize("name", NO_BLOBS)
    async def test_what_is_not_there_is_none(self, blobs: StreamingBlobs, name: str) -> None:
        assert await blobs.size(name) is None
        assert await blobs.open_get(name) is None
        assert await blobs.delete(name) is False

    async def test_a_deleted_blob_is_gone(self, blobs: StreamingBlobs) -> None:
        name = await blobs.put(b"private")
        assert await blobs.delete(name) is True
        assert await blobs.get(name) is None
        assert await blobs.delete(name) is False

    async def test_a_stream_in_and_a_stream_out_are_the_same_bytes(self, blobs: StreamingBlobs) -> None:
        data = bytes(range(256)) * 12_000
        async with blobs.open_put(name_of(data), max_bytes=len(data)) as writer:
            for start in range(0, len(data), 100_000):
                await writer.write(data[start : start + 100_000])
            assert await blobs.get(name_of(data)) is None
            assert await writer.commit() == len(data)
        chunks = await blobs.open_get(name_of(data))
        assert chunks is not None
        received = [chunk async for chunk in chunks]
        assert b"".join(received) == data
        assert max(map(len, received)) <= 1024 * 1024

    async def test_a_stream_with_another_hash_is_refused_and_leaves_nothing(self, blobs: StreamingBlobs) -> None:
        with pytest.raises(Unprocessable) as refused:
            await stream(blobs, ABSENT, b"something else")
        assert refused.value.code == "blob_mismatch"
        assert await blobs.get(ABSENT) is None
        assert await blobs.get(name_of(b"something else")) is None

    async def test_a_stream_over_its_bound_is_refused(self, blobs: StreamingBlobs) -> None:
        with pytest.raises(TooLarge):
            await stream(blobs, name_of(b"12345"), b"123", b"45", max_bytes=4)

    async def test_a_stream_without_commit_leaves_nothing(self, blobs: StreamingBlobs) -> None:
        async with blobs.open_put(name_of(b"half"), max_bytes=100) as writer:
            await writer.write(b"half")
        assert await blobs.get(name_of(b"half")) is None

    async def test_a_name_that_is_no_hash_is_refused(self, blobs: StreamingBlobs) -> None:
        with pytest.raises(Unprocessable):
            async with blobs.open_put("../up", max_bytes=1):
                pass

    async def test_a_sweep_removes_what_is_old_and_unreferenced(self, blobs: StreamingBlobs, clock: WallClock) -> None:
        kept, gone, renewed = [await blobs.put(data) for data in (b"kept", b"gone", b"renewed")]
        clock.now += DAY_S + 1
        await blobs.put(b"renewed")
        young = await blobs.put(b"young")
        asked: list[str] = []

        async def referenced(names: Sequence[str]) -> Collection[str]:
            asked.extend(names)
            return {kept}

        assert await blobs.sweep(referenced) == Swept(blobs=1, bytes=4)
        assert sorted(asked) == sorted([kept, gone])
        assert [await blobs.size(name) for name in (kept, gone, renewed, young)] == [4, None, 7, 5]

    async def test_a_blob_that_is_put_while_a_sweep_asks_stays(self, blobs: StreamingBlobs, clock: WallClock) -> None:
        name = await blobs.put(b"contended")
        clock.now += DAY_S + 1

        async def referenced(names: Sequence[str]) -> Collection[str]:
            await blobs.put(b"contended")
            return ()

        assert await blobs.sweep(referenced) == Swept(blobs=0, bytes=0)
        assert await blobs.get(name) == b"contended"
