"""All clients at /ws: how many there may be, whether they are still there, and which of them do not keep up."""

from __future__ import annotations

import asyncio
import logging

from websockets.server import ServerProtocol

from adapters.telemetry import SOCKET_DROPS
from core.kernel.errors import Unavailable
from core.services.dispatch import Principal
from core.services.feed import Feed
from core.services.groups import Subscription
from entrypoints.http.readings import SocketCounts
from entrypoints.rpc.engine import Rpc, Session
from entrypoints.websocket.connection import MESSAGE_BYTES_MAX, Connection
from entrypoints.websocket.subscribing import methods_of
from entrypoints.websocket.watching import Watching

logger = logging.getLogger("hivebus.websocket")

PING_S = 30.0
SILENT_MAX = 2
PINGED_AT_ONCE = 200
WATCH_S = 0.1
HELD_BYTES_MAX = 1024 * 1024
STALLED_S = 15.0
DRAIN_S = 1.0
SHUTDOWN = "This program is stopping; connect again and resume."


class Sockets:
    """The connections of this process. Each holds at most about 1 MiB, and none for longer than 15 s."""

    def __init__(
        self, rpc: Rpc, feed: Feed, watching: Watching, *, connections_max: int, ping_s: float = PING_S
    ) -> None:
        self.rpc = rpc
        self.drops = 0
        self._feed = feed
        self._watching = watching
        self._connections_max = connections_max
        self._ping_s = ping_s
        self._connections: set[Connection] = set()
        self._paused: set[Connection] = set()
        self._draining = False
        self._gone = asyncio.Event()

    def __len__(self) -> int:
        return len(self._connections)

    def as_document(self) -> SocketCounts:
        """{connections, subscriptions, filters, catching_up, slow, drops, frames} of this process."""
        return {
            "connections": len(self._connections),
            "subscriptions": self._feed.subscriptions,
            "filters": self._feed.groups,
            "catching_up": self._feed.catching_up,
            "slow": len(self._paused),
            "drops": self.drops,
            "frames": self._feed.frames,
        }

    def make_room(self) -> None:
        """Raises Unavailable where no further client is taken."""
        if self._draining:
            raise Unavailable("This program is stopping.", code="not_ready", remedy="Connect again.", retry_after_s=1)
        if len(self._connections) >= self._connections_max:
            raise Unavailable(
                f"{len(self._connections)} WebSocket clients are connected already.",
                code="too_many_connections",
                remedy="Use another replica, or raise HIVEBUS_SOCKETS_MAX.",
                retry_after_s=5,
            )

    def enter(self, principal: Principal, protocol: ServerProtocol) -> Connection:
        """A client that has shaken hands; whoever calls gives it its transport."""
        protocol.max_message_size = MESSAGE_BYTES_MAX
        session = Session(principal=principal, transport="websocket")
        connection = Connection(self, session, protocol)
        session.methods = methods_of(connection, self._feed)
        self._connections.add(connection)
        self._watching.enter(connection)
        return connection

    async def run(self) -> None:
        """Look after the connections for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._heartbeat())
            tasks.create_task(self._watch())
            tasks.create_task(self._watching.run())

    async def drain(self) -> int:
        """Close all with 1012, for they shall come back; how many had to be cut."""
        self._draining = True
        self._gone.clear()
        for number, connection in enumerate(list(self._connections)):
            connection.close(1012, SHUTDOWN, linger_s=DRAIN_S)
            if number % PINGED_AT_ONCE == 0:
                await asyncio.sleep(0)
        try:
            async with asyncio.timeout(DRAIN_S):
                while self._connections:
                    self._gone.clear()
                    await self._gone.wait()
        except TimeoutError:
            pass
        left = list(self._connections)
        for connection in left:
            connection.abort()
        return len(left)

    # --- what a connection tells ---

    def begin(self, subscription: Subscription) -> None:
        """See Owner."""
        self._feed.start(subscription)

    def paused(self, connection: Connection) -> None:
        """See Owner."""
        self._paused.add(connection)

    def resumed(self, connection: Connection) -> None:
        """See Owner."""
        self._paused.discard(connection)

    def lost(self, connection: Connection) -> None:
        """See Owner."""
        self._connections.discard(connection)
        self._watching.leave(connection)
        self._gone.set()

    # --- loops ---

    async def _heartbeat(self) -> None:
        """Ask everybody, a few at a time; who said nothing for two intervals is closed."""
        while True:
            await asyncio.sleep(self._ping_s)
            for number, connection in enumerate(list(self._connections)):
                if connection.silent >= SILENT_MAX:
                    if not connection.closing:
                        SOCKET_DROPS.add("silent")
                    connection.close(1011, "No sign of life for two heartbeats.", linger_s=DRAIN_S)
                else:
                    connection.silent += 1
                    connection.ping()
                if number % PINGED_AT_ONCE == 0:
                    await asyncio.sleep(0)

    async def _watch(self) -> None:
        """Drop whoever holds too much, or takes nothing for too long."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(WATCH_S)
            for connection in list(self._paused):
                since = connection.paused_s
                if connection.closing or since is None:
                    continue
                if connection.held_bytes > HELD_BYTES_MAX or loop.time() - since > STALLED_S:
                    self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        held = connection.held_bytes
        positions = connection.drop()
        self.drops += 1
        SOCKET_DROPS.add("slow")
        logger.warning(
            "A client of %s did not keep up and is closed with %d bytes before it; it can resume at %s.",
            connection.session.principal.actor,
            held,
            positions or "nothing: it had no subscription",
        )
