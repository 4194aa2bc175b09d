"""Blobs as files: <data_dir>/blobs/ab/abcdef..., immutable, named by what they hold."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO

from adapters.disk import writing
from adapters.durable import sync_file, sync_folder
from core.blobs import UNREFERENCED_S, BlobWriter, Referenced, Swept
from core.kernel.errors import TooLarge, Unprocessable

log = logging.getLogger(__name__)

NAME = re.compile(r"[0-9a-f]{64}\Z")
CHUNK_BYTES = 1024 * 1024
BATCH = 500
_TEMPORARY = ".incoming-"


class FileBlobs:
    """Every put is a temporary file, fsync, rename, fsync of the directory: a name is never there without its bytes."""

    def __init__(self, data_dir: Path, *, now_s: Callable[[], float] = time.time) -> None:
        self._root = data_dir / "blobs"
        self._now_s = now_s
        # Between a sweep's look at a blob's age and its removal no put may find the blob and rely on it.
        self._lock = threading.Lock()

    async def put(self, data: bytes) -> str:
        """Store and return the SHA-256 in hex. Durable on return; a repeat is harmless and makes the blob young.

        Raises LogFull on a full disk.
        """
        with writing(self._root):
            return await asyncio.to_thread(self._put, data)

    def _put(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        with self._lock:
            if self._renew(sha256, len(data)):
                return sha256
        folder = self._folder(sha256)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=_TEMPORARY, delete=False) as file:
            try:
                file.write(data)
                self._publish(file, sha256)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
        return sha256

    async def get(self, sha256: str) -> bytes | None:
        """The bytes, or None. What does not hash to its name is logged and never returned."""
        return await asyncio.to_thread(self._get, sha256)

    def _get(self, sha256: str) -> bytes | None:
        if not NAME.match(sha256):
            return None
        try:
            data = self._path(sha256).read_bytes()
        except FileNotFoundError:
            return None
        return data if self._is_whole(sha256, hashlib.sha256(data).hexdigest()) else None

    async def delete(self, sha256: str) -> bool:
        """Erase; whether there was something. Durable on return."""
        return await asyncio.to_thread(self._delete, sha256)

    def _delete(self, sha256: str) -> bool:
        if not NAME.match(sha256):
            return False
        path = self._path(sha256)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        sync_folder(path.parent)
        return True

    async def size(self, sha256: str) -> int | None:
        """The size in bytes, or None."""
        if not NAME.match(sha256):
            return None
        try:
            return (await asyncio.to_thread(self._path(sha256).stat)).st_size
        except FileNotFoundError:
            return None

    @asynccontextmanager
    async def open_put(self, sha256: str, *, max_bytes: int) -> AsyncIterator[BlobWriter]:
        """Receive a blob whose hash is known. Leaving the block without `commit` leaves nothing behind."""
        if not NAME.match(sha256):
            raise Unprocessable("A blob's name is its SHA-256 in 64 lower-case hex digits.", pointer="/sha256")
        with writing(self._root):
            file = await asyncio.to_thread(self._incoming, sha256)
        try:
            yield _Incoming(self, file, sha256, max_bytes)
        finally:
            await asyncio.to_thread(_discard, file)

    def _incoming(self, sha256: str) -> IO[bytes]:
        return tempfile.NamedTemporaryFile(dir=self._folder(sha256), prefix=_TEMPORARY, delete=False)

    async def open_get(self, sha256: str) -> AsyncIterator[bytes] | None:
        """The bytes in chunks of at most 1 MiB, verified before the first one: a stream cannot be taken back."""
        file = await asyncio.to_thread(self._open_whole, sha256)
        return None if file is None else _chunks(file)

    def _open_whole(self, sha256: str) -> IO[bytes] | None:
        if not NAME.match(sha256):
            return None
        try:
            file = self._path(sha256).open("rb")
        except FileNotFoundError:
            return None
        if not self._is_whole(sha256, hashlib.file_digest(file, "sha256").hexdigest()):
            file.close()
            return None
        file.seek(0)
        return file

    async def sweep(self, referenced: Referenced, *, older_than_s: float = UNREFERENCED_S) -> Swept:
        """Remove blobs and abandoned uploads that are older than `older_than_s` and that nothing refers to."""
        border = self._now_s() - older_than_s
        old = await asyncio.to_thread(self._older, border)
        blobs = total = 0
        for start in range(0, len(old), BATCH):
            batch = old[start : start + BATCH]
            needed = frozenset(await referenced(batch))
            sizes = await asyncio.to_thread(self._remove, [name for name in batch if name not in needed], border)
            blobs += len(sizes)
            total += sum(sizes)
        return Swept(blobs, total)

    def _older(self, border: float) -> list[str]:
        names = []
        for path in self._root.glob("*/*"):
            with suppress(FileNotFoundError):  # somebody else's upload has ended
                if path.stat().st_mtime >= border:
                    continue
                if NAME.match(path.name):
                    names.append(path.name)
                elif path.name.startswith(_TEMPORARY):
                    path.unlink()
        return sorted(names)

    def _remove(self, names: list[str], border: float) -> list[int]:
        sizes = []
        for name in names:
            path = self._path(name)
            with self._lock, suppress(FileNotFoundError):
                info = path.stat()
                if info.st_mtime < border:
                    path.unlink()
                    sizes.append(info.st_size)
        return sizes

    def _publish(self, file: IO[bytes], sha256: str) -> None:
        file.flush()
        now = self._now_s()
        os.utime(file.fileno(), (now, now))
        sync_file(file.fileno())
        path = self._path(sha256)
        with self._lock:
            os.replace(file.name, path)
        sync_folder(path.parent)

    def _renew(self, sha256: str, size: int) -> bool:
        """Make an existing blob young and sure; False if it is missing or damaged, and must be written."""
        path = self._path(sha256)
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size != size:
                    return False
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    return False
        except FileNotFoundError:
            return False
        now = self._now_s()
        os.utime(path, (now, now))
        sync_folder(path.parent)  # whoever wrote it may not have come that far
        return True

    def _is_whole(self, sha256: str, actual: str) -> bool:
        if actual != sha256:
            log.error("the blob %s holds bytes that hash to %s: it is damaged and not returned", sha256, actual)
        return actual == sha256

    def _path(self, sha256: str) -> Path:
        return self._root / sha256[:2] / sha256

    def _folder(self, sha256: str) -> Path:
        folder = self._root / sha256[:2]
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            sync_folder(folder.parent)
            sync_folder(folder.parent.parent)
        return folder


class _Incoming:
    """A blob on its way in: small chunks are gathered, so that a thread hop carries a megabyte."""

    def __init__(self, blobs: FileBlobs, file: IO[bytes], sha256: str, max_bytes: int) -> None:
        self._blobs = blobs
        self._file = file
        self._sha256 = sha256
        self._max_bytes = max_bytes
        self._size = 0
        self._digest = hashlib.sha256()
        self._buffer = bytearray()

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes; TooLarge beyond the bound."""
        self._size += len(chunk)
        if self._size > self._max_bytes:
            raise TooLarge(f"A blob holds at most {self._max_bytes} bytes.")
        self._buffer += chunk
        if len(self._buffer) >= CHUNK_BYTES:
            with writing(self._blobs._root):
                await asyncio.to_thread(self._flush)

    async def commit(self) -> int:
        """Make it durable under its name and return the size."""
        with writing(self._blobs._root):
            await asyncio.to_thread(self._commit)
        return self._size

    def _flush(self) -> None:
        self._digest.update(self._buffer)
        self._file.write(self._buffer)
        self._buffer.clear()

    def _commit(self) -> None:
        self._flush()
        if self._digest.hexdigest() != self._sha256:
            raise Unprocessable(f"The bytes hash to {self._digest.hexdigest()}, not to the name.", code="blob_mismatch")
        self._blobs._publish(self._file, self._sha256)


def _discard(file: IO[bytes]) -> None:
    with suppress(OSError):  # what a full disk did not take is thrown away here
        file.close()
    Path(file.name).unlink(missing_ok=True)  # after a commit it bears another name


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
