"""The store as it is at one position, copied while others write to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from adapters.backup.manifest import BackupRefused
from core.kernel.merkle import HASH_BYTES, Frontier

PAGES_PER_STEP = 1024

# (pages done, pages in all)
Copied = Callable[[int, int], None]


class Picture(Struct, frozen=True):
    """Where a store stands: its last position, the Merkle root up to it, its time and its schema's revision."""

    position: int
    root: str
    recorded_ms: int
    revision: str


def store_bytes(store: Path) -> int:
    """The size that a copy will have."""
    with closing(_open(store, "mode=ro")) as source:
        pages, size = (source.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        return int(pages) * int(size)


def copy_store(store: Path, to: Path, copied: Copied) -> None:
    """Copy a SQLite file into a new one as one transaction sees it, whatever is written meanwhile.

    Without a transaction of its own the copy would begin anew each time that the recorder commits.
    """
    to.unlink(missing_ok=True)
    with closing(_open(store, "mode=ro")) as source, closing(sqlite3.connect(to, isolation_level=None)) as target:
        target.execute("PRAGMA synchronous=OFF")
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        source.backup(target, pages=PAGES_PER_STEP, progress=lambda _, left, total: copied(total - left, total))
        source.execute("ROLLBACK")
        target.execute("PRAGMA journal_mode=DELETE")


def look_at(store: Path) -> Picture:
    """What a store that nobody writes to says of itself. Raises BackupRefused for a file that is no store."""
    try:
        with closing(_open(store, "immutable=1")) as copy:
            position, recorded_ms, peaks = copy.execute(
                "SELECT position, recorded_ms, frontier FROM checkpoint"
            ).fetchone()
            (revision,) = copy.execute("SELECT version_num FROM alembic_version").fetchone()
        hashes = [peaks[start : start + HASH_BYTES] for start in range(0, len(peaks), HASH_BYTES)]
        root = Frontier.decode(position, hashes).root()
    except (sqlite3.DatabaseError, TypeError, ValueError) as error:
        raise BackupRefused(
            f"{store} is no store of Hivebus: {error}.",
            code="store_damaged",
            remedy="Take or use an earlier backup; `hivebus verify` says what is damaged.",
        ) from None
    return Picture(position, root.hex(), recorded_ms, revision)


def _open(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None)
