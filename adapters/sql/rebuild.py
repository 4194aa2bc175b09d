"""Fold views anew into a file beside the live one, then change over: blue and green.

The live file is not touched until the new one is complete and on the disk; whoever is killed in between leaves the old
views in place. What is bulk here is what a live batch cannot afford: a row is written when it has ended and not before,
indexes are made from full tables, nothing is synced before the end. A view that cannot be folded so (poison, a value
that the database refuses) is folded by the live path instead, which knows how to park.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct
from sqlalchemy import Connection, Engine, delete, func, inspect, select
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from sqlalchemy.schema import CreateTable

from adapters.sql import schema
from adapters.sql.files import ViewFiles, opened
from adapters.sql.pages import Page, read_page
from adapters.sql.rows import CHECKSUM_ZERO, add_checksum, writer_of
from adapters.sql.statements import insert_rows
from adapters.sql.views import SqlViews, ViewState, parked, state, stored_states
from core.kernel.codec import Codec
from core.kernel.errors import StartRefused
from core.projection import View

logger = logging.getLogger("hivebus.rebuild")

# Rows that are true now stay in memory for so many bytes of commits: with two pages, what a rebuild holds.
UNSETTLED_BYTES_MAX = 32 << 20

_NEW = ("journal_mode=MEMORY", "synchronous=OFF", "cache_size=-32000")
_READ = ("busy_timeout=5000", "query_only=ON")

Progress = Callable[[int, int], None]
Halted = Callable[[], bool]
Compare = Callable[[int, Mapping[str, bytes]], None]


class Stopped(Exception):
    """The rebuild was asked to stop. The old views are in place."""


class RebuiltView(Struct, frozen=True):
    """One view: its row versions, its checksum in hex, and whether the old one had the same at its position.

    `same` is None where there is nothing to compare: no old view, or one of another version. `live` says that it was
    folded by the live path, because something in it cannot be folded in bulk.
    """

    name: str
    rows: int
    checksum: str
    same: bool | None
    live: bool


class Rebuilt(Struct, frozen=True):
    """What was folded, up to which position, in which time, and whether the views before it are kept."""

    position: int
    seconds: float
    views: list[RebuiltView]
    kept: bool


def stale(root: Path, views: Sequence[View]) -> list[str]:
    """The names of the views that are not there, or were folded by another version of the program."""
    live = ViewFiles(root).live
    if not live.exists():
        return [view.name for view in views]
    with opened(live, _READ) as engine, engine.connect() as connection:
        existing = set(inspect(connection).get_table_names())
        states = stored_states(connection) if state.name in existing else {}
    return [
        view.name
        for view in views
        if view.table.name not in existing or view.name not in states or states[view.name].version != view.version()
    ]


def rebuild(
    root: Path,
    views: Sequence[View],
    codec: Codec,
    names: Collection[str],
    *,
    progress: Progress,
    halted: Halted = lambda: False,
) -> Rebuilt:
    """Fold the views of these names anew and change over; the others keep their rows.

    Nobody else may write to the directory's views meanwhile. `progress` hears (position, end) after each page. Raises
    Stopped once `halted()`; whatever it raises, the old views are as they were.
    """
    began = time.perf_counter()
    if not (root / "store.db").exists():
        raise StartRefused(
            f"There is no store in {root}.", remedy="Start Hivebus once on this data directory, or name another."
        )
    files = ViewFiles(root)
    files.discard()
    chosen = [view for view in views if view.name in names]
    try:
        with opened(root / "store.db", _READ) as store, store.connect() as recorded:
            source = _Source(recorded, codec, progress, halted)
            olds = _old_states(files.live, chosen)
            if files.live.exists() and len(chosen) < len(views):
                files.copy()
            built = _build(files.new, views, chosen, source, olds)
        kept = files.flip()
    except BaseException:
        files.discard()
        raise
    return Rebuilt(source.end, round(time.perf_counter() - began, 3), built, kept)


def roll_back(root: Path) -> None:
    """The views as they were before the last rebuild, and those of now kept in their place."""
    ViewFiles(root).swap()


def _old_states(live: Path, views: Sequence[View]) -> dict[str, ViewState]:
    """What there is to compare with: the views of the same version."""
    if not live.exists():
        return {}
    try:
        with opened(live, _READ) as engine, engine.connect() as connection:
            states = stored_states(connection)
    except DatabaseError as error:
        logger.warning("The views that are there cannot be read, and are not compared: %s", error.orig)
        return {}
    return {v.name: states[v.name] for v in views if v.name in states and states[v.name].version == v.version()}


class _Source:
    """The store's commits in pages, decoded; as they go by, progress is told."""

    def __init__(self, connection: Connection, codec: Codec, progress: Progress, halted: Halted) -> None:
        self._connection = connection
        self._codec = codec
        self._progress = progress
        self._halted = halted
        self.end: int = connection.scalar(select(schema.checkpoint.c.position)) or 0

    def pages(self, cuts: Collection[int]) -> Iterator[Page]:
        """All pages, up to the position that the store had at first; at each of the cuts one ends."""
        after = 0
        while after < self.end:
            if self._halted():
                raise Stopped
            until = min((cut for cut in cuts if cut > after), default=self.end)
            page = read_page(self._connection, self._codec, after, min(until, self.end))
            yield page
            after = page.position
            self._progress(after, self.end)


