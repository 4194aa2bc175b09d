"""`rebuild`: fold views anew from the store, on this machine, while the program is stopped."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click
import msgspec

from entrypoints.cli.failures import BadInput, Exit, Failure
from entrypoints.cli.machine import existing_data_dir
from entrypoints.cli.output import Column, cell, console, emit, line, note, table
from entrypoints.cli.verb import Verb, json_option, when_interrupted
from entrypoints.eta import Told, in_words
from entrypoints.paths import DATA_DIR_VARIABLE

DOC = """Fold views anew from the store, all of them or those that are named.

Works on the files of this machine while the program is stopped; a start does the same by itself for views that are
missing or of another version. The new views are complete before they take the place of the old ones, which are kept
until the next rebuild: --rollback takes them back. Exit codes: 0 rebuilt, 1 not, or something differed from before.
"""


def rebuild_verb() -> Verb:
    """`rebuild`."""
    return Verb(
        "rebuild",
        params=[
            click.Argument(["views"], nargs=-1, metavar="[VIEW]..."),
            click.Option(["--rollback"], is_flag=True, help="Take back the views from before the last rebuild."),
            click.Option(["--data-dir"], metavar="PATH", help=f"Which data.  [default: {DATA_DIR_VARIABLE}]"),
            json_option(),
        ],
        callback=rebuild,
        help=DOC,
        short_help="Fold views anew from the store.",
        examples=("hivebus rebuild", "hivebus rebuild tasks queue", "hivebus rebuild --rollback"),
    )


def rebuild(views: tuple[str, ...], rollback: bool, data_dir: str | None, as_json: bool) -> Exit:
    """Rebuild and say what came of each view, or take the old ones back."""
    if rollback and views:
        raise BadInput("--rollback takes all views back.", remedy="Leave the names of views out.")
    root = existing_data_dir(data_dir)
    when_interrupted("Interrupted. The views are as they were.")
    from core.kernel.errors import HivebusError  # noqa: PLC0415 - only this command meets the server's own errors

    work = import_module("entrypoints.views")
    try:
        if rollback:
            return _rolled_back(work.roll_back(root), as_json)
        # Reading and folding take turns in two threads; 5 ms a turn would be most of the time.
        sys.setswitchinterval(0.0005)
        with shown() as progress:
            done = msgspec.to_builtins(work.rebuild(root, views, progress))
    except HivebusError as error:
        raise Failure(error.sentence, remedy=error.remedy) from error
    if as_json:
        emit(done)
    else:
        _show(done)
    return Exit.SOME_NOT if any(view["same"] is False for view in done["views"]) else Exit.OK


def _rolled_back(stale: list[str], as_json: bool) -> Exit:
    if as_json:
        emit({"rolled_back": True, "rebuilt_at_next_start": stale})
        return Exit.OK
    line("The views from before the last rebuild are back; those of now are kept in their place.")
    if stale:
        line(f"The next start folds these anew, because this program has another version: {', '.join(stale)}.")
    return Exit.OK


@contextmanager
def shown() -> Iterator[Callable[[int, int], None]]:
    """Show (position, end) on stderr: a bar on a terminal, else a line every two seconds."""
    if not sys.stderr.isatty():
        yield Told(note)
        return
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

    began = time.monotonic()
    with Progress(
        BarColumn(), TextColumn("{task.description}", markup=False), console=console(err=True), transient=True
    ) as bar:
        row = bar.add_task("")

        def update(position: int, end: int) -> None:
            per_s = position / max(time.monotonic() - began, 1e-9)
            bar.update(row, total=end, completed=position, description=in_words(position, end, per_s))

        yield update


COMPARED = {True: "same as before", False: "DIFFERENT from before", None: "-"}


def _show(done: dict[str, Any]) -> None:
    rows = [
        {**view, "compared": COMPARED[view["same"]], "path": "live path" if view["live"] else "bulk"}
        for view in done["views"]
    ]
    columns = [
        Column("view", "name"),
        Column("rows", "rows"),
        Column("checksum", "checksum"),
        Column("compared", "compared"),
        Column("folded by", "path"),
    ]
    table(columns, rows)
    per_s = done["position"] / done["seconds"] if done["seconds"] else 0.0
    line(f"\nFolded up to position {done['position']} in {cell(done['seconds'])} s ({per_s:,.0f} commits/s).")
    if done["kept"]:
        line("The views from before are kept until the next rebuild: hivebus rebuild --rollback takes them back.")
