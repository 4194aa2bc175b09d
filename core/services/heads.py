"""Signed heads: now and then the root of the whole log is signed, so that nobody can change it unseen."""

from __future__ import annotations

import logging
from typing import NoReturn

from core.kernel.errors import TooMany, Unavailable
from core.kernel.merkle import Frontier, head_message
from core.kernel.ports import CareStore, Clock, SignedHead, Signer, Store
from core.services.positions import PositionGate

logger = logging.getLogger("hivebus.heads")

EVERY_COMMITS = 1000
EVERY_S = 60.0
# Under load a head covers more commits: each is a transaction on the thread that records.
PAUSE_S = 1.0


class Heads:
    """Signs what is recorded, every 1,000 commits or 60 s, if there is anything new; at most one a second."""

    def __init__(
        self,
        store: Store,
        kept: CareStore,
        signer: Signer,
        recorded: PositionGate,
        clock: Clock,
        *,
        every_commits: int = EVERY_COMMITS,
        every_s: float = EVERY_S,
    ) -> None:
        self._store = store
        self._kept = kept
        self._signer = signer
        self._recorded = recorded
        self._clock = clock
        self._every_commits = every_commits
        self._every_s = every_s

    async def run(self) -> NoReturn:
        """Sign for ever."""
        head = await self._kept.newest_head()
        signed = head.size if head else 0
        while True:
            try:
                # Nothing new, no head: the first commit after the last head starts the time.
                if await self._recorded.wait_for(signed + 1, self._every_s):
                    await self._recorded.wait_for(signed + self._every_commits, self._every_s)
                    signed = (await self.sign()).size
            except (Unavailable, TooMany) as error:
                logger.warning("The log's head is not signed: %s", error.sentence)
            await self._clock.sleep(PAUSE_S)

    async def sign(self) -> SignedHead:
        """The head of what is recorded now, signed and kept."""
        checkpoint = await self._store.checkpoint()
        frontier = Frontier.decode(checkpoint.position, checkpoint.frontier)
        root, now_ms = frontier.root(), self._clock.now_ms()
        signature = self._signer.sign(head_message(frontier.size, root, now_ms))
        head = SignedHead(frontier.size, root, now_ms, signature, self._signer.key_id)
        await self._kept.add_head(head)
        return head
