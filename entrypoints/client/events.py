"""The events after a position, in order, each once, through lost connections and restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from core.kernel.errors import HivebusError
from entrypoints.client.calling import BUSY
from entrypoints.client.connection import Connection, Lost
from entrypoints.client.connector import Connector, Pauses


class Events:
    """CloudEvents as JSON objects (`type`, `subject`, `sequence`, `data`, ...), for `async for`.

    `position` is where a program goes on that stores it after handling an event: no event after it was handed out,
    but perhaps the first ones of a commit whose last one was not. It is None until the first connection where no
    `after` was given. A second `async for` goes on where the first one ended. One loop at a time.
    """

    def __init__(self, connector: Connector, after: int | None, selection: dict[str, Any]) -> None:
        self._connector = connector
        self._selection = selection
        self._handed: set[str] = set()
        self.position = after

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        until, pauses = self._connector.deadline(), Pauses()
        try:
            while True:
                connection = await self._connector.connection(until)
                try:
                    await self._subscribe(connection)
                    pauses = Pauses()
                    while True:
                        for event in self._fresh(await connection.notice()):
                            yield event
                except Lost:
                    await self._connector.lost(connection)
                    until = self._connector.deadline()
                except HivebusError as error:
                    pause_s = error.retry_after_s if error.retry_after_s is not None else pauses.next()
                    if error.status not in BUSY or asyncio.get_running_loop().time() + pause_s > until:
                        raise
                    await asyncio.sleep(pause_s)
        finally:
            await self._connector.let_go()

    async def _subscribe(self, connection: Connection) -> None:
        params: dict[str, Any] = {"filter": self._selection}
        if self.position is not None:
            params["after"] = self.position
        answer = await connection.request("events/subscribe", params)
        if self.position is None:
            self.position = int(answer["position"])

    def _fresh(self, notice: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What of a batch was not handed out yet; the position moves on with the last event of each commit."""
        if notice["method"] != "events/batch":
            return
        batch = notice["params"]
        if self.position is not None and int(batch["from"]) > self.position:
            raise Lost(f"events were skipped after position {self.position}")
        events = batch["events"]
        for index, event in enumerate(events):
            position = int(event["sequence"])
            if (self.position is not None and position <= self.position) or event["id"] in self._handed:
                continue
            following = events[index + 1] if index + 1 < len(events) else None
            if following is None or int(following["sequence"]) != position:
                self.position = position
                self._handed.clear()
            else:
                self._handed.add(event["id"])
            yield event
        self.position = max(self.position or 0, int(batch["to"]))
        self._handed.clear()
