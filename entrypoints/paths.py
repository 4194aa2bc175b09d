"""Where the program keeps its things on this machine. One place, so that server and command line always agree."""

from __future__ import annotations

import os
from pathlib import Path

DATA_DIR_VARIABLE = "HIVEBUS_DATA_DIR"


def data_dir() -> Path:
    """HIVEBUS_DATA_DIR if it is set and not empty, else the user's data directory of this system. Not created here."""
    chosen = os.environ.get(DATA_DIR_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs  # noqa: PLC0415 - most starts name the directory, and need no search for it

    return Path(platformdirs.user_data_dir("hivebus", appauthor=False))


def connection_file(root: Path) -> Path:
    """Where a running server says how to reach it: JSON with url, ui_url, nats_url and pid. Gone when nothing runs."""
    return root / "connection.json"


def admin_key_file(root: Path) -> Path:
    """The admin key: one line, readable by its owner only."""
    return root / "admin.key"


def backup_file(root: Path) -> Path:
    """What the newest backup holds: JSON with position, file and time."""
    return root / "backup.json"


def host_key_file(root: Path) -> Path:
    """The key of agent hosts, good for blobs only: one line, readable by its owner only."""
    return root / "host.key"


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)
