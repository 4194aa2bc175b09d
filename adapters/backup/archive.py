"""The file of a backup: a tar archive (gzip if wished) that proves itself before a byte of it is used."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

import msgspec

from adapters.backup.manifest import BLOBS, FORMAT, MANIFEST, SEAL, BackupRefused, Manifest, Member

CHUNK_BYTES = 1024 * 1024
SMALL_MAX_BYTES = 64 * 1024 * 1024
GZIP_LEVEL = 1

# Bytes that were read or written since the last call.
Moved = Callable[[int], None]


class Sink(Protocol):
    """Where a verified member goes, a chunk at a time."""

    def write(self, data: bytes, /) -> object:
        """Take the next bytes."""
        ...


class ArchiveWriter:
    """Writes members one after the other, hashing what it writes."""

    def __init__(self, file: IO[bytes], *, compress: bool, moved: Moved) -> None:
        self._packed = gzip.GzipFile(fileobj=file, mode="wb", compresslevel=GZIP_LEVEL) if compress else None
        self._tar = tarfile.open(  # noqa: SIM115 - `finish` closes it; a backup that fails is thrown away
            fileobj=self._packed or file, mode="w|", format=tarfile.PAX_FORMAT
        )
        self._moved = moved
        self.members: list[Member] = []
        self.blobs = self.blob_bytes = 0

    def add(self, name: str, path: Path) -> Member:
        """Add a file as it is now."""
        with path.open("rb") as file:
            return self._stream(name, file, path.stat().st_size)

    def add_blob(self, name: str, path: Path) -> bool:
        """Add a blob if it is there and hashes to its name; whether it did."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return True  # erased since it was listed: a backup without it is right
        with file:
            if hashlib.file_digest(file, "sha256").hexdigest() != name:
                return False
            size = file.tell()
            file.seek(0)
            self._stream(f"{BLOBS}/{name[:2]}/{name}", file, size)
        self.blobs += 1
        self.blob_bytes += size
        return True

    def keep(self, member: Member) -> None:
        """List a member in the manifest."""
        self.members.append(member)

    def finish(self, manifest: Manifest) -> None:
        """Add the manifest and its seal, and end the archive."""
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        for name, data in ((MANIFEST, text), (SEAL, hashlib.sha256(text).hexdigest().encode())):
            self._stream(name, io.BytesIO(data), len(data))
        self._tar.close()
        if self._packed is not None:
            self._packed.close()

    def _stream(self, name: str, file: IO[bytes], size: int) -> Member:
        header = tarfile.TarInfo(name)
        header.size, header.mode = size, 0o600
        read = _Hashing(file, self._moved)
        self._tar.addfile(header, read)
        return Member(name, size, read.sha256)


class _Hashing(io.RawIOBase):
    def __init__(self, file: IO[bytes], moved: Moved) -> None:
        self._file = file
        self._moved = moved
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        self._moved(len(data))
        return data


def verified(path: Path, moved: Moved) -> Manifest:
    """Read a backup from its first to its last byte; its manifest, if all of it is what was written.

    Raises BackupRefused: `backup_damaged`, or `backup_newer` for one that a later version of this program wrote.
    """
    found: dict[str, Member] = {}
    small: dict[str, bytes] = {}
    blobs = blob_bytes = 0
    for name, size, chunks in _members(path):
        digest = hashlib.sha256()
        kept = bytearray()
        for chunk in chunks:
            digest.update(chunk)
            moved(len(chunk))
            if name in (MANIFEST, SEAL):
                kept += chunk
        if name in (MANIFEST, SEAL):
            small[name] = bytes(kept)
        elif name.startswith(f"{BLOBS}/"):
            if name != _blob_path(digest.hexdigest()):
                raise damaged(path, f"the blob {name} holds other bytes than it should")
            blobs, blob_bytes = blobs + 1, blob_bytes + size
        else:
            found[name] = Member(name, size, digest.hexdigest())
    manifest = _manifest(path, small)
    for member in manifest.files:
        if found.pop(member.name, None) != member:
            raise damaged(path, f"{member.name} is not what was backed up")
    if found or (blobs, blob_bytes) != (manifest.blobs, manifest.blob_bytes):
        raise damaged(path, f"it holds {blobs} blobs and {len(found)} unknown files; {manifest.blobs} and none are due")
    return manifest


def _manifest(path: Path, small: dict[str, bytes]) -> Manifest:
    text, seal = small.get(MANIFEST), small.get(SEAL)
    if text is None or seal is None:
        raise damaged(path, "its end is missing")
    if hashlib.sha256(text).hexdigest().encode() != seal:
        raise damaged(path, "its manifest was changed")
    try:
        # First the number alone: another format may call its fields otherwise.
        number = msgspec.json.decode(text, type=_Numbered).format
        if number > FORMAT:
            raise BackupRefused(
                f"{path} is a backup of format {number}; this program reads formats up to {FORMAT}.",
                code="backup_newer",
                remedy="Restore it with the version of Hivebus that wrote it, or a later one.",
            )
        return msgspec.json.decode(text, type=Manifest)
    except msgspec.MsgspecError as error:
        raise damaged(path, f"its manifest cannot be read ({error})") from None


class _Numbered(msgspec.Struct):
    format: int


def unpack(path: Path, into: Callable[[str], Sink | None], moved: Moved) -> None:
    """Hand each member's bytes to the sink that `into` opens for its name; None passes it over."""
    for name, _, chunks in _members(path):
        sink = into(name)
        for chunk in chunks:
            if sink is not None:
                sink.write(chunk)
            moved(len(chunk))


def _members(path: Path) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    """(name, size, chunks) of every member, in order; each's chunks must be read before the next one."""
    with _reading(path), tarfile.open(path, mode="r|*") as tar:
        for header in tar:
            if not header.isreg() or not _is_safe(header.name):
                raise damaged(path, f"{header.name!r} does not belong into a backup")
            file = tar.extractfile(header)
            assert file is not None, "a regular member has content"
            if header.name in (MANIFEST, SEAL) and header.size > SMALL_MAX_BYTES:
                raise damaged(path, f"{header.name} is larger than it can be")
            yield header.name, header.size, _chunks(path, file, header.size)


def _chunks(path: Path, file: IO[bytes], size: int) -> Iterator[bytes]:
    left = size
    while left:
        # The bytes are read after `_members` has handed them out, beyond the reach of its own guard.
        with _reading(path):
            chunk = file.read(min(CHUNK_BYTES, left))
        if not chunk:
            raise damaged(path, "it was cut")
        left -= len(chunk)
        yield chunk


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged(path, str(error) or "it was cut") from None


def damaged(path: Path, what: str) -> BackupRefused:
    """The error for a file that is not, or no longer, a backup."""
    return BackupRefused(
        f"{path} is no whole backup: {what}.",
        code="backup_damaged",
        remedy="Nothing was written. Copy the file again from where it came from, or use another backup.",
    )


def _blob_path(sha256: str) -> str:
    return f"{BLOBS}/{sha256[:2]}/{sha256}"


def _is_safe(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\0" not in name
