"""Notifications to connections that asked for them: `agent/status`, `task/progress`, `system/metrics`, `log/message`.

Each is framed once for everybody. Of those that speak of the same thing within 100 ms only the newest is sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.kernel.codec import Codec, Undecodable
from core.kernel.errors import HivebusError
from core.services.feed import Feed
from core.services.told import Told
from entrypoints.rpc.log_messages import LogMessages
from entrypoints.rpc.notifications import Metrics, Notification, Notifications
from entrypoints.websocket.frames import notification_frame

if TYPE_CHECKING:
    from entrypoints.websocket.connection import Connection

logger = logging.getLogger("hivebus.websocket")

TELL_S = 0.1
METRICS_S = 5.0
HELD_MAX = 1_000
SENT_MAX = 200


class Watching:
    """Those who watch, and what they are told next. While nobody watches, nothing is folded or measured."""

    def __init__(
        self, feed: Feed, codec: Codec, notifications: Notifications, metrics: Metrics, messages: LogMessages
    ) -> None:
        self.dropped = 0
        self._feed = feed
        self._codec = codec
        self._notifications = notifications
        self._metrics = metrics
        self._messages = messages
        self._connections: set[Connection] = set()
        self._held: dict[str, Notification] = {}
        self._some = asyncio.Event()

    def enter(self, connection: Connection) -> None:
        """A client that may ask for notifications when it initializes."""
        self._connections.add(connection)
        self._some.set()

    def leave(self, connection: Connection) -> None:
        """It is gone."""
        self._connections.discard(connection)
        if not self._connections:
            self._some.clear()

    async def run(self) -> None:
        """Tell for ever."""
        loop = asyncio.get_running_loop()
        measured_s = 0.0
        while True:
            await self._some.wait()
            watching = [one for one in self._connections if one.session.notifications and not one.closing]
            if not watching:
                self._feed.unwatch(self._hear)
                self._held.clear()
                self._messages.take()
            else:
                self._feed.watch(self._hear)
                if loop.time() - measured_s >= METRICS_S:
                    measured_s = loop.time()
                    await self._measure()
                self._tell(watching)
            await asyncio.sleep(TELL_S)

    def _hear(self, commits: Sequence[Told]) -> None:
        for told in commits:
            try:
                commit = self._codec.decode(told.entry)
            except Undecodable:
                continue
            for notification in self._notifications.of(commit):
                self._hold(notification)

    def _hold(self, notification: Notification) -> None:
        self._held.pop(notification.key, None)
        self._held[notification.key] = notification
        if len(self._held) > HELD_MAX:
            del self._held[next(iter(self._held))]
            self.dropped += 1

    async def _measure(self) -> None:
        try:
            self._hold(await self._metrics.measure())
        except HivebusError as error:
            logger.warning("The metrics could not be measured: %s", error.sentence)

    def _tell(self, watching: Sequence[Connection]) -> None:
        for message in self._messages.take():
            self._hold(message)
        keys = list(self._held)[:SENT_MAX]
        if not keys:
            return
        taken = [self._held.pop(key) for key in keys]
        frames = b"".join(notification_frame(one.method, one.params) for one in taken)
        for connection in watching:
            # What is behind needs no news of this kind: it will be dropped, or be told what is newest then.
            if connection.ready:
                connection.write(frames)
