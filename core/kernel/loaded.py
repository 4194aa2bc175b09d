"""Aggregates in memory: folded as far as the bus has read them, with their last commands."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from core.kernel.codec import UnknownEvent
from core.kernel.commit import Commit, Event, Moment
from core.kernel.errors import Unavailable
from core.kernel.outcomes import CommandUnchanged
from core.kernel.ports import Clock
from core.kernel.registry import Aggregate

RECENT_MAX = 64


class First(NamedTuple):
    """The commit that a command left when it was first executed."""

    fingerprint: str
    position: int
    time_ms: int
    correlation_id: str


class Loaded:
    """An aggregate: its state, where it stands on the log, its last 64 commands. `trimmed`: the log lost its start."""

    __slots__ = ("_lock", "expires", "position", "recent", "state", "trimmed", "version")

    def __init__(self) -> None:
        self.state: Any = None
        self.position = 0
        self.version = 0
        self.trimmed = False
        # Thousands of these are kept, most for one command: a plain dict is a third of an OrderedDict.
        self.recent: dict[str, First] = {}
        self.expires = 0.0
        self._lock: asyncio.Lock | None = None

    @property
    def lock(self) -> asyncio.Lock:
        """One command at a time; made when it is first asked for, which a create never does."""
        if self._lock is None:
            self._lock = asyncio.Lock()
        return self._lock

    @property
    def busy(self) -> bool:
        """Whether a command holds it now."""
        return self._lock is not None and self._lock.locked()

    def apply(self, aggregate: Aggregate, events: Sequence[Event], moment: Moment) -> None:
        """Fold a commit. Raises Unavailable for an event of a newer program: this one must not decide here."""
        state = self.state
        for event in events:
            if type(event) is UnknownEvent:
                raise Unavailable(
                    f"A newer Hivebus wrote {event.type} here; this one does not know it.",
                    code="upgrade_in_progress",
                    remedy="Ask a replica of the newer version, or upgrade this one.",
                    retry_after_s=5,
                )
            if type(event) is not CommandUnchanged:
                state = aggregate.evolve(state, event, moment)
        self.state = state
        self.position = moment.position
        self.version += 1

    def catch_up(self, aggregate: Aggregate, commits: Sequence[Commit]) -> None:
        """Fold what the log has beyond this; what is folded already is passed over."""
        for commit in commits:
            if commit.position > self.position:
                self.apply(aggregate, commit.events, commit.moment)
                body = commit.body
                first = First(body.fingerprint, commit.position, body.occurred_at, body.correlation_id)
                self.remember(body.command_id, first)

    def remember(self, command_id: str, first: First) -> None:
        """Keep the last commands, so that a repeat is known before the store has it."""
        self.recent[command_id] = first
        if len(self.recent) > RECENT_MAX:
            del self.recent[next(iter(self.recent))]


class AggregateCache:
    """Recently used aggregates, bounded by number and age."""

    def __init__(self, clock: Clock, *, max_items: int, ttl_s: float) -> None:
        self._clock = clock
        self._max = max_items
        self._ttl_s = ttl_s
        self._items: OrderedDict[str, Loaded] = OrderedDict()

    def get(self, subject: str) -> Loaded:
        """The aggregate of a subject; an empty one where nothing, or nothing young enough, is kept."""
        loaded = self._items.get(subject)
        if loaded is None or (loaded.expires < self._clock.monotonic() and not loaded.busy):
            loaded = Loaded()
        self.keep(subject, loaded)
        return loaded

    def hear(self, subject: str, aggregate: Aggregate, commit: Commit) -> None:
        """Fold a commit that somebody else read from the log, unless it is older than what is kept here.

        It changes what is kept, never what is right: an append is conditional on the position, and a decision that
        appends nothing is made again on a fresh state.
        """
        if self._clock.now_ms() - commit.body.occurred_at > self._ttl_s * 1000:
            return
        loaded = self._items.get(subject) or Loaded()
        # A gap, or a command under way, is left to the read that it leads to.
        if loaded.busy or loaded.position >= commit.position or loaded.version + 1 != commit.body.version:
            return
        try:
            loaded.catch_up(aggregate, (commit,))
        except Unavailable:
            self.drop(subject)
        else:
            self.keep(subject, loaded)

    def keep(self, subject: str, loaded: Loaded) -> None:
        """Put it in, or make it the youngest."""
        loaded.expires = self._clock.monotonic() + self._ttl_s
        self._items[subject] = loaded
        self._items.move_to_end(subject)
        if len(self._items) > self._max:
            self._items.popitem(last=False)

    def drop(self, subject: str) -> None:
        """Forget: the next command reads the log again."""
        self._items.pop(subject, None)
