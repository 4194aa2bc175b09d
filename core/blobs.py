"""Blobs that stream: what the door for large values needs beyond the kernel's `Blobs`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from msgspec import Struct

from core.kernel.ports import Blobs

UNREFERENCED_S = 24 * 3600.0

Referenced = Callable[[Sequence[str]], Awaitable[Collection[str]]]


class Swept(Struct, frozen=True):
    """What a sweep removed."""

    blobs: int
    bytes: int


class BlobWriter(Protocol):
    """A blob on its way in. Nothing is visible before `commit`."""

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes; TooLarge beyond the bound."""
        ...

    async def commit(self) -> int:
        """Make it durable under its name and return the size; Unprocessable `blob_mismatch` if the hash differs."""
        ...


class StreamingBlobs(Blobs, Protocol):
    """Blobs of any size, a chunk at a time; whoever holds them may erase them."""

    async def delete(self, sha256: str) -> bool:
        """Erase; whether there was something."""
        ...

    def open_put(self, sha256: str, *, max_bytes: int) -> AbstractAsyncContextManager[BlobWriter]:
        """Receive a blob whose hash is known. Leaving the block without `commit` leaves nothing behind."""
        ...

    async def open_get(self, sha256: str) -> AsyncIterator[bytes] | None:
        """The bytes in chunks of at most 1 MiB, verified before the first one; None as for `get`."""
        ...

    async def size(self, sha256: str) -> int | None:
        """The size in bytes, or None."""
        ...

    async def sweep(self, referenced: Referenced, *, older_than_s: float = UNREFERENCED_S) -> Swept:
        """Remove blobs that were not put within `older_than_s` and that nothing refers to.

        `referenced` is asked with batches of at most 500 names and answers those that must stay.
        """
        ...
