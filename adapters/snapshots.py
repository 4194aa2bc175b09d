"""Images of folds as files: written beside, renamed over. Losing one costs a longer start, nothing else."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

logger = logging.getLogger("hivebus.snapshots")


class FileSnapshots:
    """One image in one file (see core.services.link.Snapshots)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def load(self) -> bytes | None:
        """The image, if there is one."""
        return await asyncio.to_thread(self._load)

    async def save(self, image: bytes) -> None:
        """Replace the image, if the disk takes it: the old one serves as well."""
        await asyncio.to_thread(self._save, image)

    def _load(self) -> bytes | None:
        return self._path.read_bytes() if self._path.exists() else None

    def _save(self, image: bytes) -> None:
        beside = self._path.with_suffix(".new")
        try:
            beside.write_bytes(image)
            beside.replace(self._path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            logger.warning("The image %s is not renewed: %s", self._path.name, error)
