"""How far a wait is: a bar on a terminal, else a line every few seconds when something has changed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from entrypoints.cli.output import console, note
from entrypoints.cli.waiting import Watchlist

LINE_EVERY_S = 3.0

Changed = Callable[[Watchlist], None]


@contextmanager
def shown(total: int) -> Iterator[Changed]:
    """Show the progress of `total` tasks on stderr; call what this gives after each change."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console(err=True), transient=True) as bar:
        row = bar.add_task("", total=total)
        yield lambda watchlist: bar.update(
            row, completed=watchlist.ended + len(watchlist.reasons), description=in_words(watchlist)
        )


class Lines:
    """For logs and pipes."""

    def __init__(self, write: Callable[[str], None] = note, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._monotonic = monotonic
        self._last = ""
        self._since = monotonic()

    def __call__(self, watchlist: Watchlist) -> None:
        """Say where it stands, unless that was just said."""
        text = in_words(watchlist)
        if text == self._last or self._monotonic() - self._since < LINE_EVERY_S:
            return
        self._write(text)
        self._last, self._since = text, self._monotonic()


def in_words(watchlist: Watchlist) -> str:
    """`1200 completed, 4 running, 600 waiting`."""
    return ", ".join(f"{number} {word}" for word, number in sorted(watchlist.counts().items()))
