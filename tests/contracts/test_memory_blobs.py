from __future__ import annotations

import pytest

from adapters.memory.blobs import MemoryBlobs
from core.kernel.errors import Unavailable
from tests.contracts.blobs import StreamingBlobsContract, WallClock


class TestMemoryBlobs(StreamingBlobsContract):
    @pytest.fixture
    def blobs(self, clock: WallClock) -> MemoryBlobs:
        return MemoryBlobs(now_s=clock)

    async def test_full_memory_refuses_and_a_delete_makes_room(self) -> None:
        blobs = MemoryBlobs(total_max_bytes=10)
        name = await blobs.put(b"12345678")
        with pytest.raises(Unavailable):
            await blobs.put(b"123")
        await blobs.delete(name)
        assert await blobs.put(b"123")
