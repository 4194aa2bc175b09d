"""A store that commits are recorded into, a feed on it, and clients that write down what they are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from adapters.memory.store import MemoryStore
from core.kernel.commit import Event
from core.kernel.ports import Checkpoint, Recording
from core.services import catch_up, feed, groups
from core.services.feed import Feed
from core.services.groups import Batch, Subscription
from core.services.positions import PositionGate
from core.services.told import Filter
from core.task import TaskAssigned, TaskProgressed
from tests.given import CODEC, NOW_MS, History


class Racing:
    """A clock on which nobody waits: each sleep moves it on and takes a turn of the loop."""

    def __init__(self) -> None:
        self._passed_s = 0.0

    def now_ms(self) -> int:
        return NOW_MS + round(self._passed_s * 1000)

    def monotonic(self) -> float:
        return self._passed_s

    async def sleep(self, seconds: float) -> None:
        self._passed_s += max(seconds, 0.001)
        await asyncio.sleep(0)


def framed(batch: Batch) -> bytes:
    """A batch as these tests read it."""
    events = [[event.position, event.index, json.loads(event.text)["id"]] for event in batch.events]
    return json.dumps([batch.subscription_id, batch.after, batch.to, events]).encode()


def framed_otherwise(batch: Batch) -> bytes:
    """Another way out."""
    return framed(batch)


class Client:
    """What one client was told, over as many subscriptions as it took: each resumes where the last one ended."""

    def __init__(self, world: World, filter_: Filter, after: int | None) -> None:
        self._world = world
        self.filter = filter_
        self.ready = True
        self.frames: list[bytes] = []
        self.subscription: Subscription | None = None
        self.began = world.position if after is None else after
        self.subscribe(after)

    def subscribe(self, after: int | None) -> None:
        self.subscription = self._world.feed.subscribe(self.filter, after, self, framed)
        self._world.feed.start(self.subscription)

    def write(self, frame: bytes) -> None:
        self.frames.append(frame)

    def leave(self) -> None:
        if self.subscription is not None:
            self.subscription.end()
            assert self.subscription.position == self.position
            self.subscription = None

    def come_back(self) -> None:
        if self.subscription is None:
            self.subscribe(self.position)

    @property
    def position(self) -> int:
        """Where it would resume."""
        return json.loads(self.frames[-1])[2] if self.frames else self.began

    @property
    def events(self) -> list[tuple[int, int]]:
        """Position and index of each event, in the order of their coming; the batches must follow on each other."""
        told, to = [], self.began
        for frame in self.frames:
            _, after, upto, events = json.loads(frame)
            assert after == to, "a batch begins where the last one ended"
            assert upto > after
            assert all(after < position <= upto for position, _, _ in events)
            told += [(position, index) for position, index, _ in events]
            to = upto
        return told


class World:
    """Commits come one by one; the feed hears of them as a recorder tells it, or finds them in the store."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.recorded = PositionGate()
        self.history = History(folding=False)
        self.feed = Feed(self.store, CODEC, self.recorded, Racing())
        self.parked: set[int] = set()

    @property
    def position(self) -> int:
        return self.recorded.position

    async def record(self, noun: str, aggregate_id: str, *events: Event, park: bool = False, hear: bool = True) -> int:
        self.history.commit(noun, aggregate_id, *events)
        entry = self.history.entries[-1]
        old, new = await self.store.checkpoint(), Checkpoint(entry.position, NOW_MS)
        parked = "undecodable" if park else None
        await self.store.record([Recording(entry=entry, leaf=b"", parked=parked)], old=old, new=new)
        self.recorded.advance(entry.position)
        if park:
            self.parked.add(entry.position)
        elif hear:
            self.feed.offer([(entry, CODEC.body(entry.body))])
        return entry.position

    def matching(self, filter_: Filter, after: int) -> list[tuple[int, int]]:
        """Position and index of the events that a filter means, found without the feed's code."""
        found = []
        for commit in self.history.commits[after:]:
            if commit.position in self.parked:
                continue
            about = {"noun": commit.noun, "id": commit.aggregate_id, "correlation_id": commit.body.correlation_id}
            if any(getattr(filter_, name) not in (None, value) for name, value in about.items()):
                continue
            if filter_.agent is not None and filter_.agent not in self._named(commit.position):
                continue
            for index, record in enumerate(commit.body.events):
                if filter_.verb not in (None, record.type.split(".")[1]):
                    continue
                if filter_.type in (None, record.type, f"hivebus.{record.type}"):
                    found.append((commit.position, index))
        return found

    def _named(self, position: int) -> set[str]:
        commit = self.history.commits[position - 1]
        named = {commit.aggregate_id} if commit.noun == "agent" else set()
        for event in commit.events:
            if getattr(event, "agent_id", None):
                named.add(event.agent_id)  # type: ignore[attr-defined]
            elif isinstance(event, TaskProgressed) and 0 < event.fence <= len(self.history.commits):
                cause = self.history.commits[event.fence - 1]
                if cause.aggregate_id == commit.aggregate_id and cause.position not in self.parked:
                    named |= {other.agent_id for other in cause.events if isinstance(other, TaskAssigned)}
        return named


@contextmanager
def small_bounds() -> Iterator[None]:
    """Every bound so low that a handful of commits passes it."""
    bounds = (
        (catch_up, {"PAGE": 3, "PAGES_MAX": 2, "RING_MAX": 4, "FRAMES_MAX": 2, "BATCH_BYTES_MAX": 900}),
        (groups, {"BATCH_BYTES_MAX": 900}),
        (feed, {"SLICE": 3, "HEARD_MAX": 5, "QUIET_S": 0.001}),
    )
    with pytest.MonkeyPatch.context() as patch:
        for module, values in bounds:
            for name, value in values.items():
                patch.setattr(module, name, value)
        yield
