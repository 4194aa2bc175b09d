"""The file system under the data directory, and the errors of one that is full."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.kernel.errors import LogFull
from core.services.disk import REMEDY, Space

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
        found = await asyncio.to_thread(os.statvfs, self._root)
        # As `df` counts: blocks that only root may use are neither free nor part of the whole.
        reserved = found.f_bfree - found.f_bavail
        return Space(total=(found.f_blocks - reserved) * found.f_frsize, free=found.f_bavail * found.f_frsize)


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
