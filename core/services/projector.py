"""The projector: reads the store, and only the store, and brings the views up to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from core.kernel.codec import Codec, Undecodable
from core.kernel.commit import Commit
from core.kernel.errors import HivebusError, TooMany, Unavailable
from core.kernel.ports import Store, Stored
from core.services.pace import Pace
from core.services.positions import PositionGate

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
        pace: Pace | None = None,
    ) -> None:
        self._store = store
        self._views = views
        self._codec = codec
        self._recorded = recorded
        self._on_applied = on_applied
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
                behind = await self._store.read(after=self._views.position, limit=BATCH_MAX)
                if behind:
                    commits = [commit for stored in behind if (commit := self._decoded(stored)) is not None]
                    await self._views.apply(commits, behind[-1].entry.position)
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

    def _decoded(self, stored: Stored) -> Commit | None:
        """The commit; None for what the recorder parked: no view may fold it."""
        if stored.parked is not None:
            return None
        try:
            return self._codec.decode(stored.entry)
        except Undecodable:
            logger.exception("Position %d: its events do not decode; no view shows it.", stored.entry.position)
            return None
