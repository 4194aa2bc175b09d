"""Images of folds as files: written beside, renamed over. Losing one costs a longer start, nothing else."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import psutil

logger = logging.getLogger("hivebus.snapshots")


class FileSnapshots:
    """One image in one file (see core.services.link.Snapshots).

    Schedulers that share a data directory keep the same file, each writes beside it under the number of its process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def load(self) -> bytes | None:
        """The image, if there is one."""
        return await asyncio.to_thread(self._load)

    async def save(self, image: bytes) -> None:
        """Replace the image, if the disk takes it: the old one serves as well."""
        await asyncio.to_thread(self._save, image)

    def _load(self) -> bytes | None:
        for left in self._path.parent.glob(f"{self._path.stem}.*.new"):
            # Whoever was killed while it wrote left a part of an image.
            pid = left.suffixes[-2][1:]
            if pid.isdecimal() and not psutil.pid_exists(int(pid)):
                left.unlink(missing_ok=True)
        return self._path.read_bytes() if self._path.exists() else None

    def _save(self, image: bytes) -> None:
        beside = self._path.with_suffix(f".{os.getpid()}.new")
        try:
            beside.write_bytes(image)
            beside.replace(self._path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            logger.warning("The image %s is not renewed: %s", self._path.name, error)
