"""The relay: tells clients of the broker what was recorded, each event at most once.

It never holds up anybody: what it cannot pass on is dropped and counted. `sequence` shows a subscriber the gap, and
GET /api/events?after= fills it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from core.kernel.cloud_events import cloud_events
from core.kernel.commit import Body, Entry, split_subject
from core.kernel.subjects import EVENTS
from core.services.channel import Channel
from core.services.pace import Pace

HELD_MAX = 2_000
HELD_BYTES_MAX = 4 * 1024 * 1024
SLICE = 64
QUIET_S = 10.0
HEADERS = {"Content-Type": "application/cloudevents+json"}

# What stands in a subject must be words of ours: the bytes of a log that others wrote to may say anything.
_TYPE = re.compile(r"[a-z_]{1,64}\.[a-z_]{1,64}").fullmatch
_ID = re.compile(r"[A-Za-z0-9-]{1,64}").fullmatch

logger = logging.getLogger("hivebus.relay")


def _nothing(_count: int) -> None: ...


class Relay:
    """Publishes each event of recorded commits as a CloudEvent on `hive.event.<noun>.<verb>.<id>`, in their order.

    At most 2,000 commits and 4 MiB wait; what comes beyond that is dropped.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        pace: Pace | None = None,
        held_max: int = HELD_MAX,
        on_published: Callable[[int], None] = _nothing,
        on_dropped: Callable[[int], None] = _nothing,
    ) -> None:
        """`on_published` and `on_dropped` hear numbers of events."""
        self._channel = channel
        self._pace = pace
        self._held_max = held_max
        self._on_published = on_published
        self._on_dropped = on_dropped
        self._held: deque[tuple[Entry, Body]] = deque()
        self._held_bytes = 0
        self._some = asyncio.Event()
        self._dropped = 0
        self._quiet_until = 0.0

    def offer(self, commits: Sequence[tuple[Entry, Body]]) -> None:
        """Hear of commits that were recorded, in their order. Takes no time and never raises."""
        for entry, body in commits:
            if len(self._held) >= self._held_max or self._held_bytes + len(entry.body) > HELD_BYTES_MAX:
                self._drop(len(body.events))
                continue
            self._held.append((entry, body))
            self._held_bytes += len(entry.body)
        if self._held:
            self._some.set()

    async def run(self) -> None:
        """Publish for ever, a few commits at a time."""
        while True:
            await self._some.wait()
            if self._pace is not None:
                self._pace.begin()
            published = 0
            for _ in range(min(SLICE, len(self._held))):
                entry, body = self._held.popleft()
                self._held_bytes -= len(entry.body)
                published += self._publish(entry, body)
            self._on_published(published)
            self._tell_dropped()
            if not self._held:
                self._some.clear()
            if self._pace is not None:
                await self._pace.rest()
            await asyncio.sleep(0)

    def _publish(self, entry: Entry, body: Body) -> int:
        """How many of a commit's events were passed on."""
        noun, aggregate_id = split_subject(entry.subject)
        published = 0
        for record, event in zip(body.events, cloud_events(entry.position, noun, aggregate_id, body), strict=True):
            sound = _TYPE(record.type) and _ID(aggregate_id)
            subject = f"{EVENTS}.{record.type}.{aggregate_id}"
            if sound and self._channel.publish(subject, msgspec.json.encode(event), HEADERS):
                published += 1
            else:
                self._drop(1)
        return published

    def _drop(self, count: int) -> None:
        self._dropped += count
        self._on_dropped(count)

    def _tell_dropped(self) -> None:
        now = time.monotonic()
        if self._dropped and now >= self._quiet_until:
            logger.warning("%d events were not passed on; GET /api/events has them.", self._dropped)
            self._dropped = 0
            self._quiet_until = now + QUIET_S
