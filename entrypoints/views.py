"""The views of a data directory that no program has open: rebuilt when a start finds them missing, or on request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from adapters.sql.rebuild import Rebuilt, stale
from adapters.sql.rebuild import rebuild as fold_anew
from adapters.sql.rebuild import roll_back as exchange
from core.actions import registry
from core.kernel.codec import Codec
from core.kernel.errors import StartRefused
from entrypoints.database import address_of
from entrypoints.eta import Told
from entrypoints.lock import DataDirectory
from entrypoints.settings import load
from projections.catalogue import VIEWS

logger = logging.getLogger("hivebus")


def rebuild(root: Path, names: Sequence[str], progress: Callable[[int, int], None]) -> Rebuilt:
    """Fold views of a data directory anew, all where none is named. Raises StartRefused while a program runs on it."""
    known = {view.name for view in VIEWS}
    if unknown := [name for name in names if name not in known]:
        raise StartRefused(f"There is no view {unknown[0]!r}.", remedy=f"One of {', '.join(sorted(known))}.")
    with _stopped(root):
        return fold_anew(root, VIEWS, Codec(registry()), frozenset(names) or known, progress=progress)


def roll_back(root: Path) -> list[str]:
    """Take the views from before the last rebuild; those among them that the next start folds anew again."""
    with _stopped(root):
        exchange(root)
        return stale(root, VIEWS)


def renew(root: Path, halted: Callable[[], bool]) -> None:
    """Before the program opens its views: rebuild those that are missing or of another version, and say so."""
    names = stale(root, VIEWS)
    if not names:
        return
    logger.info("Views are folded anew from the store before the program answers: %s.", ", ".join(names))
    told = Told(lambda words: logger.info("Views: %s.", words))
    done = fold_anew(root, VIEWS, Codec(registry()), names, progress=told, halted=halted)
    logger.info("Views are folded up to position %d (%.1f s).", done.position, done.seconds)


@contextmanager
def _stopped(root: Path) -> Iterator[None]:
    """The data directory of a program that is stopped, and stays so."""
    settings = load()
    if address_of(settings):
        raise StartRefused(
            "The views are in Postgres, and this rebuild is of files.",
            remedy=f"Stop the program, DROP SCHEMA {settings.database_schema}_views CASCADE, and start: the views are "
            "folded from the store before it answers.",
            code="not_available",
        )
    directory = DataDirectory(root)
    try:
        directory.take()
    except StartRefused as refusal:
        if refusal.code != "already_running":
            raise
        raise StartRefused(
            f"{refusal.sentence} Views are changed over while it is stopped.",
            code="already_running",
            remedy="Stop it, run this again, and start it.",
        ) from None
    try:
        yield
    finally:
        directory.release()
