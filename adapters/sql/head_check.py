"""Signed heads held against the tree of what the store holds."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select

from adapters.signing import Verifier
from adapters.sql import schema
from core.kernel.merkle import Frontier, head_message

PAGE = 1000

_heads = schema.heads.c


class Broken(NamedTuple):
    """The first head that does not hold: its size, what is wrong, and both values."""

    size: int
    column: str
    stored: Any
    refolded: Any


class HeadCheck:
    """Walks the heads in the order of their sizes beside a frontier that grows."""

    def __init__(self, connection: Connection, verifier: Verifier | None, *, alone: bool) -> None:
        """`alone`: no other key may have signed."""
        self.checked = 0
        self.unchecked = 0
        self._alone = alone
        self._connection = connection
        self._verifier = verifier
        self._page: list[Any] = []
        self._after = 0
        self._turn()

    def at(self, frontier: Frontier) -> Broken | None:
        """Check the head of this size, if there is one."""
        if not self._page or self._page[-1].size != frontier.size:
            return None
        head = self._page.pop()
        self._after = head.size
        if not self._page:
            self._turn()
        root = frontier.root()
        if head.root != root:
            return Broken(head.size, "root", head.root.hex(), root.hex())
        own = self._verifier.key_id if self._verifier else None
        if head.key_id != own and not self._alone:
            self.unchecked += 1
            return None
        self.checked += 1
        if head.key_id != own:
            return Broken(head.size, "key_id", head.key_id, own)
        assert self._verifier is not None
        if not self._verifier.holds(head_message(head.size, root, head.signed_ms), head.signature):
            return Broken(head.size, "signature", head.signature.hex(), "a signature of this root by the key")
        return None

    def beyond(self) -> Broken | None:
        """A head of more commits than the store holds: its tail was cut off."""
        largest = self._connection.scalar(select(func.max(_heads.size))) or 0
        position = self._connection.scalar(select(schema.checkpoint.c.position)) or 0
        return Broken(largest, "size", largest, position) if largest > position else None

    def _turn(self) -> None:
        rows = select(schema.heads).where(_heads.size > self._after).order_by(_heads.size).limit(PAGE)
        self._page = list(reversed(self._connection.execute(rows).all()))
