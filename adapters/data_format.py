"""Which version of the program a data directory belongs to, and the copy that is made before a newer one changes it."""

from __future__ import annotations

import logging
import re
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import msgspec
from msgspec import Struct

import migrations
from adapters.backup.manifest import STORE
from adapters.backup.restoring import UNFINISHED
from adapters.backup.store_copy import copy_store, store_bytes
from adapters.backup.taking import SPARE_BYTES
from adapters.durable import sync_file, sync_folder
from core.kernel.errors import StartRefused

logger = logging.getLogger("hivebus")

FORMAT = 1
FILE = "format.json"
SAY_EVERY_S = 2.0
GO_FORWARD = "Start that version or a later one, or restore a backup from before the upgrade into another directory."

_REVISION = re.compile(r"v(\d{4})_\w+\.py").fullmatch


class DataFormat(Struct, frozen=True):
    """The layout of a data directory, and the program that wrote it last."""

    format: int = FORMAT
    program: str = ""


def head() -> str:
    """The newest schema revision of the store that this program knows, without importing what migrates."""
    folder = Path(migrations.__file__).parent / "versions"
    return max(match[1] for path in folder.iterdir() if (match := _REVISION(path.name)))


def prepare(root: Path, program: str) -> None:
    """Make sure that this program may open a data directory; its lock is held, and nothing of it is open.

    What an older program wrote is copied first, to `before-<program>/`: opening it migrates it. Raises StartRefused for
    what a newer one wrote, for half a restore, and where there is no room for the copy.
    """
    if (root / UNFINISHED).exists():
        raise StartRefused(
            f"A restore into {root} did not come to its end.",
            code="restore_unfinished",
            remedy="Empty the directory, and restore again: hivebus restore FILE",
        )
    found = _read(root / FILE)
    if found is not None and found.format > FORMAT:
        raise StartRefused(
            f"{root} was written by Hivebus {found.program or 'of a later version'} (format {found.format}); "
            f"this is {program}, which knows formats up to {FORMAT}.",
            code="data_dir_newer",
            remedy=GO_FORWARD,
        )
    revision = _revision(root / STORE)
    if revision is not None and revision > head():
        wrote = f"Hivebus {found.program}" if found and found.program else "a later version"
        raise StartRefused(
            f"The store has schema revision {revision}, written by {wrote}; this is {program}, "
            f"which knows revisions up to {head()}.",
            code="store_newer",
            remedy=GO_FORWARD,
        )
    if revision is not None and (revision < head() or (found is not None and found.format < FORMAT)):
        _copy(root, program, revision)
    if found != DataFormat(program=program):
        _write(root / FILE, DataFormat(program=program))


def refuse_another(root: Path, program: str) -> None:
    """Raise StartRefused unless this very program wrote the directory last: others of it work there now."""
    found = _read(root / FILE)
    if found != DataFormat(program=program):
        raise StartRefused(
            f"Processes of {found.program if found else 'another version'} work in {root}; this is {program}.",
            code="data_dir_in_use",
            remedy="Stop them first: a directory is brought to a newer version while nobody works in it.",
        )


def _read(path: Path) -> DataFormat | None:
    """None where there is no file: the directory is new, or older than this file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=DataFormat)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise StartRefused(
            f"{path} cannot be read: {error}.",
            code="data_dir_unreadable",
            remedy="Remove the file if you know that this version, or an earlier one, wrote the directory.",
        ) from None


def _revision(store: Path) -> str | None:
    if not store.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{store.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            known = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'alembic_version'").fetchone()
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if known else None
    except sqlite3.OperationalError as error:
        raise StartRefused(
            f"{store} cannot be opened: {error}.",
            code="store_unavailable",
            remedy="See that this user may read and write it, and that its disk has space.",
        ) from None
    except sqlite3.DatabaseError as error:
        raise StartRefused(
            f"{store} cannot be read: {error}.",
            code="store_damaged",
            remedy="Move it away and start: it is filled from the log. Where the log was trimmed, restore a backup.",
        ) from None
    return str(row[0]) if row else None


def _copy(root: Path, program: str, revision: str) -> None:
    """One copy is kept: an earlier one goes when the new one is whole."""
    needed, free = store_bytes(root / STORE) + SPARE_BYTES, shutil.disk_usage(root).free
    if free < needed:
        raise StartRefused(
            f"The store has schema revision {revision} and is copied before it is changed; "
            f"that needs {needed // 1_000_000} MB, and {free // 1_000_000} MB are free.",
            code="disk_full",
            remedy=f"Free some on the file system of {root}, then start again.",
        )
    kept = root / f"before-{program}"
    logger.info("The store has schema revision %s; it is copied to %s, then brought to %s.", revision, kept, head())
    beside = root / f"{kept.name}.new"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(mode=0o700)
    copy_store(root / STORE, beside / STORE, _Said())
    (beside / STORE).chmod(0o600)
    with (beside / STORE).open("rb+") as file:
        sync_file(file.fileno())
    sync_folder(beside)
    for earlier in root.glob("before-*"):
        if earlier != beside:
            shutil.rmtree(earlier)
    beside.rename(kept)
    sync_folder(root)


class _Said:
    def __init__(self) -> None:
        self._since = time.monotonic()

    def __call__(self, pages: int, of: int) -> None:
        if time.monotonic() - self._since >= SAY_EVERY_S:
            self._since = time.monotonic()
            logger.info("Copied %d of %d pages of the store.", pages, of)


def _write(path: Path, content: DataFormat) -> None:
    beside = path.with_name(f"{path.name}.new")
    with beside.open("wb") as file:
        beside.chmod(0o600)
        file.write(msgspec.json.encode(content) + b"\n")
        file.flush()
        sync_file(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)
