"""The projector: brings the views up to the store, from what was just recorded or by reading it back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from core.kernel.codec import Codec, Undecodable
from core.kernel.commit import Body, Commit, Entry
from core.kernel.errors import HivebusError, TooMany, Unavailable
from core.kernel.ports import Store, Stored
from core.services.pace import Pace
from core.services.positions import PositionGate
from core.services.recent import Recent

logger = logging.getLogger("hivebus.projector")

BATCH_MAX = 1000
RETRY_S = 0.2


class Views(Protocol):
    """What the projector writes. Each `apply` is one transaction."""

    @property
    def position(self) -> int:
        """The position that every view has reached."""
        ...

    async def apply(self, commits: Sequence[Commit], position: int) -> None:
        """Fold the commits and move the checkpoints; all or nothing. After Unavailable, which of both is not known."""
        ...

    async def refresh(self) -> None:
        """Read again, from the database, how far the views are."""
        ...


class Projector:
    """Views never run ahead of the store, and a view that lost its rows catches up by the same path."""

    def __init__(
        self,
        store: Store,
        views: Views,
        codec: Codec,
        recorded: PositionGate,
        on_applied: Callable[[int], None],
        recent: Recent | None = None,
        pace: Pace | None = None,
    ) -> None:
        """`recent`: what the recorder of this process keeps; what is not in there is read from the store."""
        self._store = store
        self._views = views
        self._codec = codec
        self._recorded = recorded
        self._on_applied = on_applied
        self._recent = recent
        self._pace = pace
        self.trouble: str | None = None

    async def run(self) -> None:
        """Project for ever. While a database is away it waits; `trouble` says so."""
        self._on_applied(self._views.position)
        while True:
            if self._pace is not None:
                self._pace.begin()
            try:
                if self.trouble is not None:
                    # The transaction that was under way may have been committed.
                    await self._views.refresh()
                    self._on_applied(self._views.position)
                commits, position = self._just_recorded() or await self._read_back()
                behind = position > self._views.position
                if behind:
                    await self._views.apply(commits, position)
                    self._on_applied(self._views.position)
                self._well()
                if not behind:
                    await self._recorded.wait_for(self._views.position + 1, timeout_s=60.0)
                    continue
            except (Unavailable, TooMany) as error:
                await self._wait(error)
                continue
            if self._pace is not None:
                await self._pace.rest()

    def _well(self) -> None:
        if self.trouble is not None:
            logger.warning("The views go on from position %d.", self._views.position)
            self.trouble = None

    async def _wait(self, error: HivebusError) -> None:
        if self.trouble is None:
            logger.warning("The views wait: %s", error.sentence)
        self.trouble = error.sentence
        await asyncio.sleep(RETRY_S)

    def _just_recorded(self) -> tuple[list[Commit], int] | None:
        """What the recorder kept right after the views' position, at most so many commits; None where it kept none."""
        if self._recent is None:
            return None
        commits: list[Commit] = []
        reached = self._views.position
        while len(commits) < BATCH_MAX and (span := self._recent.take(reached)) is not None:
            commits += self._unfolded(span.commits)
            reached = span.position
        return (commits, reached) if reached > self._views.position else None

    def _unfolded(self, recorded: Sequence[tuple[Entry, Body]]) -> Iterator[Commit]:
        for entry, body in recorded:
            try:
                yield self._codec.unfolded(entry.position, entry.subject, body)
            except Undecodable:
                _complain(entry)

    async def _read_back(self) -> tuple[list[Commit], int]:
        """A page of the store; no further than to what the recorder kept."""
        after = self._views.position
        gap = self._recent.gap(after) if self._recent is not None else None
        page = await self._store.read(after=after, limit=min(BATCH_MAX, gap or BATCH_MAX))
        commits = [commit for stored in page if (commit := self._decoded(stored)) is not None]
        return commits, page[-1].entry.position if page else after

    def _decoded(self, stored: Stored) -> Commit | None:
        """The commit; None for what the recorder parked: no view may fold it."""
        if stored.parked is not None:
            return None
        try:
            return self._codec.decode(stored.entry)
        except Undecodable:
            _complain(stored.entry)
            return None


def _complain(entry: Entry) -> None:
    logger.exception("Position %d: its events do not decode; no view shows it.", entry.position)
