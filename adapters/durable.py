"""What it takes until a file outlives a power cut: its bytes synced, and the folder that names it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def sync_file(fd: int) -> None:
    """To the platter: on macOS plain fsync stops at the drive's cache."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is None:
        os.fsync(fd)
    else:
        fcntl.fcntl(fd, full)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