class _Bulk:
    """Views on one new file, folded in memory and written when their rows have ended."""

    def __init__(self, engine: Engine, views: Sequence[View]) -> None:
        self._engine = engine
        self._views = {view.name: view for view in views}
        self._writers = {view.name: writer_of(view, fresh=True) for view in views}
        self._unsettled_bytes = 0
        self.checksums = dict.fromkeys(self._views, CHECKSUM_ZERO)

    def prepare(self) -> None:
        """Empty tables, without their indexes."""
        with self._engine.begin() as connection:
            state.metadata.create_all(connection)
            connection.execute(delete(state).where(state.c.name.in_(self._views)))
            connection.execute(delete(parked).where(parked.c.view.in_(self._views)))
            for view in self._views.values():
                view.table.drop(connection, checkfirst=True)
                connection.execute(CreateTable(view.table))

    def write(self, page: Page, settle: bool) -> None:
        """Fold a page into all views, in one transaction; a view that cannot be folded is left out from here on."""
        self._unsettled_bytes += page.size
        settle = settle or self._unsettled_bytes >= UNSETTLED_BYTES_MAX
        if settle:
            self._unsettled_bytes = 0
        with self._engine.begin() as connection:
            for name, writer in list(self._writers.items()):
                try:
                    change = writer.write(connection, page.commits, settle=settle)
                except SQLAlchemyError:
                    raise  # the database failed, not the fold
                except Exception as error:
                    logger.warning("View %s is folded by the live path: %s: %s", name, type(error).__name__, error)
                    del self._writers[name], self.checksums[name]
                else:
                    self.checksums[name] = add_checksum(self.checksums[name], change)

    def finish(self, position: int) -> None:
        """Indexes over full tables, and where each view stands."""
        with self._engine.begin() as connection:
            for name, checksum in self.checksums.items():
                view = self._views[name]
                for index in view.table.indexes:
                    index.create(connection)
                insert_rows(connection, state, [(name, view.version(), position, checksum)])


def _build(
    path: Path, views: Sequence[View], chosen: Sequence[View], source: _Source, olds: Mapping[str, ViewState]
) -> list[RebuiltView]:
    cuts = {old.position for old in olds.values()}
    at_cut: dict[str, bytes] = {}

    def compare(position: int, checksums: Mapping[str, bytes]) -> None:
        for name, old in olds.items():
            if old.position == position and name in checksums:
                at_cut[name] = checksums[name]

    with opened(path, _NEW) as engine:
        bulk = _Bulk(engine, chosen)
        _fold_in_bulk(bulk, source, cuts, compare)
        by_live_path = [view for view in chosen if view.name not in bulk.checksums]
    if by_live_path:
        asyncio.run(_fold_live(path, views, source, cuts, compare))
    with opened(path, _READ) as engine, engine.connect() as connection:
        states = stored_states(connection)
        return [
            RebuiltView(
                name=view.name,
                rows=connection.scalar(select(func.count()).select_from(view.table)) or 0,
                checksum=states[view.name].checksum.hex(),
                same=at_cut[view.name] == olds[view.name].checksum if view.name in at_cut else None,
                live=view in by_live_path,
            )
            for view in chosen
        ]


def _fold_in_bulk(bulk: _Bulk, source: _Source, cuts: Collection[int], compare: Compare) -> None:
    """Read and decode a page while the one before it is folded and written."""
    bulk.prepare()
    with ThreadPoolExecutor(1, "rebuild") as writing, _uncollected():
        written: Future[None] | None = None
        for page in source.pages(cuts):
            if written is not None:
                written.result()
            settle = page.position in cuts or page.position == source.end
            written = writing.submit(bulk.write, page, settle)
            if page.position in cuts:
                written.result()
                compare(page.position, bulk.checksums)
        if written is not None:
            written.result()
        bulk.finish(source.end)


async def _fold_live(
    path: Path, views: Sequence[View], source: _Source, cuts: Collection[int], compare: Compare
) -> None:
    """The views that the bulk left out: they have no state yet, so that they begin at 0; the others are further."""
    live = await SqlViews.open(path, views)
    try:
        for page in source.pages(cuts):
            await live.apply(page.commits, page.position)
            compare(page.position, {name: view.checksum for name, view in live.states.items()})
    finally:
        await live.close()


@contextmanager
def _uncollected() -> Iterator[None]:
    """A fold makes no cycles, and the collector would look for them in every row that it keeps."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
