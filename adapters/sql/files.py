"""The views' files in a data directory: the live one, the one that is being made, and the one before it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event

from core.kernel.errors import StartRefused

BUSY_TIMEOUT_S = 5.0
COMPANIONS = ("-wal", "-shm", "-journal")


class ViewFiles:
    """`views.db` is read and written by the program; `.new` is nobody's; `.old` is kept until the next change-over."""

    def __init__(self, root: Path) -> None:
        self.live = root / "views.db"
        self.new = root / "views.db.new"
        self.old = root / "views.db.old"

    def discard(self) -> None:
        """Remove what a rebuild left that did not come to its end."""
        _remove(self.new)

    def copy(self) -> None:
        """Begin the new file as a copy of the live one, as its last transaction left it."""
        try:
            with closing(sqlite3.connect(self.live)) as source, closing(sqlite3.connect(self.new)) as target:
                source.backup(target)
        except sqlite3.DatabaseError as error:
            raise StartRefused(
                f"The views in {self.live} cannot be copied: {error}.", remedy="Rebuild all of them: hivebus rebuild"
            ) from error

    def flip(self) -> bool:
        """The new file becomes the live one, at once or not at all; whether there is an old one now."""
        _sync(self.new)
        _remove(self.old)
        there = self.live.exists()
        if there:
            _close(self.live)
            _second_name(self.live, self.old)
        self.new.replace(self.live)
        _sync(self.live.parent)
        return there

    def swap(self) -> None:
        """The old file and the live one change places. Raises StartRefused where there is no old one."""
        if not self.old.exists():
            raise StartRefused(
                f"There are no older views in {self.live.parent}.",
                remedy="One set is kept by each rebuild; before the first there is none.",
            )
        self.discard()
        if self.live.exists():
            _close(self.live)
            _second_name(self.live, self.new)
        self.old.replace(self.live)
        if self.new.exists():
            self.new.replace(self.old)
        _sync(self.live.parent)


@contextmanager
def opened(path: Path, pragmas: tuple[str, ...]) -> Iterator[Engine]:
    """An engine for one file of SQLite, its transactions begun by nobody but the caller."""
    engine = create_engine(URL.create("sqlite", database=str(path)), pool_size=1, max_overflow=0)

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    try:
        yield engine
    finally:
        engine.dispose()


def _close(path: Path) -> None:
    """Fold the write-ahead log into the file: under another name it would belong to nobody."""
    with closing(sqlite3.connect(path, BUSY_TIMEOUT_S, isolation_level=None)) as connection:
        try:
            connection.execute("PRAGMA journal_mode=DELETE").fetchone()
        except sqlite3.OperationalError as error:
            raise StartRefused(
                f"Somebody else reads {path}: {error}.",
                remedy="Wait for the other command (a `hivebus verify`, perhaps) to end, then try again.",
            ) from error
        except sqlite3.DatabaseError:
            pass  # what is no database has no log either; it is kept as it is


def _second_name(path: Path, name: Path) -> None:
    try:
        os.link(path, name)
    except OSError:
        # A file system without links: for a moment there is no live file, and a crash then means folding again.
        path.replace(name)


def _remove(path: Path) -> None:
    for companion in ("", *COMPANIONS):
        path.with_name(path.name + companion).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
