"""Identifiers: time-ordered where they are made, derived where they must repeat.

A derived id keeps the first 48 bits of its parent (the time of a UUIDv7), because ids that arrive in order keep the
store's unique index local: 152k appends/s against 40k with random ids (docs/decisions/0003).
"""

from __future__ import annotations

import hashlib
import os
import time
from uuid import UUID, SafeUUID

_PAGE_BYTES = 4000
_VERSION_8 = 0x8000 << 64
_VARIANT = 0x8 << 60
_VARIANT_DIGIT = {f"{digit:x}": f"{0x8 | digit & 0x3:x}" for digit in range(16)}
_TIME_MASK = ((1 << 48) - 1) << 80
_RANDOM_MASK = ((1 << 12) - 1) << 64 | ((1 << 62) - 1)


class _Randomness:
    """The system's randomness, fetched a page at a time: a call for each id costs more than the rest of it."""

    def __init__(self) -> None:
        self._page = b""
        self._used = 0
        # A child that goes on after a fork must not repeat its parent's ids.
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        self._page, self._used = b"", 0

    def bits80(self) -> int:
        start = self._used
        if start >= len(self._page):
            self._page, start = os.urandom(_PAGE_BYTES), 0
        self._used = start + 10
        return int.from_bytes(self._page[start : start + 10], "big")


_randomness = _Randomness()


def _made(value: int) -> UUID:
    """`UUID(int=value)`, at a third of the cost: what it would check is known here."""
    made = object.__new__(UUID)
    _set(made, "int", value)
    _set(made, "is_safe", SafeUUID.unknown)
    return made


_set = object.__setattr__


def canonical(text: str) -> UUID:
    """`UUID(text)` of a text that is known to be in lower case, with its hyphens."""
    return _made(int(text.replace("-", ""), 16))


def uuid7(now_ms: int | None = None) -> UUID:
    """A UUIDv7 (RFC 9562, 5.7): 48 bits of Unix milliseconds, the rest random."""
    ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    rest = _randomness.bits80() & _RANDOM_MASK
    return _made((ms & 0xFFFFFFFFFFFF) << 80 | 0x7000 << 64 | _VARIANT | rest)


def derive(parent: UUID, label: str) -> UUID:
    """The UUIDv8 (RFC 9562, 5.8) that (parent, label) always gives, ordered like its parent."""
    digest = hashlib.sha256(parent.bytes + label.encode()).digest()
    rest = int.from_bytes(digest[:10], "big") & _RANDOM_MASK
    return UUID(int=parent.int & _TIME_MASK | _VERSION_8 | _VARIANT | rest)


def derived(parent: UUID, label: str, text: str | None = None) -> str:
    """`str(derive(parent, label))`, at half the cost: each command makes two of them. `text`: the parent as text."""
    digest = hashlib.sha256(parent.bytes + label.encode()).hexdigest()
    head = (text or str(parent))[:13]
    return f"{head}-8{digest[1:4]}-{_VARIANT_DIGIT[digest[4]]}{digest[5:8]}-{digest[8:20]}"


def from_key(actor: str, key: str) -> UUID:
    """The command id of an Idempotency-Key: the same for the same actor and key, for ever. Not time-ordered."""
    digest = hashlib.sha256(b"idempotency\0" + actor.encode() + b"\0" + key.encode()).digest()
    rest = int.from_bytes(digest[6:16], "big") & _RANDOM_MASK
    return UUID(int=int.from_bytes(digest[:6], "big") << 80 | _VERSION_8 | _VARIANT | rest)


def named(noun: str, key: str) -> str:
    """The id of an aggregate that its users name: the same for the same key, for ever. Not time-ordered."""
    digest = hashlib.sha256(noun.encode() + b"\0" + key.encode()).digest()
    rest = int.from_bytes(digest[6:16], "big") & _RANDOM_MASK
    return str(UUID(int=int.from_bytes(digest[:6], "big") << 80 | _VERSION_8 | _VARIANT | rest))


def at_time(ms: int, label: str) -> UUID:
    """The UUIDv8 that (time, label) always gives, ordered by its time."""
    digest = hashlib.sha256(b"time\0" + label.encode()).digest()
    rest = int.from_bytes(digest[:10], "big") & _RANDOM_MASK
    return UUID(int=(ms & 0xFFFFFFFFFFFF) << 80 | _VERSION_8 | _VARIANT | rest)


def draw(of: UUID) -> float:
    """A number in [0, 1) fixed by an id: the random of a pure decision, the same at every replay."""
    return int.from_bytes(hashlib.sha256(b"draw" + of.bytes).digest()[:7], "big") / (1 << 56)
