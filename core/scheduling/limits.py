"""Limits as the fold counts them: how many hold a key, and how many tokens a key's bucket has.

A slot cannot leak: who holds a key is read off the tasks themselves. A token bucket (burst, rate) lets at most
`burst + rate * seconds` assignments through in any span of the log's time.
"""

from __future__ import annotations

import math
from collections import Counter

import msgspec
from msgspec import Struct

from core.limit import LimitChanged

# A concurrency key that nobody set a limit for.
UNSET_CONCURRENCY = 1
# Clocks of two machines may differ; one that stands further back was set back.
SET_BACK_MS = 60_000


class Bucket(Struct):
    """The tokens of a rate key at a time."""

    tokens: float
    at_ms: int


class Limits(Struct):
    """All limits that were set, and what they count."""

    set: dict[str, LimitChanged] = msgspec.field(default_factory=dict)
    held: dict[str, int] = msgspec.field(default_factory=dict)
    buckets: dict[str, Bucket] = msgspec.field(default_factory=dict)

    def fold(self, event: LimitChanged, now_ms: int) -> None:
        """A limit was set: tokens that a smaller bucket cannot hold are gone."""
        before = self.set.get(event.key)
        tokens = self.tokens(event.key, now_ms) if before is not None and before.rate_per_s else None
        self.set[event.key] = event
        if event.rate_per_s is None:
            self.buckets.pop(event.key, None)
        else:
            burst = float(event.burst or 1)
            self.buckets[event.key] = Bucket(burst if tokens is None else min(tokens, burst), now_ms)

    def weight(self, key: str) -> float:
        """The weight of a fairness key: 1 where none was set."""
        found = self.set.get(key)
        return found.weight if found is not None and found.weight is not None else 1.0

    # --- concurrency ---

    def concurrency(self, key: str) -> int:
        """How many tasks may hold this key at a time."""
        found = self.set.get(key)
        return UNSET_CONCURRENCY if found is None or found.concurrency is None else found.concurrency

    def hold(self, key: str) -> None:
        """A task that names this key was assigned."""
        self.held[key] = self.held.get(key, 0) + 1

    def release(self, key: str) -> None:
        """Its attempt has ended."""
        left = self.held[key] - 1
        if left:
            self.held[key] = left
        else:
            del self.held[key]

    def is_free(self, key: str, pending: Counter[str]) -> bool:
        """Whether one more task may hold this key."""
        return self.held.get(key, 0) + pending[key] < self.concurrency(key)

    # --- rate ---

    def tokens(self, key: str, now_ms: int) -> float:
        """The tokens of a key's bucket; a clock that went back adds none.

        One that was set back would leave it empty for as long: one task may start, and its time begins anew with that.
        """
        limit, bucket = self.set[key], self.buckets[key]
        if bucket.at_ms - now_ms > SET_BACK_MS:
            return max(1.0, bucket.tokens)
        grown = max(0, now_ms - bucket.at_ms) / 1000 * (limit.rate_per_s or 0.0)
        return min(float(limit.burst or 1), bucket.tokens + grown)

    def take(self, key: str, now_ms: int) -> None:
        """A task that names this key was assigned."""
        if key in self.buckets:
            at_ms = self.buckets[key].at_ms
            begins_anew = at_ms - now_ms > SET_BACK_MS
            self.buckets[key] = Bucket(self.tokens(key, now_ms) - 1.0, now_ms if begins_anew else max(now_ms, at_ms))

    def due_ms(self, key: str, now_ms: int, pending: Counter[str]) -> int | None:
        """When the next task may take a token; None where it may now, or where no rate is set."""
        if key not in self.buckets:
            return None
        short = 1.0 - (self.tokens(key, now_ms) - pending[key])
        rate = self.set[key].rate_per_s or 1.0
        return None if short <= 0 else now_ms + max(1, math.ceil(short / rate * 1000))
