"""/ws and the event stream on a listener in the test's own loop, over a feed on a store in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from sanic import HTTPResponse, Request
from websockets.asyncio.client import ClientConnection, connect

from adapters.clock import SystemClock
from core.scheduling.fleet import Fleet
from core.services.feed import Feed
from entrypoints.calls import Calls
from entrypoints.http.door import Door, Key
from entrypoints.http.event_stream import EventStreams
from entrypoints.http.listener import Listener, bind, make_app
from entrypoints.rpc.engine import Rpc
from entrypoints.rpc.log_messages import LogMessages
from entrypoints.rpc.methods import methods
from entrypoints.rpc.notifications import Notification, Notifications
from entrypoints.websocket.handshake import add_tickets, add_websocket
from entrypoints.websocket.sockets import Sockets
from entrypoints.websocket.watching import Watching
from tests.core.feeding import World
from tests.given import CODEC, running

KEY = Key.make()
_numbers = count(1)


class Measured:
    """Metrics of a system that stands still."""

    async def measure(self) -> Notification:
        return Notification("system/metrics", "system/metrics", {"cpu_usage": 0.0})


class Served:
    """A listener that answers at /ws, and what lies behind it."""

    def __init__(self, *, connections_max: int = 100, ping_s: float = 30.0) -> None:
        self.world = World()
        self.world.feed = Feed(self.world.store, CODEC, self.world.recorded, SystemClock(), flush_s=0.01)
        self.door = Door(KEY)
        calls = Calls(())
        self.rpc = Rpc(calls, methods(calls, "0"))
        self.messages = LogMessages()
        watching = Watching(self.world.feed, CODEC, Notifications(Fleet), Measured(), self.messages)
        self.sockets = Sockets(self.rpc, self.world.feed, watching, connections_max=connections_max, ping_s=ping_s)
        self.streams = EventStreams(self.world.feed)
        app = make_app(f"served-{next(_numbers)}", first=False)
        add_websocket(app, self.sockets, self.door)
        add_tickets(app, self.door)

        async def events(request: Request) -> HTTPResponse | None:
            await self.streams.answer(request)
            return None

        app.add_route(events, "/api/events", methods=["GET"], name="events")
        self.listener = Listener(app, bind("127.0.0.1", 0, "HIVEBUS_UI_PORT"))

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.listener.port}"

    def connect(self, path: str = "/ws", *, key: str | None = KEY.text, **more: Any) -> connect:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return connect(
            f"ws://{self.place}{path}", additional_headers=headers | more.pop("headers", {}), proxy=None, **more
        )


@asynccontextmanager
async def served(**how: Any) -> AsyncIterator[Served]:
    """One that answers inside the block."""
    one = Served(**how)
    await one.listener.prepare()
    await one.listener.serve()
    try:
        async with running(one.world.feed.run(), one.sockets.run()):
            yield one
            await one.sockets.drain()
    finally:
        await one.listener.drain(1.0)


async def call(ws: ClientConnection, method: str, **params: Any) -> Any:
    """The result of a call; nothing else is on its way."""
    answer = await asked(ws, method, **params)
    assert "result" in answer, answer
    return answer["result"]


async def asked(ws: ClientConnection, method: str, **params: Any) -> Any:
    """The answer to a call, good or bad."""
    await ws.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
    return json.loads(await received(ws))


async def received(ws: ClientConnection) -> str:
    async with asyncio.timeout(10):
        message = await ws.recv()
    assert isinstance(message, str)
    return message


async def initialized(ws: ClientConnection, **capabilities: bool) -> None:
    await call(ws, "initialize", protocolVersion={"major": 1}, capabilities=capabilities)


async def batch(ws: ClientConnection) -> Any:
    """The params of the next message, which must be a batch."""
    message = json.loads(await received(ws))
    assert message["method"] == "events/batch", message
    return message["params"]


async def told(ws: ClientConnection, to: int) -> list[tuple[int, str]]:
    """Position and id of each event up to a position; the batches must follow on each other."""
    events, last = [], None
    while last is None or last < to:
        params = await batch(ws)
        assert last in (None, params["from"])
        last = params["to"]
        events += [(int(event["sequence"]), event["id"]) for event in params["events"]]
    return events
