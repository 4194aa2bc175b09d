"""Those who hear the same: one frame is made for all live subscribers of a filter, however many they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from msgspec import Struct

from core.kernel.errors import TooMany
from core.services.told import Event, Filter, Told

GROUPS_MAX = 2_000
BATCH_BYTES_MAX = 256 * 1024


class Batch(Struct, frozen=True, gc=False):
    """The events of a filter in the commits after position `after`, up to and with position `to`."""

    subscription_id: str
    after: int
    to: int
    events: Sequence[Event]


Framing = Callable[[Batch], bytes]
"""How a batch stands on the wire. Groups are told apart by it, so one way out uses one function."""


class Subscriber(Protocol):
    """The far end of a subscription. It bounds by itself what it holds."""

    @property
    def ready(self) -> bool:
        """Whether what was written before is on its way, so that there is room for a batch of the past."""
        ...

    def write(self, frame: bytes) -> None:
        """Send, without waiting and without raising."""
        ...


class Subscription:
    """One subscriber's place in the events of a filter: everything up to `position` was written to it."""

    def __init__(
        self, group: Group, after: int, subscriber: Subscriber, on_end: Callable[[Subscription], None]
    ) -> None:
        self.group = group
        self.subscriber = subscriber
        self.live = False
        self.ended = False
        # Read and matched up to `read_to`; the subscriber knows of `told_to`, which is behind while nothing matches.
        self.read_to = self.told_to = after
        self.told_s = 0.0
        self._on_end = on_end

    @property
    def id(self) -> str:
        """Derived from the filter."""
        return self.group.id

    @property
    def position(self) -> int:
        """Where to resume: `to` of the last batch that was written."""
        return self.group.told_to if self.live else self.told_to

    def end(self) -> None:
        """Hear nothing more. A repeat is harmless."""
        if not self.ended:
            self.told_to = self.position
            self.ended, self.live = True, False
            self._on_end(self)


class Group:
    """The live subscriptions of one filter and one framing, all at the same position."""

    def __init__(self, filter_: Filter, framing: Framing, position: int) -> None:
        self.filter = filter_
        self.framing = framing
        self.id = filter_.subscription_id
        self.key = filter_.narrowest
        self.told_to = position
        self.told_s = 0.0
        self.size = 0
        self._members: dict[Subscription, Callable[[bytes], None]] = {}
        self._joining: dict[Subscription, None] = {}
        self._events: list[Event] = []
        self._bytes = 0

    def take(self, told: Told) -> bool:
        """Hear of a commit; whether what waits has the size of a batch."""
        for event in self.filter.of(told):
            self._events.append(event)
            self._bytes += len(event.text)
        return self._bytes >= BATCH_BYTES_MAX

    def due(self, to: int, now: float, quiet_s: float) -> bool:
        """Whether there is something to tell: events, or after a while without any how far they were looked for."""
        return bool(self._events) or (to > self.told_to and now - self.told_s >= quiet_s)

    def behind(self, to: int) -> bool:
        """Whether subscribers do not know yet that nothing for them came up to `to`."""
        return to > self.told_to and bool(self._members or self._joining)

    def join(self, subscription: Subscription) -> None:
        """Become a live one: with the next batch, which it gets from its own position on."""
        self._joining[subscription] = None

    def flush(self, to: int, now: float) -> int:
        """Write what waits, as the events up to `to`; how many frames were written."""
        written = len(self._members)
        if written:
            frame = self.framing(Batch(self.id, self.told_to, to, self._events))
            for write in self._members.values():
                write(frame)
        if self._joining:
            written += self._welcome(to)
        self.told_to, self.told_s = to, now
        self._events, self._bytes = [], 0
        return written

    def leave(self, subscription: Subscription) -> None:
        """Forget a subscription, live or about to be."""
        self._members.pop(subscription, None)
        self._joining.pop(subscription, None)

    def _welcome(self, to: int) -> int:
        """Give those who join what they have not had of this batch; from the next one on they are members."""
        ready = [subscription for subscription in self._joining if subscription.read_to <= to]
        frames: dict[tuple[int, int], bytes] = {}
        written = 0
        for subscription in ready:
            place = subscription.told_to, subscription.read_to
            if subscription.told_to < to:
                if place not in frames:
                    rest = [event for event in self._events if event.position > subscription.read_to]
                    frames[place] = self.framing(Batch(self.id, subscription.told_to, to, rest))
                subscription.subscriber.write(frames[place])
                written += 1
            subscription.live = True
            del self._joining[subscription]
            self._members[subscription] = subscription.subscriber.write
        return written


class Groups:
    """All groups, found by what a commit is about. At most 2,000: a commit is compared with few of them."""

    def __init__(self) -> None:
        self._groups: dict[tuple[Filter, Framing], Group] = {}
        self._by_key: defaultdict[tuple[str, str], list[Group]] = defaultdict(list)

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups.values())

    def __len__(self) -> int:
        return len(self._groups)

    def enter(self, filter_: Filter, framing: Framing, position: int) -> Group:
        """The group of a filter, with one subscription more. Raises TooMany."""
        group = self._groups.get((filter_, framing))
        if group is None:
            if len(self._groups) >= GROUPS_MAX:
                raise TooMany(
                    f"{GROUPS_MAX} different filters are subscribed to already.",
                    code="too_many_filters",
                    remedy="Use a filter that others use too, or a wider one.",
                    retry_after_s=5,
                )
            group = self._groups[filter_, framing] = Group(filter_, framing, position)
            self._by_key[group.key].append(group)
        group.size += 1
        return group

    def leave(self, subscription: Subscription) -> None:
        """The group has one subscription less; a group without any is gone."""
        group = subscription.group
        group.leave(subscription)
        group.size -= 1
        if group.size:
            return
        del self._groups[group.filter, group.framing]
        self._by_key[group.key].remove(group)
        if not self._by_key[group.key]:
            del self._by_key[group.key]

    def concerned(self, told: Told) -> Iterator[Group]:
        """The groups that may take something of a commit."""
        for key in told.keys:
            yield from self._by_key.get(key, ())
