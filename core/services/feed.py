"""The feed: tells subscribers in this process what was recorded, from any position on, in order, each event once.

One loop follows the store for everybody. In the process that records it hears of the commits decoded already; in any
other it reads them once. What is matched and encoded once goes to all live subscribers of a filter as one frame.
Whoever begins in the past is brought up from the store, a page at a time in turns with the others, and then joins.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from core.kernel.codec import Codec
from core.kernel.commit import Body, Entry
from core.kernel.errors import TooMany, Unavailable
from core.kernel.ports import Clock, Store
from core.services.catch_up import Pages, Ring, batch_of
from core.services.groups import Batch, Framing, Groups, Subscriber, Subscription
from core.services.positions import PositionGate
from core.services.told import Event, Filter, Teller, Told

logger = logging.getLogger("hivebus.feed")

FLUSH_S = 0.05
QUIET_S = 1.0
IDLE_S = 60.0
RETRY_S = 0.2
SLICE = 200
WATCHERS_MAX = 8
HEARD_MAX = 5_000
HEARD_BYTES_MAX = 8 * 1024 * 1024
# Of its time the loop that brings subscribers up works at most half: live ones, and commands, come first.
TURN_S_MAX = 0.01
STUCK_S = 0.05


Watcher = Callable[[Sequence[Told]], None]
"""Hears of commits as they come, in their order, a few at a time. It must not block."""


class Feed:
    """Subscriptions to recorded commits. It never waits for a subscriber: they bound what they hold by themselves."""

    def __init__(
        self,
        store: Store,
        codec: Codec,
        recorded: PositionGate,
        clock: Clock,
        *,
        flush_s: float = FLUSH_S,
        wait_s: float = IDLE_S,
    ) -> None:
        """`flush_s`: at most so often a live subscriber gets a batch.

        `wait_s`: so long it waits for the next position before it rests for `flush_s`. Where the position is looked
        up for whoever waits, a short one spares the database.
        """
        self._recorded = recorded
        self._clock = clock
        self._flush_s = flush_s
        self._wait_s = wait_s
        self._teller = Teller(store, codec)
        self._store = store
        self._pages = Pages(store, self._teller)
        self._ring = Ring()
        self._groups = Groups()
        self._position = 0
        self._heard: deque[tuple[Entry, Body]] = deque()
        self._heard_bytes = 0
        self._wanted = asyncio.Event()
        self._catching: deque[Subscription] = deque()
        self._some_catching = asyncio.Event()
        self._trouble = False
        self._watchers: dict[Watcher, None] = {}
        self.subscriptions = 0
        self.frames = 0

    @property
    def groups(self) -> int:
        """How many different filters somebody subscribes to."""
        return len(self._groups)

    @property
    def catching_up(self) -> int:
        """How many subscriptions are not live yet."""
        return len(self._catching)

    def offer(self, commits: Sequence[tuple[Entry, Body]]) -> None:
        """Hear of commits that were recorded, in their order. Takes no time and never raises.

        What is not held here, because it was too much or because nobody subscribed, is read from the store.
        """
        if not self._listened:
            return
        for entry, body in commits:
            if len(self._heard) >= HEARD_MAX or self._heard_bytes >= HEARD_BYTES_MAX:
                self._forget_heard()
            self._heard.append((entry, body))
            self._heard_bytes += len(entry.body)

    def subscribe(self, filter_: Filter, after: int | None, subscriber: Subscriber, framing: Framing) -> Subscription:
        """A place in the events after a position, None for now. Nothing is written before `start`. Raises TooMany.

        Where the store has not reached that position, the first events are those behind it.
        """
        self._listen()
        group = self._groups.enter(filter_.plain, framing, self._position)
        self.subscriptions += 1
        return Subscription(group, self._recorded.position if after is None else after, subscriber, self._ended)

    def start(self, subscription: Subscription) -> None:
        """Begin to write: what its position has behind it, then what comes."""
        if not subscription.ended:
            self._catching.append(subscription)
            self._some_catching.set()

    def watch(self, watcher: Watcher) -> None:
        """Let a part of this process hear of the commits from now on. A repeat changes nothing."""
        assert len(self._watchers) < WATCHERS_MAX, "watchers are parts of this process, not clients"
        self._listen()
        self._watchers[watcher] = None

    def unwatch(self, watcher: Watcher) -> None:
        """Let it hear no more. A repeat changes nothing."""
        if self._watchers.pop(watcher, self) is None:
            self._rest()

    async def rest_of(self, filter_: Filter, position: int, index: int) -> list[Event]:
        """The events of one commit behind an index, for who was cut off inside it. Raises Unavailable."""
        page = await self._store.read(after=position - 1, limit=1) if position > 0 else []
        if not page or page[0].entry.position != position:
            return []
        told = await self._teller.stored(page[0])
        return [] if told is None else [event for event in filter_.of(told) if event.index > index]

    async def run(self) -> None:
        """Tell for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._bring_up())

    def _ended(self, subscription: Subscription) -> None:
        self._groups.leave(subscription)
        self.subscriptions -= 1
        self._rest()

    @property
    def _listened(self) -> bool:
        return bool(self.subscriptions or self._watchers)

    def _listen(self) -> None:
        """Somebody comes: from where the store is now on, if nobody was there."""
        if not self._listened:
            self._position = max(self._position, self._recorded.position)
            self._ring.clear(self._position)
            self._forget_heard()
        self._wanted.set()

    def _rest(self) -> None:
        """Somebody went: without anybody nothing is read and nothing held."""
        if not self._listened:
            self._wanted.clear()
            self._ring.clear(self._position)
            self._pages.clear()
            self._forget_heard()

    # --- live ---

    async def _follow(self) -> None:
        while True:
            await self._wanted.wait()
            try:
                await self._wait_for_more()
                to = self._recorded.position
                while self._position < to and self._listened:
                    await self._advance(to)
                self._well()
            except (Unavailable, TooMany) as error:
                await self._wait(error.sentence)
            self._flush()
            await self._clock.sleep(self._flush_s)

    async def _wait_for_more(self) -> None:
        behind = any(group.behind(self._position) for group in self._groups)
        await self._recorded.wait_for(self._position + 1, min(self._wait_s, QUIET_S) if behind else self._wait_s)

    async def _advance(self, to: int) -> None:
        """Match a slice of the commits up to a position. Nobody is told of them before the flush."""
        after = self._position
        commits, reached = await self._next(after, to)
        # While this waited for the store, the last subscriber may have gone, and another come.
        if self._position != after:
            return
        now = self._clock.monotonic()
        for told in commits:
            self._ring.keep(told)
            for group in self._groups.concerned(told):
                if group.take(told):
                    self.frames += group.flush(told.position, now)
        self._position = reached
        for watcher in list(self._watchers):
            watcher(commits)
        await asyncio.sleep(0)

    async def _next(self, after: int, to: int) -> tuple[list[Told], int]:
        """Some of the commits after a position, and how far they reach; heard of, else read."""
        while self._heard and self._heard[0][0].position <= after:
            self._heard_bytes -= len(self._heard.popleft()[0].body)
        commits: list[Told] = []
        # What was parked is not heard of: where a position is missing, the store says what it is.
        while self._heard and len(commits) < SLICE and self._heard[0][0].position == after + len(commits) + 1 <= to:
            entry, body = self._heard.popleft()
            self._heard_bytes -= len(entry.body)
            commits.append(await self._teller.recorded(entry, body))
        if commits:
            return commits, commits[-1].position
        page = await self._store.read(after=after, limit=SLICE)
        if not page:
            raise Unavailable(f"The store has nothing after position {after}, and {to} is recorded.")
        reached = [stored for stored in page if stored.entry.position <= to]
        commits = [told for stored in reached if (told := await self._teller.stored(stored)) is not None]
        return commits, reached[-1].entry.position

    def _flush(self) -> None:
        now = self._clock.monotonic()
        for group in self._groups:
            if group.due(self._position, now, QUIET_S):
                self.frames += group.flush(self._position, now)

    # --- from the past ---

    async def _bring_up(self) -> None:
        while True:
            await self._some_catching.wait()
            began = time.perf_counter()
            moved = False
            for _ in range(len(self._catching)):
                subscription = self._catching.popleft()
                if subscription.ended:
                    continue
                try:
                    if subscription.subscriber.ready:
                        moved = True
                        await self._step(subscription)
                except (Unavailable, TooMany) as error:
                    await self._wait(error.sentence)
                if not (subscription.ended or self._joined(subscription)):
                    self._catching.append(subscription)
                if time.perf_counter() - began >= TURN_S_MAX:
                    break
            if not self._catching:
                self._some_catching.clear()
            await self._clock.sleep(min(STUCK_S, time.perf_counter() - began) if moved else STUCK_S)

    async def _step(self, subscription: Subscription) -> None:
        """Write one batch of the past, if there is something in it, or else look on."""
        after = subscription.read_to
        if after >= self._position:
            return
        page = self._ring.after(after, self._position)
        if page is None:
            page = await self._pages.after(after, self._position)
        if subscription.ended:
            return
        frame, subscription.read_to = batch_of(subscription, page)
        if frame is not None:
            self._write(subscription, frame)
        elif self._clock.monotonic() - subscription.told_s >= QUIET_S:
            self._write_nothing(subscription)

    def _write_nothing(self, subscription: Subscription) -> None:
        """Say how far nothing was found, so that a resume need not look there again."""
        group = subscription.group
        self._write(subscription, group.framing(Batch(group.id, subscription.told_to, subscription.read_to, ())))

    def _write(self, subscription: Subscription, frame: bytes) -> None:
        subscription.subscriber.write(frame)
        subscription.told_to, subscription.told_s = subscription.read_to, self._clock.monotonic()
        self.frames += 1

    def _joined(self, subscription: Subscription) -> bool:
        """Whether there is no past left: from here on it hears what the others of its filter hear."""
        if subscription.read_to < self._position:
            return False
        if subscription.told_to < subscription.read_to:
            self._write_nothing(subscription)
        subscription.group.join(subscription)
        return True

    # --- trouble ---

    def _forget_heard(self) -> None:
        self._heard.clear()
        self._heard_bytes = 0

    def _well(self) -> None:
        if self._trouble:
            logger.warning("Subscribers are told again, from position %d on.", self._position)
            self._trouble = False

    async def _wait(self, sentence: str) -> None:
        if not self._trouble:
            logger.warning("Subscribers wait: %s", sentence)
        self._trouble = True
        await self._clock.sleep(RETRY_S)
