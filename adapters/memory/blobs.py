"""Blobs in memory, bounded: the same promises for as long as the process lives."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from core.blobs import UNREFERENCED_S, BlobWriter, Referenced, Swept
from core.kernel.errors import TooLarge, Unavailable, Unprocessable

NAME = re.compile(r"[0-9a-f]{64}\Z")
CHUNK_BYTES = 1024 * 1024
BATCH = 500
TOTAL_MAX_BYTES = 256 * 1024 * 1024


class MemoryBlobs:
    """A dictionary of at most `total_max_bytes`; beyond it a put raises Unavailable."""

    def __init__(self, *, total_max_bytes: int = TOTAL_MAX_BYTES, now_s: Callable[[], float] = time.time) -> None:
        self._blobs: dict[str, tuple[bytes, float]] = {}
        self._now_s = now_s
        self._left = total_max_bytes

    async def put(self, data: bytes) -> str:
        """Store and return the SHA-256 in hex; a repeat is harmless and makes the blob young."""
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 not in self._blobs:
            if len(data) > self._left:
                raise Unavailable("The memory for blobs is full.", remedy="Delete blobs, or keep them as files.")
            self._left -= len(data)
        self._blobs[sha256] = (data, self._now_s())
        return sha256

    async def get(self, sha256: str) -> bytes | None:
        """The bytes, or None."""
        entry = self._blobs.get(sha256)
        return None if entry is None else entry[0]

    async def delete(self, sha256: str) -> bool:
        """Erase; whether there was something."""
        entry = self._blobs.pop(sha256, None)
        if entry is None:
            return False
        self._left += len(entry[0])
        return True

    async def size(self, sha256: str) -> int | None:
        """The size in bytes, or None."""
        data = await self.get(sha256)
        return None if data is None else len(data)

    @asynccontextmanager
    async def open_put(self, sha256: str, *, max_bytes: int) -> AsyncIterator[BlobWriter]:
        """Receive a blob whose hash is known. Leaving the block without `commit` leaves nothing behind."""
        if not NAME.match(sha256):
            raise Unprocessable("A blob's name is its SHA-256 in 64 lower-case hex digits.", pointer="/sha256")
        yield _Incoming(self, sha256, max_bytes)

    async def open_get(self, sha256: str) -> AsyncIterator[bytes] | None:
        """The bytes in chunks of at most 1 MiB; None as for `get`."""
        data = await self.get(sha256)
        return None if data is None else _chunks(data)

    async def sweep(self, referenced: Referenced, *, older_than_s: float = UNREFERENCED_S) -> Swept:
        """Remove blobs that were not put within `older_than_s` and that nothing refers to."""
        border = self._now_s() - older_than_s
        old = sorted(name for name, (_, put_at) in self._blobs.items() if put_at < border)
        blobs = total = 0
        for start in range(0, len(old), BATCH):
            batch = old[start : start + BATCH]
            needed = frozenset(await referenced(batch))
            for name in batch:
                entry = self._blobs.get(name)
                if name not in needed and entry is not None and entry[1] < border:
                    await self.delete(name)
                    blobs += 1
                    total += len(entry[0])
        return Swept(blobs, total)


class _Incoming:
    """A blob on its way in."""

    def __init__(self, blobs: MemoryBlobs, sha256: str, max_bytes: int) -> None:
        self._blobs = blobs
        self._sha256 = sha256
        self._max_bytes = max_bytes
        self._data = bytearray()

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes; TooLarge beyond the bound."""
        if len(self._data) + len(chunk) > self._max_bytes:
            raise TooLarge(f"A blob holds at most {self._max_bytes} bytes.")
        self._data += chunk

    async def commit(self) -> int:
        """Store it under its name and return the size."""
        actual = hashlib.sha256(self._data).hexdigest()
        if actual != self._sha256:
            raise Unprocessable(f"The bytes hash to {actual}, not to the name.", code="blob_mismatch")
        await self._blobs.put(bytes(self._data))
        return len(self._data)


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]
