"""The only place that reaches into nats-py: messages straight from its parser, frames straight into its send buffer.

The public API spends a task, a queue and a header dictionary on every message, which is more than the append itself
costs. Everything below was read in nats-py 2.16; `tests/contracts` fails when another version breaks it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client
from nats.errors import Error

CANCEL_STEP_S = 0.013

Handler = Callable[[bytes, bytes, bytes, bytes], None]

_logger = logging.getLogger("hivebus.broker")


class NoTls(Error):
    """The server wants to go on without TLS."""


class WireClient(Client):
    """A nats-py client with a raw door: `listen` and `send`. All else works as in nats-py.

    `heard_at` is the monotonic time of the last message on any raw subscription. `on_lost` and `on_back` are called
    from the loop when the connection goes and comes; `connected` is set in between.
    """

    def __init__(self, *, tls_only: bool = False) -> None:
        super().__init__()
        self._tls_only = tls_only
        self.heard_at = 0.0
        self.connected = asyncio.Event()
        self.on_lost: list[Callable[[], None]] = []
        self.on_back: list[Callable[[], None]] = []
        self._handlers: dict[int, Handler] = {}
        self._flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushed.set_result(None)

    async def listen(self, subject: str, handler: Handler, *, queue: str = "") -> int:
        """Call `handler(subject, reply, data, headers)` for each message, from the read loop; survives reconnects.

        A handler must not block. Returns the number that `unlisten` takes. Of a queue group's, one gets each message.
        """
        subscription = await self.subscribe(subject, queue=queue)
        self._handlers[subscription._id] = handler
        return subscription._id

    def unlisten(self, number: int) -> None:
        """End a subscription; nothing is delivered after this returns. A repeat is harmless."""
        if self._handlers.pop(number, None) is None:
            return
        self._subs.pop(number, None)
        if self.is_connected:
            self.send(b"UNSUB %d\r\n" % number)

    def send(self, frame: bytes) -> None:
        """Queue a whole protocol frame; it leaves with the next flush, one write for all that waits.

        The caller bounds what it has in flight and has seen `is_connected`: a frame queued after a disconnect leaves
        at the reconnect.
        """
        self._pending.append(frame)
        self._pending_data_size += len(frame)
        queue = self._flush_queue
        # The flusher wants a future per kick and resolves those that are not done: one resolved future serves all.
        if queue is not None and queue.empty():
            queue.put_nowait(self._flushed)

    async def settle(self) -> None:
        """Wait until the server has handled all that was queued here, and we have handled all that it sent before.

        The caller sets the deadline. nats-py's `flush` sends its PING ahead of frames that still wait, and proves less.
        """
        if self._pending and self._transport is not None:
            self._transport.writelines(self._pending)
            self._pending = []
            self._pending_data_size = 0
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._send_ping(pong)
        # Never cancelled: nats-py sets the result of whatever future it has kept, and would end its read loop by it.
        await asyncio.shield(pong)

    def forget_unsent(self) -> None:
        """Drop what waits to be sent: nats-py would send it on the next connection, before anybody has looked at it."""
        self._pending.clear()
        self._pending_data_size = 0

    async def close(self) -> None:
        """Close for good. A repeat is harmless."""
        await super().close()
        reconnecting = self._reconnection_task
        if reconnecting is None or reconnecting is asyncio.current_task():
            return
        # In Python 3.11 `wait_for` loses a cancellation that meets the end of a connection attempt, and nats-py's
        # reconnect loop does not look whether the client was closed: ask until it has ended.
        while not reconnecting.done():
            reconnecting.cancel()
            await asyncio.wait({reconnecting}, timeout=CANCEL_STEP_S)
        if not self.is_closed:
            await super().close()

    @property
    def server(self) -> dict[str, Any]:
        """What the server that we are connected to said of itself: version, cluster, max_payload, ..."""
        return self._server_info

    def _connect_command(self) -> bytes:
        # nats-py encrypts if the server asks for it; a stranger in between would simply not ask, and get the password.
        if self._tls_only and not self._server_info.get("tls_required"):
            raise NoTls
        return super()._connect_command()

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except OSError:
            # After a TLS handshake that failed, nobody ever tells the plain stream that it is closed: nats-py's
            # `wait_closed` on it, part of every close, would not return.
            if self._transport is not None:
                self._transport.close()  # type: ignore[no-untyped-call]  # nats-py annotates only some
                self._transport = None
            raise

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        handler = self._handlers.get(sid)
        if handler is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.heard_at = time.monotonic()
        try:
            handler(subject, reply, data, headers or b"")
        except Exception:
            # An exception here would end nats-py's read loop, and with it the connection, without a word.
            _logger.exception("A message on %r could not be handled.", subject)


def publish_frame(subject: str, reply: str, payload: bytes) -> bytes:
    """A PUB frame. Subject and reply must hold no whitespace."""
    return b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), reply.encode(), len(payload), payload)


def header_frame(subject: str, reply: str, headers: dict[str, str], payload: bytes) -> bytes:
    """An HPUB frame. Subject, reply, names and values must hold no line breaks."""
    head = "NATS/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    sizes = f"{len(head)} {len(head) + len(payload)}"
    return b"%b%b\r\n" % (f"HPUB {subject} {reply} {sizes}\r\n{head}".encode(), payload)


def header_of(headers: bytes, name: bytes) -> bytes:
    """One value out of raw headers, empty if it is absent."""
    start = headers.find(b"\r\n" + name + b": ")
    if start < 0:
        return b""
    start += len(name) + 4
    return headers[start : headers.index(b"\r\n", start)]


def status_of(headers: bytes) -> bytes:
    """The three digits of an inline status, empty if the message has none."""
    return headers[9:12] if headers[8:9] == b" " else b""
