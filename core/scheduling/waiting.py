"""What waits: a line per requirement, in it flows by their shares, in these the oldest first.

Tasks of a flow that name the same limits stand in one lane, so that a limit holds up nobody who does not name it. A
lane whose limit is reached is parked, and costs nothing until the limit lets somebody through. All heaps are lazy: an
entry may be older than what it speaks of, never later in order, and is looked at again before it counts.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from core.scheduling.eligibility import Requirement
from core.scheduling.shares import Flow, Tag

Item = tuple[int, int, str]
"""A waiting task: its key (the smaller, the earlier), its position, its id."""

Rank = tuple[Tag, float, int, int]
"""Whose turn it is: the principal's tag, the fairness key's tag, then the task's key and position.

Tags of keys are told apart inside a principal only: no two principals have the same tag for long."""


R = TypeVar("R", bound=tuple[Any, ...])
K = TypeVar("K")


class Limited(NamedTuple):
    """The limits that a lane's tasks name, and the project whose budget they are at the expense of."""

    concurrency_key: str | None
    rate_key: str | None
    project: str = "default"


FREE = Limited(None, None)


class Place(NamedTuple):
    """Where a task waits."""

    need: Requirement
    flow: Flow
    limited: Limited


class Head(NamedTuple):
    """The task whose turn it is in a line."""

    rank: Rank
    place: Place
    task_id: str


class Look(NamedTuple):
    """What a look at the lines goes by: whose turn it is, who still waits, and which limit holds a lane back."""

    tag: Callable[[str], Tag]
    key_tag: Callable[[Flow], float]
    waits: Callable[[str], bool]
    held_by: Callable[[Limited], str | None]


class _Order(Generic[R, K]):
    """Who comes first, by what was last said of each. What was said before is passed over when it comes up."""

    def __init__(self) -> None:
        self._heap: list[tuple[R, K]] = []
        self._said: dict[K, R] = {}

    def list(self, key: K, rank: R) -> None:
        """It stands here at the latest; where it stands earlier already, it stays."""
        said = self._said.get(key)
        if said is None or rank < said:
            self._said[key] = rank
            heapq.heappush(self._heap, (rank, key))

    def first(self) -> tuple[R, K] | None:
        """The first one, with what was last said of it."""
        heap = self._heap
        while heap:
            rank, key = heap[0]
            if self._said.get(key) == rank:
                return rank, key
            heapq.heappop(heap)
        return None

    def later(self, rank: R) -> None:
        """The first one belongs further back."""
        key = self._heap[0][1]
        self._said[key] = rank
        heapq.heapreplace(self._heap, (rank, key))

    def drop(self) -> None:
        """The first one goes."""
        del self._said[heapq.heappop(self._heap)[1]]


class _Queue:
    """The lanes of a flow in a line."""

    def __init__(self) -> None:
        self.lanes: dict[Limited, list[Item]] = {}
        self.order: _Order[Item, Limited] = _Order()


class _Part:
    """The flows of a principal in a line."""

    def __init__(self) -> None:
        self.queues: dict[str, _Queue] = {}
        self.order: _Order[tuple[float, Item], str] = _Order()


class _Line:
    """The principals of a requirement."""

    def __init__(self) -> None:
        self.parts: dict[str, _Part] = {}
        self.order: _Order[Rank, str] = _Order()

    def list(self, place: Place, item: Item) -> None:
        """A lane has another head: it is looked at before anything counts, so its rank is below every other."""
        principal, key = place.flow
        self.parts[principal].queues[key].order.list(place.limited, item)
        self.renew(place.flow)

    def renew(self, flow: Flow) -> None:
        """A flow may have got earlier: it is looked at before the others count."""
        principal, key = flow
        part = self.parts.get(principal)
        if part is not None:
            self.order.list(principal, _FIRST)
            if key in part.queues:
                part.order.list(key, (-1.0, _FIRST_ITEM))


_FIRST_ITEM: Item = (0, 0, "")
_FIRST: Rank = ((-math.inf, -math.inf), -1.0, 0, 0)


