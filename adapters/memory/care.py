"""Signed heads and trims in memory."""

from __future__ import annotations

from collections.abc import Sequence

from adapters.memory.store import MemoryStore
from core.kernel.ports import LastCommit, SignedHead, Trim


class MemoryCare:
    """CareStore beside a MemoryStore."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._heads: dict[int, SignedHead] = {}
        self._trims: list[Trim] = []

    async def newest_head(self) -> SignedHead | None:
        """See CareStore."""
        return self._heads[max(self._heads)] if self._heads else None

    async def add_head(self, head: SignedHead) -> None:
        """See CareStore."""
        self._heads.setdefault(head.size, head)

    async def trimmed_to(self) -> int:
        """See CareStore."""
        return max((trim.trimmed_to for trim in self._trims), default=0)

    async def add_trim(self, trim: Trim) -> None:
        """See CareStore."""
        self._trims.append(trim)

    async def last_commits(self, subjects: Sequence[str]) -> list[LastCommit]:
        """See CareStore."""
        found: list[LastCommit] = []
        for subject in subjects:
            mine = await self._store.stream(subject, after=0, limit=1_000_000)
            if mine:
                last = mine[-1]
                found.append(LastCommit(subject, last.entry.position, None if last.parked else last.entry.body))
        return found
