"""`backup` and `restore`: the files of this machine into one file, and back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from entrypoints.cli.failures import Exit, Failure
from entrypoints.cli.output import emit, line, note
from entrypoints.cli.verb import Verb, json_option, when_interrupted
from entrypoints.eta import SAY_EVERY_S
from entrypoints.paths import DATA_DIR_VARIABLE, backup_file, data_dir, write_private

DATABASE_VARIABLE = "HIVEBUS_DATABASE_URL"


def backup_verb() -> Verb:
    """`backup`."""
    return Verb(
        "backup",
        params=[
            click.Argument(["file"], type=click.Path(path_type=Path, dir_okay=False)),
            click.Option(["--force"], is_flag=True, help="Replace FILE if it exists."),
            click.Option(["--gzip", "compress"], is_flag=True, help="Compress it: slower, and smaller."),
            click.Option(["--without-secrets"], is_flag=True, help="Leave the folder secrets/ out."),
            _data_dir_option(),
            json_option(),
        ],
        callback=backup,
        help="""Write everything that a system needs to be itself again into FILE, while it runs or not.

        FILE holds the store as of one position, blobs, keys and secrets, and is readable by its owner alone: keep it as
        safe as the data directory. It appears when it is whole. Exit codes: 0 all is in it, 1 a damaged blob is not.
        """,
        short_help="Write a backup of this machine's data into a file.",
        examples=("hivebus backup /mnt/safe/hivebus.tar", "hivebus backup hivebus.tar.gz --gzip --force --json"),
    )


def restore_verb() -> Verb:
    """`restore`."""
    return Verb(
        "restore",
        params=[
            click.Argument(["file"], type=click.Path(path_type=Path, dir_okay=False)),
            _data_dir_option(),
            json_option(),
        ],
        callback=restore,
        help="""Make a data directory from a backup. It must be missing or empty; nothing is ever written over.

        All of FILE is verified before anything is written. The next `hivebus up` fills the log from the store and folds
        the views; what was accepted after the backup's position is not in it.
        """,
        short_help="Make a data directory from a backup.",
        examples=("hivebus restore /mnt/safe/hivebus.tar", "hivebus restore hivebus.tar --data-dir ./hive"),
    )


def backup(file: Path, force: bool, compress: bool, without_secrets: bool, data_dir: str | None, as_json: bool) -> Exit:
    """Take it, and note in the data directory up to where the log may be trimmed."""
    _refuse_postgres()
    from adapters.backup.taking import take  # noqa: PLC0415 - other commands start without it

    root = _root(data_dir)
    when_interrupted("Interrupted. Nothing was left behind.")
    started = time.monotonic()
    with _explained():
        taken = take(
            root,
            file,
            program=_program(),
            now_ms=time.time_ns() // 1_000_000,
            progress=Moved("backed up"),
            force=force,
            secrets=not without_secrets,
            compress=compress,
        )
    _remember(root, {"position": taken.position, "file": taken.file, "time": taken.created_at})
    seconds = round(time.monotonic() - started, 3)
    if as_json:
        emit(msgspec.to_builtins(taken) | {"seconds": seconds})
    else:
        line(f"{taken.file}: everything up to position {taken.position}, {taken.blobs} blobs, {_mb(taken.bytes)} MB")
        line(f"Merkle root {taken.root}, {seconds} s")
        note("It holds the admin key" + (" and the secrets" if taken.secrets else "") + ": keep it safe.")
    for name in taken.damaged:
        note(f"The blob {name} is damaged on disk and not in the backup.")
    return Exit.SOME_NOT if taken.damaged else Exit.OK


def restore(file: Path, data_dir: str | None, as_json: bool) -> Exit:
    """Verify all, lock the directory, write."""
    _refuse_postgres()
    from adapters.backup import restoring  # noqa: PLC0415
    from adapters.data_format import head  # noqa: PLC0415
    from entrypoints.lock import DataDirectory  # noqa: PLC0415

    root = _root(data_dir).absolute()
    when_interrupted("Interrupted. If the data directory is not empty now, empty it and restore again.")
    started = time.monotonic()
    with _explained():
        restoring.refuse_used(root)
        manifest = restoring.inspect(file, head(), Moved("verified"))
        directory = DataDirectory(root)
        directory.take()
        try:
            restoring.refuse_used(root)
            restored = restoring.restore(file, root, manifest, Moved("restored"))
        finally:
            directory.release()
    if as_json:
        emit(msgspec.to_builtins(restored) | {"seconds": round(time.monotonic() - started, 3)})
        return Exit.OK
    line(f"{root} is as it was at position {restored.position}, {restored.recorded_at or 'before the first commit'}.")
    note(
        f"Start it: {DATA_DIR_VARIABLE}={root} hivebus up. The log is filled from the store and the views are folded "
        "again.\nWhat was accepted later is not there, and its positions are given anew: readers that remember a "
        f"position after {restored.position} must begin again from it."
    )
    return Exit.OK


class Moved:
    """Says how far it is, now and then."""

    def __init__(self, what: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._monotonic = monotonic
        self._since = monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Heard after each piece; bytes."""
        now = self._monotonic()
        if now - self._since >= SAY_EVERY_S:
            note(f"{self._what} {_mb(done)} of {_mb(total)} MB")
            self._since = now


def _data_dir_option() -> click.Option:
    return click.Option(["--data-dir"], metavar="PATH", help=f"Which data.  [default: {DATA_DIR_VARIABLE}]")


def _root(chosen: str | None) -> Path:
    return Path(chosen).expanduser() if chosen else data_dir()


def _program() -> str:
    from importlib.metadata import version  # noqa: PLC0415 - slow, and for this only

    return version("hivebus")


def _mb(size: int) -> str:
    return f"{size / 1_000_000:.1f}"


def _refuse_postgres() -> None:
    if os.environ.get(DATABASE_VARIABLE) or os.environ.get(f"{DATABASE_VARIABLE}_FILE"):
        raise Failure(
            f"{DATABASE_VARIABLE} is set: the store lies in Postgres, and this command copies SQLite.",
            remedy="Back the database up with pg_dump --format=custom (and restore it with pg_restore into an empty "
            "one); after it, copy blobs/, secrets/, *.key and host.id of the data directory.",
            code="not_available",
        )


def _remember(root: Path, document: dict[str, object]) -> None:
    """Where trimming looks for the position up to which nothing can be lost."""
    try:
        write_private(backup_file(root), msgspec.json.encode(document).decode() + "\n")
    except OSError as error:
        why = f"{backup_file(root)} cannot be written: {error.strerror}"
        note(f"The backup is whole, but trimming will not know of it: {why}.")


@contextmanager
def _explained() -> Iterator[None]:
    from core.kernel.errors import HivebusError  # noqa: PLC0415 - only these commands meet the server's own errors

    try:
        yield
    except HivebusError as error:
        raise Failure(error.sentence, remedy=error.remedy, code=error.code) from error
