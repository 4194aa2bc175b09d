"""Restore a backup into an empty data directory: first all of it is verified, then it is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

from msgspec import Struct

from adapters.backup.archive import Sink, damaged, unpack, verified
from adapters.backup.manifest import MANIFEST, SEAL, STORE, BackupRefused, Manifest
from adapters.backup.store_copy import look_at
from adapters.backup.taking import SPARE_BYTES, Progress
from adapters.durable import sync_file, sync_folder

# While this folder is there, the data directory is half a one: no start, and no other restore.
UNFINISHED = "restoring"
# What may lie in an empty data directory: a file system's own folder, and the lock of whoever asks.
NOTHING = frozenset({"lock", "lost+found"})


class Restored(Struct, frozen=True, kw_only=True):
    """What a data directory holds now."""

    data_dir: str
    position: int
    root: str
    recorded_at: str | None
    created_at: str
    program: str
    blobs: int
    files: int


def inspect(path: Path, revision: str, progress: Progress) -> Manifest:
    """Verify a backup as a whole. Raises BackupRefused where it is damaged or newer than schema `revision`."""
    if not path.is_file():
        raise BackupRefused(f"There is no file {path}.", code="no_backup", remedy="Name the file of a backup.")
    try:
        manifest = verified(path, _counting(path.stat().st_size, progress))
    except OSError as error:
        raise BackupRefused(
            f"{path} cannot be read: {error.strerror}.", code="no_backup", remedy="Nothing was written."
        ) from None
    if manifest.store_revision > revision:
        raise BackupRefused(
            f"{path} holds a store of schema revision {manifest.store_revision}; "
            f"this program ({revision}) does not know it.",
            code="backup_newer",
            remedy=f"Restore it with Hivebus {manifest.program} or later. Nothing was written.",
        )
    return manifest


def refuse_used(root: Path) -> None:
    """Raise BackupRefused unless a data directory is missing or empty."""
    if not root.exists():
        return
    if not root.is_dir():
        raise BackupRefused(f"{root} is no directory.", code="data_dir_used", remedy="Choose another.")
    names = sorted({entry.name for entry in root.iterdir()} - NOTHING)
    if not names:
        return
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    unfinished = UNFINISHED in names
    raise BackupRefused(
        f"{root} is not empty: it holds {shown}."
        + (" An earlier restore did not come to its end." if unfinished else ""),
        code="data_dir_used",
        remedy="Empty it and restore again."
        if unfinished
        else "A restore never writes over data. Move it away, or choose another directory: --data-dir PATH",
    )


def restore(path: Path, root: Path, manifest: Manifest, progress: Progress) -> Restored:
    """Write a verified backup into a data directory that is empty; the caller holds its lock.

    Everything is written and synced under `restoring/` and then moved up, the store last: whoever interrupts it leaves
    a directory that no start takes for a whole one. Raises BackupRefused.
    """
    try:
        return _restore(path, root, manifest, progress)
    except OSError as error:
        raise BackupRefused(
            f"The backup could not be restored: {error}.",
            code="restore_failed",
            remedy=f"Empty {root}, see that it may be written and has space, and restore again.",
        ) from None


def _restore(path: Path, root: Path, manifest: Manifest, progress: Progress) -> Restored:
    needed = sum(member.size for member in manifest.files) + manifest.blob_bytes + SPARE_BYTES
    free = shutil.disk_usage(root).free
    if free < needed:
        raise BackupRefused(
            f"The data needs {needed // 1_000_000} MB in {root}; {free // 1_000_000} MB are free.",
            code="disk_full",
            remedy="Free some, or choose a data directory on another disk.",
        )
    stage = root / UNFINISHED
    stage.mkdir(mode=0o700)
    sync_folder(root)
    try:
        files = _Files(stage)
        unpack(path, files.open, _counting(path.stat().st_size, progress))
        files.close()
        picture = look_at(stage / STORE)
        if (picture.position, picture.root) != (manifest.position, manifest.root):
            raise damaged(path, f"its store ends at {picture.position} and not at {manifest.position}")
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    _move_up(stage, root)
    return Restored(
        data_dir=str(root),
        position=manifest.position,
        root=manifest.root,
        recorded_at=manifest.recorded_at,
        created_at=manifest.created_at,
        program=manifest.program,
        blobs=manifest.blobs,
        files=len(manifest.files),
    )


class _Files:
    """The files that are written, one at a time; each is synced when the next one begins."""

    def __init__(self, stage: Path) -> None:
        self._stage = stage
        self._file: IO[bytes] | None = None
        self._folders = {stage}

    def open(self, name: str) -> Sink | None:
        """The file of a member; None for the manifest and its seal."""
        self._end()
        if name in (MANIFEST, SEAL):
            return None
        path = self._stage / name
        fresh = [folder for folder in path.parents if self._stage in folder.parents and folder not in self._folders]
        # One by one: what `parents=True` makes on the way has no mode of ours.
        for folder in reversed(fresh):
            folder.mkdir(mode=0o700)
            self._folders.add(folder)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        return self._file

    def close(self) -> None:
        """Make the last file durable, and all names."""
        self._end()
        for folder in self._folders:
            sync_folder(folder)

    def _end(self) -> None:
        if self._file is not None:
            self._file.flush()
            sync_file(self._file.fileno())
            self._file.close()
            self._file = None


def _move_up(stage: Path, root: Path) -> None:
    entries = sorted(stage.iterdir(), key=lambda entry: entry.name == STORE)
    for entry in entries:
        entry.rename(root / entry.name)
    sync_folder(root)
    stage.rmdir()
    sync_folder(root)


def _counting(total: int, progress: Progress) -> Callable[[int], None]:
    done = 0

    def moved(size: int) -> None:
        nonlocal done
        done += size
        progress(min(done, total), total)

    return moved
