"""What the newest backup left in the data directory: how far it holds everything."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
from msgspec import Struct

FILE = "backup.json"

logger = logging.getLogger("hivebus.backup")


class BackupNote(Struct, frozen=True):
    """`file` holds everything up to `position`; `time` is RFC 3339."""

    position: int
    file: str = ""
    time: str = ""


def backed_up(root: Path) -> int | None:
    """The position that the newest backup reaches; None where there is no backup, or no word of it that can be read."""
    path = root / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=BackupNote).position
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        logger.warning("%s cannot be read, so no backup counts: %s", path, error)
        return None
