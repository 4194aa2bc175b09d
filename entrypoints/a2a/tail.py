"""The recorded events of a few tasks, as they come: one reader of the store for all who follow a task here."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from core.kernel.cloud_events import cloud_events
from core.kernel.codec import Codec, Undecodable
from core.kernel.commit import split_subject
from core.kernel.errors import HivebusError, TooMany, internal
from core.kernel.ports import Store, Stored
from core.services.positions import PositionGate

logger = logging.getLogger("hivebus.a2a")

SEATS_MAX = 256
PAGE = 1000
# What one follower may lie behind; a task has a handful of events for each attempt.
EVENTS_MAX = 10_000
# Whoever waits looks up this often: the program may be about to end.
LOOK_UP_S = 0.5
# Under load, commits come by the thousand a second: reading them together costs a fiftieth of a second of patience.
REST_S = 0.02


class Seat:
    """One follower of at most one task. Not for two coroutines at a time."""

    def __init__(self, tail: Tail) -> None:
        self._tail = tail
        self._events: deque[dict[str, Any]] = deque()
        self._wake = asyncio.Event()
        self._error: HivebusError | None = None

    def watch(self, task_id: str) -> int:
        """Follow this task from now on; the position that the views must have reached to miss nothing."""
        return self._tail.watch(task_id, self)

    async def next_event(self, timeout_s: float) -> dict[str, Any] | None:
        """The next event {position, type, time, data}, None after the time or once the program ends.

        Raises what the store raised, and TooMany for a follower that fell behind.
        """
        if not self._events and self._error is None:
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                return None
        if self._events:
            return self._events.popleft()
        if self._error is not None:
            raise self._error
        return None

    def push(self, events: list[dict[str, Any]]) -> None:
        """Hand over a commit's events."""
        if len(self._events) + len(events) > EVENTS_MAX:
            self.fail(TooMany("This follower reads too slowly.", code="slow_client", remedy="Subscribe again."))
            return
        self._events.extend(events)
        self._wake.set()

    def fail(self, error: HivebusError | None) -> None:
        """End it, once its events are taken: with an error, or just now."""
        self._error = self._error or error
        self._wake.set()


class Tail:
    """Reads the store behind the recorder while anybody follows a task, and not otherwise."""

    def __init__(
        self, store: Store, codec: Codec, recorded: PositionGate, ending: Callable[[], bool], seats_max: int = SEATS_MAX
    ) -> None:
        self._store = store
        self._codec = codec
        self._recorded = recorded
        self._ending = ending
        self._seats_max = seats_max
        self._taken = 0
        self._watched: defaultdict[str, set[Seat]] = defaultdict(set)
        self._position = 0
        self._reading: asyncio.Task[None] | None = None

    @property
    def taken(self) -> int:
        """How many follow now."""
        return self._taken

    @property
    def reading(self) -> bool:
        """Whether the store is being read now."""
        return self._reading is not None and not self._reading.done()

    @contextmanager
    def seat(self) -> Iterator[Seat]:
        """A place to follow from. Raises TooMany over the bound."""
        if self._taken >= self._seats_max:
            raise TooMany(
                f"{self._taken} callers already follow a task here; that is the bound.",
                code="too_many_streams",
                remedy="Send it with returnImmediately and ask with GetTask, or come back later.",
                retry_after_s=1,
            )
        seat = Seat(self)
        self._taken += 1
        try:
            yield seat
        finally:
            self._taken -= 1
            for task_id in [task_id for task_id, seats in self._watched.items() if seat in seats]:
                self._watched[task_id].discard(seat)
                if not self._watched[task_id]:
                    del self._watched[task_id]

    def watch(self, task_id: str, seat: Seat) -> int:
        """Hand this task's events after the returned position to the seat."""
        if not self.reading:
            self._position = self._recorded.position
            self._reading = asyncio.create_task(self._read())
        self._watched[task_id].add(seat)
        return self._position

    async def _read(self) -> None:
        try:
            while self._watched and not self._ending():
                page = await self._store.read(after=self._position, limit=PAGE)
                for stored in page:
                    self._hand_out(stored)
                if len(page) < PAGE:
                    await asyncio.sleep(REST_S)
                    await self._recorded.wait_for(self._position + 1, LOOK_UP_S)
        except HivebusError as error:
            self._end(error)
        except Exception:
            logger.exception("The events of followed tasks could not be read.")
            self._end(internal())
        else:
            self._end(None)

    def _end(self, error: HivebusError | None) -> None:
        for seats in self._watched.values():
            for seat in seats:
                seat.fail(error)

    def _hand_out(self, stored: Stored) -> None:
        position = stored.entry.position
        self._position = position
        noun, task_id = split_subject(stored.entry.subject)
        seats = self._watched.get(task_id) if noun == "task" and stored.parked is None else None
        if not seats:
            return
        try:
            body = self._codec.body(stored.entry.body)
        except Undecodable:
            return
        events = [
            {
                "position": position,
                "type": event.type.removeprefix("hivebus."),
                "time": event.time,
                "data": msgspec.json.decode(event.data),
            }
            for event in cloud_events(position, noun, task_id, body)
        ]
        for seat in seats:
            seat.push(events)
