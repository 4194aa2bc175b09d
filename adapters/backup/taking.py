"""Take a backup: the store as of one position, the blobs that it may refer to, keys and secrets, in one file."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from msgspec import Struct

from adapters.backup.archive import ArchiveWriter
from adapters.backup.manifest import BLOBS, FORMAT, STORE, BackupRefused, Manifest, kept_files
from adapters.backup.store_copy import copy_store, look_at, store_bytes
from adapters.blobs.files import NAME as BLOB_NAME
from adapters.durable import sync_file, sync_folder
from core.kernel.times import rfc3339

# Left free on the file system that receives the backup: a full one would stop whoever else writes there.
SPARE_BYTES = 32 * 1024 * 1024
# Headers and padding of the archive.
MEMBER_BYTES = 2048

# (bytes done, bytes in all)
Progress = Callable[[int, int], None]


class Taken(Struct, frozen=True, kw_only=True):
    """A backup that is whole and durable. `damaged` blobs are not in it: their bytes were no longer their own."""

    file: str
    bytes: int
    position: int
    root: str
    recorded_at: str | None
    created_at: str
    blobs: int
    secrets: bool
    damaged: tuple[str, ...]


def take(
    root: Path,
    to: Path,
    *,
    program: str,
    now_ms: int,
    progress: Progress,
    force: bool = False,
    secrets: bool = True,
    compress: bool = False,
) -> Taken:
    """Back up a data directory into one file, readable by its owner alone, while the program runs or not.

    The file appears under its name when it is whole. Raises BackupRefused, and leaves nothing then.
    """
    root, to = root.absolute(), to.absolute()
    _refuse_place(root, to, force=force)
    beside, copy = to.with_name(f"{to.name}.new"), to.with_name(f"{to.name}.new.store")
    with _held(beside) as file:
        try:
            work = _Work(root, to.parent, progress, secrets=secrets)
            copy_store(root / STORE, copy, work.copied)
            # The blobs come after the store: each was durable before the first commit that names it.
            taken = work.write(file, copy, to, program=program, now_ms=now_ms, compress=compress)
            file.flush()
            sync_file(file.fileno())
            if not force and to.exists():
                raise _exists(to)
            beside.replace(to)
            sync_folder(to.parent)
        except (OSError, sqlite3.Error) as error:
            beside.unlink(missing_ok=True)
            raise BackupRefused(
                f"The backup could not be written: {error}.",
                code="backup_failed",
                remedy=f"Nothing was left behind. See that {to.parent} has space and may be written, then try again.",
            ) from None
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        finally:
            for leftover in (copy, copy.with_name(f"{copy.name}-journal")):
                leftover.unlink(missing_ok=True)
    return taken


class _Work:
    """One backup: what it will hold, and how far it is."""

    def __init__(self, root: Path, folder: Path, progress: Progress, *, secrets: bool) -> None:
        self._root = root
        self._secrets = secrets
        self._progress = progress
        self._store_bytes = store_bytes(root / STORE)
        blob_bytes = sum(_size(path) for path in _blobs(root))
        small = sum(_size(path) for path in kept_files(root, secrets=secrets))
        # The store is first copied, then written into the archive.
        self._total = 2 * self._store_bytes + blob_bytes + small
        self._before = self._done = 0
        _refuse_full(folder, self._total + SPARE_BYTES)

    def copied(self, pages: int, of: int) -> None:
        """Heard while the store is copied."""
        self._done = self._store_bytes * pages // max(of, 1)
        self._progress(self._done, self._total)

    def moved(self, size: int) -> None:
        """Heard while the archive is written."""
        self._done = min(self._done + size, self._total)
        self._progress(self._done, self._total)

    def write(self, file: IO[bytes], copy: Path, to: Path, *, program: str, now_ms: int, compress: bool) -> Taken:
        """Write the archive; the store's copy says which position it is of."""
        picture = look_at(copy)
        archive = ArchiveWriter(file, compress=compress, moved=self.moved)
        archive.keep(archive.add(STORE, copy))
        for path in kept_files(self._root, secrets=self._secrets):
            archive.keep(archive.add(path.relative_to(self._root).as_posix(), path))
        damaged = tuple(path.name for path in _blobs(self._root) if not archive.add_blob(path.name, path))
        recorded_at = rfc3339(picture.recorded_ms) if picture.position else None
        manifest = Manifest(
            format=FORMAT,
            program=program,
            store_revision=picture.revision,
            position=picture.position,
            root=picture.root,
            recorded_at=recorded_at,
            created_at=rfc3339(now_ms),
            files=tuple(archive.members),
            blobs=archive.blobs,
            blob_bytes=archive.blob_bytes,
        )
        archive.finish(manifest)
        return Taken(
            file=str(to),
            bytes=file.tell(),
            position=picture.position,
            root=picture.root,
            recorded_at=recorded_at,
            created_at=manifest.created_at,
            blobs=archive.blobs,
            secrets=self._secrets,
            damaged=damaged,
        )


def _blobs(root: Path) -> Iterator[Path]:
    """All blobs, not only those that a commit names: a look into every commit would cost more than the copy."""
    return (path for path in sorted((root / BLOBS).glob("*/*")) if BLOB_NAME.match(path.name))


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size + MEMBER_BYTES
    return 0


def _refuse_place(root: Path, to: Path, *, force: bool) -> None:
    if not (root / STORE).exists():
        raise BackupRefused(
            f"There is no {root / STORE}.",
            code="nothing_to_back_up",
            remedy="Start Hivebus once on this data directory, or name another: --data-dir PATH",
        )
    if root.resolve() in to.resolve().parents:
        raise BackupRefused(
            f"{to} lies in the data directory: it would be lost together with it.",
            code="backup_inside",
            remedy="Choose a file elsewhere, at best on another disk.",
        )
    if not to.parent.is_dir():
        raise BackupRefused(f"There is no folder {to.parent}.", code="no_folder", remedy="Make it, or choose another.")
    if to.is_dir() or (to.exists() and not force):
        raise _exists(to)


def _exists(to: Path) -> BackupRefused:
    return BackupRefused(f"{to} exists.", code="file_exists", remedy="Choose another name, or replace it: --force")


def _refuse_full(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BackupRefused(
            f"The backup needs up to {needed // 1_000_000} MB in {folder}; {free // 1_000_000} MB are free.",
            code="disk_full",
            remedy="Free some, or choose a file on another disk.",
        )


@contextmanager
def _held(beside: Path) -> Iterator[IO[bytes]]:
    """The unfinished file, ours alone; what an interrupted backup left there is written over."""
    try:
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise BackupRefused(
            f"{beside} cannot be written: {error.strerror}.", code="backup_failed", remedy="Choose another folder."
        ) from None
    with os.fdopen(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupRefused(
                f"Another backup into {beside} is under way.",
                code="busy",
                remedy="Wait for it, or choose another name.",
            ) from None
        os.fchmod(file.fileno(), 0o600)
        file.truncate(0)
        yield file
