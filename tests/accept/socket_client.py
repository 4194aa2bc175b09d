"""A WebSocket client that costs little: raw frames on an asyncio protocol; what all are told is parsed once."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

INITIALIZE = {"jsonrpc": "2.0", "id": "i", "method": "initialize", "params": {"protocolVersion": {"major": 1}}}
BATCH = b'{"jsonrpc":"2.0","method":"events/batch"'
PONG = b"\x8a\x80\0\0\0\0"


class Event(Struct):
    sequence: str
    id: str
    time: str


class Params(Struct):
    subscription_id: str
    to: int
    events: list[Event]
    from_: int = msgspec.field(name="from")


class Message(Struct):
    params: Params


class Batch:
    """A batch as it came: where it begins and ends, (position, id) of its events, and when the newest was decided."""

    def __init__(self, payload: bytes) -> None:
        params = _decode(payload).params
        self.after, self.to = params.from_, params.to
        self.events = [(int(event.sequence), event.id) for event in params.events]
        self.time_s = datetime.fromisoformat(params.events[-1].time).timestamp() if params.events else None


_decode = msgspec.json.Decoder(Message).decode


class Batches:
    """All clients of a filter get the same bytes: they are parsed once, and held once."""

    def __init__(self, held_max: int = 20_000) -> None:
        self._held: dict[bytes, Batch] = {}
        self._held_max = held_max

    def of(self, payload: bytes) -> Batch:
        found = self._held.get(payload)
        if found is None:
            if len(self._held) >= self._held_max:
                self._held.clear()
            found = self._held[payload] = Batch(payload)
        return found


class SocketClient(asyncio.Protocol):
    """One connection with one subscription. `on_batch` gets the payload of each batch."""

    def __init__(
        self, place: str, key: str, after: int | None, on_batch: Callable[[bytes], None], **filter_: str
    ) -> None:
        self._place, self._key = place, key
        self._after, self._filter = after, filter_
        self._on_batch = on_batch
        self._buffer = bytearray()
        self._open = False
        self.position: int | None = None
        self.close: tuple[int, str] | None = None
        loop = asyncio.get_running_loop()
        self.subscribed: asyncio.Future[int] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.transport: asyncio.Transport

    async def connect(self, *, receive_bytes: int | None = None) -> SocketClient:
        """Shake hands and subscribe."""
        host, _, port = self._place.partition(":")
        sock = socket.socket()
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (host, int(port)))
        await loop.create_connection(lambda: self, sock=sock)
        await self.subscribed
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.write(
            f"GET /ws HTTP/1.1\r\nHost: {self._place}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
            f"Authorization: Bearer {self._key}\r\n\r\n".encode()
        )

    def send(self, message: Any) -> None:
        """A masked frame; a mask of zeros leaves the payload as it is."""
        payload = msgspec.json.encode(message)
        size = bytes((0x80 | len(payload),)) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
        self.transport.write(b"\x81" + size + b"\0\0\0\0" + payload)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if not self._open:
            head, found, _ = bytes(buffer).partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self._fail(head.decode(errors="replace").splitlines()[0])
                return
            del buffer[: len(head) + 4]
            self._open = True
            params: dict[str, Any] = {"filter": self._filter}
            if self._after is not None:
                params["after"] = self._after
            self.send(INITIALIZE)
            self.send({"jsonrpc": "2.0", "id": "s", "method": "events/subscribe", "params": params})
        start, held = 0, len(buffer)
        while held - start >= 2:
            size, begin = buffer[start + 1], start + 2
            if size == 126:
                size, begin = int.from_bytes(buffer[start + 2 : start + 4], "big"), start + 4
            elif size == 127:
                size, begin = int.from_bytes(buffer[start + 2 : start + 10], "big"), start + 10
            if held < begin + size or begin > held:
                break
            self._frame(buffer[start], bytes(buffer[begin : begin + size]))
            start = begin + size
        del buffer[:start]

    def _frame(self, head: int, payload: bytes) -> None:
        if head == 0x81:
            if payload.startswith(BATCH):
                self._on_batch(payload)
            elif b'"id":"s"' in payload:
                answer = msgspec.json.decode(payload)
                if "result" not in answer:
                    self._fail(str(answer))
                elif not self.subscribed.done():
                    self.position = answer["result"]["position"]
                    self.subscribed.set_result(self.position or 0)
        elif head == 0x89:
            self.transport.write(PONG)
        elif head == 0x88:
            self.close = int.from_bytes(payload[:2], "big"), payload[2:].decode()
            self.transport.write(b"\x88\x82\0\0\0\0" + payload[:2])

    def _fail(self, why: str) -> None:
        if not self.subscribed.done():
            self.subscribed.set_exception(ConnectionError(why))
        self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.subscribed.done():
            self.subscribed.set_exception(ConnectionError("the connection was lost before it was subscribed"))
        if not self.ended.done():
            self.ended.set_result(None)
