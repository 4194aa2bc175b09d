"""The projector: reads the store, and only the store, and brings the views up to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from core.kernel.codec import Codec, Undecodable
from core.kernel.commit import Commit
from core.kernel.errors import TooMany, Unavailable
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
        """Fold the commits and move the checkpoints; all or nothing. Raises Unavailable while the disk is full."""
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

    async def run(self) -> None:
        """Project for ever."""
        self._on_applied(self._views.position)
        while True:
            if self._pace is not None:
                self._pace.begin()
            try:
                behind = await self._store.read(after=self._views.position, limit=BATCH_MAX)
                if not behind:
                    await self._recorded.wait_for(self._views.position + 1, timeout_s=60.0)
                    continue
                commits = [commit for stored in behind if (commit := self._decoded(stored)) is not None]
                await self._views.apply(commits, behind[-1].entry.position)
            except (Unavailable, TooMany) as error:
                logger.warning("The views wait: %s", error.sentence)
                await asyncio.sleep(RETRY_S)
                continue
            self._on_applied(self._views.position)
            if self._pace is not None:
                await self._pace.rest()

    def _decoded(self, stored: Stored) -> Commit | None:
        """The commit; None for what the recorder parked: no view may fold it."""
        if stored.parked is not None:
            return None
        try:
            return self._codec.decode(stored.entry)
        except Undecodable:
            logger.exception("Position %d: its events do not decode; no view shows it.", stored.entry.position)
            return None
