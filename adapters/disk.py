"""The file system under the data directory, and the errors of one that is full."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.kernel.errors import LogFull, StartRefused
from core.services.disk import REMEDY, Level, Marks, Space, level_of

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class FileSystem:
    """The Disk of a data directory, as statvfs sees it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def path(self) -> str:
        """The data directory."""
        return str(self._root)

    async def measure(self) -> Space:
        """See Disk. A network file system may take its time: not on the loop."""
        return await asyncio.to_thread(space_of, self._root)


def space_of(path: Path) -> Space:
    """As `df` counts: blocks that only root may use are neither free nor part of the whole. Raises OSError."""
    found = os.statvfs(path)
    reserved = found.f_bfree - found.f_bavail
    return Space(total=(found.f_blocks - reserved) * found.f_frsize, free=found.f_bavail * found.f_frsize)


def refuse_exhausted(root: Path) -> None:
    """Raise StartRefused where a start would fail in the middle of a write; `root` need not exist yet."""
    try:
        there = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
        space = space_of(there)
    except OSError:
        return  # whoever makes or locks the directory says what is wrong with it
    if level_of(space, Marks()) is Level.EXHAUSTED:
        raise StartRefused(
            f"The disk of {root} is {space.used_percent:.0f} % full, {space.free // 1_000_000} MB are free.",
            code="disk_full",
            remedy="Free space there, then start again; nothing was changed.",
        )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A write that a full disk refuses, as LogFull (`disk_full`); every other OSError as it is."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise LogFull(
            f"The disk is full: {error.strerror}.",
            code="disk_full",
            remedy=REMEDY.format(path=path),
            retry_after_s=5,
        ) from error