class Waiting:
    """All lines. Who takes a task out and cannot place it puts it back."""

    def __init__(self) -> None:
        self._lines: dict[Requirement, _Line] = {}
        self._stranded: dict[Requirement, _Line] = {}
        self._parked: dict[str, set[Place]] = {}

    def needs(self) -> list[Requirement]:
        """The requirements that somebody waits with."""
        return list(self._lines)

    def items(self) -> Iterator[Item]:
        """Everything that stands anywhere, what no longer waits too."""
        for line in (*self._lines.values(), *self._stranded.values()):
            for part in line.parts.values():
                for queue in part.queues.values():
                    for lane in queue.lanes.values():
                        yield from lane

    def put(self, place: Place, item: Item) -> None:
        """A task waits; harmless where it does already."""
        principal, key = place.flow
        line = self._stranded.get(place.need) or self._lines.setdefault(place.need, _Line())
        queue = line.parts.setdefault(principal, _Part()).queues.setdefault(key, _Queue())
        lane = queue.lanes.setdefault(place.limited, [])
        heapq.heappush(lane, item)
        if lane[0] is item:
            line.list(place, item)

    def head(self, need: Requirement, look: Look) -> Head | None:
        """The task whose turn it is; a line in which nobody is left goes away."""
        line = self._lines.get(need)
        if line is None:
            return None
        order = line.order
        while (first := order.first()) is not None:
            said, principal = first
            found = self._head_of(need, principal, line, look)
            if found is None:
                order.drop()
                continue
            key_tag, item, place = found
            rank = (look.tag(principal), key_tag, item[0], item[1])
            if rank > said:
                order.later(rank)
                continue
            return Head(rank, place, item[2])
        if not line.parts:
            del self._lines[need]
        return None

    def _head_of(self, need: Requirement, principal: str, line: _Line, look: Look) -> tuple[float, Item, Place] | None:
        """The first task of a principal that no limit holds back."""
        part = line.parts.get(principal)
        if part is None:
            return None
        while (listed := part.order.first()) is not None:
            said, key = listed
            flow = (principal, key)
            found = self._first(Place(need, flow, FREE), part, look)
            if found is None:
                part.order.drop()
                continue
            item, limited = found
            rank = (look.key_tag(flow), item)
            if rank > said:
                part.order.later(rank)
                continue
            return rank[0], item, Place(need, flow, limited)
        if not part.queues:
            del line.parts[principal]
        return None

    def _first(self, at: Place, part: _Part, look: Look) -> tuple[Item, Limited] | None:
        """The first task of a flow that no limit holds back."""
        queue = part.queues.get(at.flow[1])
        if queue is None:
            return None
        while (listed := queue.order.first()) is not None:
            said, limited = listed
            lane = queue.lanes.get(limited, [])
            while lane and not look.waits(lane[0][2]):
                heapq.heappop(lane)
            if not lane:
                queue.lanes.pop(limited, None)
                queue.order.drop()
            elif lane[0] > said:
                queue.order.later(lane[0])
            elif (key := look.held_by(limited)) is not None:
                queue.order.drop()
                self._parked.setdefault(key, set()).add(at._replace(limited=limited))
            else:
                return said, limited
        if not queue.lanes:
            del part.queues[at.flow[1]]
        return None

    def take(self, head: Head) -> None:
        """The task whose turn it was is being assigned."""
        need, (principal, key), limited = head.place
        heapq.heappop(self._lines[need].parts[principal].queues[key].lanes[limited])

    # --- what may wait in vain ---

    def renew(self, flow: Flow) -> None:
        """The flow's share has changed: its place among the others is looked at again."""
        for line in self._lines.values():
            line.renew(flow)

    def release(self, key: str) -> None:
        """A limit may let somebody through again."""
        for place in self._parked.pop(key, ()):
            line = self._lines.get(place.need) or self._stranded.get(place.need)
            part = line.parts.get(place.flow[0]) if line is not None else None
            queue = part.queues.get(place.flow[1]) if part is not None else None
            if line is not None and queue is not None and (lane := queue.lanes.get(place.limited)):
                line.list(place, lane[0])

    def strand(self, need: Requirement) -> None:
        """Put a line aside that no agent can serve: it costs nothing until an agent's event brings it back."""
        self._stranded[need] = self._lines.pop(need)

    def unstrand(self) -> None:
        """An agent's event may have changed who can do what. What came to be known of flows meanwhile is looked at."""
        for line in self._stranded.values():
            for principal, part in line.parts.items():
                for key in part.queues:
                    line.renew((principal, key))
        self._lines |= self._stranded
        self._stranded.clear()
