"""Shares: whose turn it is, by start-time fair queueing over two levels.

Principals share the fleet equally; the fairness keys of a principal share its part by their weights. What is shared is
slot time: an assignment is charged the mean duration of its type, and what it really took is settled at its end. A flow
that was idle gets no credit for it: its tag is at least the virtual time, the tag of whoever was served last.

Goyal, Vin and Cheng, "Start-time Fair Queueing", SIGCOMM 1996; two levels as in Bennett and Zhang, SIGCOMM 1996.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

# Charged for a type that nothing is known of yet.
UNKNOWN_MS = 1_000.0
TYPES_MAX = 10_000
# Idle flows that are kept before somebody looks which of them still count.
IDLE_MAX = 64
# Work that takes no time still takes a turn.
COST_MS_MIN = 1.0
# Of a step, divided by the number of flows, the virtual time goes on by one in so many at least. More of it would bring
# flows of great weight down to the others.
PACE = 8
# The newest duration's part in a type's mean: the last dozen or so speak.
NEWEST = 0.2

Flow = tuple[str, str]
"""A principal and one of its fairness keys."""

Tag = tuple[float, float]
"""A principal's tag: no less than the virtual time; and as it was left."""


class Share(Struct):
    """A principal's part: its tag among the principals, its keys' tags, and how many tasks of each have not ended."""

    tag: float = 0.0
    virtual: float = 0.0
    keys: dict[str, float] = msgspec.field(default_factory=dict)
    live: dict[str, int] = msgspec.field(default_factory=dict)


class Shares(Struct):
    """Virtual time, as folded: the same for whoever folds the same log. Tags are in milliseconds of slot time."""

    virtual: float = 0.0
    alive: int = 0
    principals: dict[str, Share] = msgspec.field(default_factory=dict)
    means: dict[str, float] = msgspec.field(default_factory=dict)

    def tag(self, principal: str) -> Tag:
        """Which principal's turn it is: the smallest first; of those that the virtual time has passed, the last one."""
        share = self.principals.get(principal)
        return (self.virtual, self.virtual) if share is None else (max(share.tag, self.virtual), share.tag)

    def key_tag(self, flow: Flow) -> float:
        """Which of a principal's keys' turn it is: the smallest first."""
        share = self.principals.get(flow[0])
        return 0.0 if share is None else max(share.keys.get(flow[1], 0.0), share.virtual)

    def cost(self, type_: str) -> float:
        """What an assignment of this type is charged."""
        return max(COST_MS_MIN, self.means.get(type_, UNKNOWN_MS))

    def enter(self, flow: Flow) -> None:
        """A task of this flow was submitted."""
        principal, key = flow
        share = self.principals.setdefault(principal, Share())
        if not share.live:
            self.alive += 1
            share.tag = max(share.tag, self.virtual)
        share.live[key] = share.live.get(key, 0) + 1

    def leave(self, flow: Flow) -> None:
        """A task of this flow has ended."""
        principal, key = flow
        share = self.principals[principal]
        share.live[key] -= 1
        if share.live[key]:
            return
        del share.live[key]
        if len(share.keys) > 2 * len(share.live) + IDLE_MAX:
            share.keys = {key: tag for key, tag in share.keys.items() if key in share.live or tag > share.virtual}
        if not share.live:
            self.alive -= 1
            self._rest(principal, share)

    def _rest(self, principal: str, share: Share) -> None:
        """A principal has nothing left: its keys begin anew. When nobody has, everybody does.

        What an idle principal was served beyond its part counts against it until the virtual time has passed it.
        """
        share.keys, share.virtual = {}, 0.0
        if not self.alive:
            self.principals, self.virtual = {}, 0.0
        elif share.tag <= self.virtual:
            del self.principals[principal]
        elif len(self.principals) > 2 * self.alive + IDLE_MAX:
            self.principals = {
                name: other for name, other in self.principals.items() if other.live or other.tag > self.virtual
            }

    def charge(self, flow: Flow, cost_ms: float, weight: float) -> None:
        """An assignment: the flow was served.

        The virtual time is the start of what is served, and goes on by some of the step at least: ever new flows begin
        there, and would keep whoever was served once from a second turn for as long as they come.
        """
        principal, key = flow
        share = self.principals.setdefault(principal, Share())
        start, step = max(share.tag, self.virtual), cost_ms
        self.virtual = max(start, self.virtual + step / (PACE * max(1, self.alive)))
        share.tag = start + step
        start, step = max(share.keys.get(key, 0.0), share.virtual), cost_ms / weight
        share.virtual = max(start, share.virtual + step / (PACE * max(1, len(share.live))))
        share.keys[key] = start + step

    def settle(self, flow: Flow, type_: str, charged_ms: float, took_ms: float, weight: float) -> None:
        """The end of what was charged: the difference to what it took."""
        principal, key = flow
        share = self.principals.get(principal)
        if share is not None:
            share.tag += took_ms - charged_ms
            if key in share.keys:
                share.keys[key] += (took_ms - charged_ms) / weight
        mean = self.means.get(type_)
        if mean is None and len(self.means) >= TYPES_MAX:
            del self.means[next(iter(self.means))]
        self.means[type_] = took_ms if mean is None else mean + NEWEST * (took_ms - mean)
