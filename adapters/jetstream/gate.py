"""The gate between this process and the log: shut from each new connection until somebody has compared the log."""

from __future__ import annotations

import asyncio

from adapters.jetstream.wire import WireClient


class Gate:
    """Holds appends, reads and followers back while nobody knows whether the broker still has the same history.

    A broker that comes back may have lost its tail: an append before that is known would use positions twice. Without
    `guarded` the gate is always open, for who never appends beside a store.
    """

    def __init__(self, client: WireClient, *, guarded: bool) -> None:
        self._client = client
        self._connection = 1
        self._changed = asyncio.Event()
        self.opened = asyncio.Event()
        if guarded:
            # Before all others who hear of the loss: whoever opens something again finds the gate shut.
            client.on_lost.insert(0, self._shut)
        else:
            self.opened.set()

    async def next_connection(self, after: int) -> int:
        """Wait for a connection newer than the one with this number (0: any); its number. It is shut until `open`."""
        while self._connection <= after:
            self._changed.clear()
            await self._changed.wait()
        await self._client.connected.wait()
        return self._connection

    def open(self, connection: int) -> None:
        """Let everybody through, unless that connection was lost in the meantime."""
        if connection == self._connection:
            self.opened.set()

    def close(self) -> None:
        """Stop listening to the connection."""
        if self._shut in self._client.on_lost:
            self._client.on_lost.remove(self._shut)

    def _shut(self) -> None:
        self._connection += 1
        self.opened.clear()
        self._changed.set()
