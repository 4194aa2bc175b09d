"""What the scheduler decided and has not yet read back from the log."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Set
from typing import NamedTuple

from core.scheduling.fleet import Fleet
from core.scheduling.shares import Flow
from core.scheduling.waiting import Limited

# Less than any claim: what is left of a sum of floats when all of them are gone.
NOTHING_MS = 1e-4


class Claim(NamedTuple):
    """What an assignment takes: slots, the keys of its limits, and its flow's turn."""

    agent_id: str
    host_id: str
    flow: Flow
    cost_ms: float
    weighed_ms: float
    limited: Limited

    def costs(self) -> tuple[tuple[str | Flow, float], ...]:
        """What the principal is charged, and what its fairness key is."""
        return (self.flow[0], self.cost_ms), (self.flow, self.weighed_ms)


class Claims:
    """What is spoken for, counted."""

    def __init__(self) -> None:
        self.by_agent: Counter[str] = Counter()
        self.by_host: Counter[str] = Counter()
        self.by_key: Counter[str] = Counter()
        self.by_rate: Counter[str] = Counter()
        self.by_share: dict[str | Flow, float] = {}

    def copy(self) -> Claims:
        """The same claims, to be added to."""
        copied = Claims()
        copied.by_agent, copied.by_host = self.by_agent.copy(), self.by_host.copy()
        copied.by_key, copied.by_rate = self.by_key.copy(), self.by_rate.copy()
        copied.by_share = self.by_share.copy()
        return copied

    def add(self, claim: Claim) -> None:
        """Somebody takes it."""
        self.by_agent[claim.agent_id] += 1
        self.by_host[claim.host_id] += 1
        if claim.limited.concurrency_key is not None:
            self.by_key[claim.limited.concurrency_key] += 1
        if claim.limited.rate_key is not None:
            self.by_rate[claim.limited.rate_key] += 1
        for owner, cost_ms in claim.costs():
            self.by_share[owner] = self.by_share.get(owner, 0.0) + cost_ms

    def drop(self, claim: Claim) -> None:
        """Nobody takes it, or the fold counts it."""
        _less(self.by_agent, claim.agent_id)
        _less(self.by_host, claim.host_id)
        if claim.limited.concurrency_key is not None:
            _less(self.by_key, claim.limited.concurrency_key)
        if claim.limited.rate_key is not None:
            _less(self.by_rate, claim.limited.rate_key)
        for owner, cost_ms in claim.costs():
            left = self.by_share[owner] - cost_ms
            if left > NOTHING_MS:
                self.by_share[owner] = left
            else:
                del self.by_share[owner]


def _less(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


class Pending(NamedTuple):
    """A decision on its way. `settled_at` is the position from which the fold speaks for itself."""

    claim: Claim | None
    settled_at: int | None


class Overlay:
    """Slots that are spoken for. An unknown outcome keeps its slot until the fold has passed the log's head."""

    def __init__(self) -> None:
        self._pending: dict[str, Pending] = {}
        # What has settled, by position; what was dropped or settled again since is passed over.
        self._settled: list[tuple[int, str]] = []
        self.claims = Claims()

    def __contains__(self, key: str) -> bool:
        return key in self._pending

    def keys(self) -> Set[str]:
        """What is under way, by key."""
        return self._pending.keys()

    def __len__(self) -> int:
        return len(self._pending)

    def hold(self, key: str, claim: Claim | None = None) -> None:
        """A command about `key` is under way; an assignment says what it takes. A key is held once at a time."""
        assert key not in self._pending, f"a command about {key} is under way already"
        self._pending[key] = Pending(claim, None)
        if claim is not None:
            self.claims.add(claim)

    def settle(self, key: str, position: int) -> None:
        """The outcome stands at this position: drop the entry once the fold is there."""
        self._pending[key] = self._pending[key]._replace(settled_at=position)
        heapq.heappush(self._settled, (position, key))

    def drop(self, key: str) -> Claim | None:
        """The command was refused: nothing of it will be on the log. What it had taken is free again."""
        pending = self._pending.pop(key, None)
        if pending is None or pending.claim is None:
            return None
        self.claims.drop(pending.claim)
        return pending.claim

    def sweep(self, fleet: Fleet) -> None:
        """Drop what the fold has reached, and let its task stand where the fold says."""
        while self._settled and self._settled[0][0] <= fleet.position:
            position, key = heapq.heappop(self._settled)
            pending = self._pending.get(key)
            if pending is None or pending.settled_at != position:
                continue
            claim = self.drop(key)
            if claim is not None:
                fleet.release(claim.limited)
                fleet.waiting.renew(claim.flow)
            fleet.put_back(key)
