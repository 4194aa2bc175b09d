"""One client at /ws, on the socket that sanic has given up: no task of its own while it is silent.

Frames are parsed by the protocol of `websockets`, which does no input or output. What is sent goes to the transport at
once; how much may lie there is bounded by `Sockets`, and while much lies there nothing more is read.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from contextvars import ContextVar
from typing import Protocol

from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from core.services.groups import Subscription
from entrypoints.rpc.engine import Rpc, Session
from entrypoints.websocket.frames import PING, resume_reason, text_frame

logger = logging.getLogger("hivebus.websocket")

MESSAGE_BYTES_MAX = 1024 * 1024
IN_FLIGHT_MAX = 16
PAUSE_BYTES = 64 * 1024
# What the system holds for a client that takes nothing counts too; it grows to megabytes if it is let.
SEND_BUFFER_BYTES = 128 * 1024
LINGER_S = 10.0
LINGERS = 6

# The subscriptions that a message makes begin when its answer has been written.
_made: ContextVar[list[Subscription]] = ContextVar("made")


class Owner(Protocol):
    """Who keeps the connections."""

    rpc: Rpc

    def begin(self, subscription: Subscription) -> None:
        """Let a subscription write."""

    def paused(self, connection: Connection) -> None:
        """Too much lies with this one; it must be watched."""

    def resumed(self, connection: Connection) -> None:
        """It has taken what lay there."""

    def lost(self, connection: Connection) -> None:
        """It is gone."""


class Connection(asyncio.Protocol):
    """One client. As a Subscriber it takes frames; see core.services.groups."""

    def __init__(self, owner: Owner, session: Session, protocol: ServerProtocol) -> None:
        self.session = session
        self.subscriptions: dict[str, Subscription] = {}
        self.silent = 0
        self.paused_s: float | None = None
        self.closing = False
        self._owner = owner
        self._protocol = protocol
        self._parts: list[bytes] = []
        self._waiting: deque[bytes] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._linger: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport

    def open(self, transport: asyncio.Transport, response: bytes, received: bytes) -> None:
        """Take the transport over, with what the client sent behind its handshake."""
        self.transport = transport
        transport.set_write_buffer_limits(high=PAUSE_BYTES)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        # The fan-out calls this once for each frame: no name is looked up on the way to the transport.
        self.write = transport.write
        transport.set_protocol(self)
        transport.write(response)
        transport.resume_reading()
        if received:
            self.data_received(received)

    # --- as a subscriber ---

    @property
    def ready(self) -> bool:
        """Whether it has taken what was written, nearly."""
        return self.paused_s is None and not self.closing

    @property
    def held_bytes(self) -> int:
        """What waits here for the client."""
        return self.transport.get_write_buffer_size()

    # --- what the transport says ---

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        self.silent = 0
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._frame(event)
        self._send()

    def eof_received(self) -> None:
        """The client sends nothing more; the transport closes itself."""
        self._protocol.receive_eof()

    def pause_writing(self) -> None:
        """More than 64 KiB lie here: nothing more is read, and the owner keeps an eye on it."""
        self.paused_s = asyncio.get_running_loop().time()
        self.transport.pause_reading()
        self._owner.paused(self)

    def resume_writing(self) -> None:
        """The client takes what lay here."""
        self.paused_s = None
        self._owner.resumed(self)
        self._read_on()

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone; whatever was under way for it ends."""
        self._end()
        for task in self._tasks:
            task.cancel()
        self._waiting.clear()
        if self._linger is not None:
            self._linger.cancel()
        self._owner.resumed(self)
        self._owner.lost(self)

    # --- messages ---

    def _frame(self, frame: Frame) -> None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT) or self.closing:
            return
        self._parts.append(bytes(frame.data))
        if not frame.fin:
            return
        message = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._waiting.append(message)
        self._take()

    def _take(self) -> None:
        while self._waiting and len(self._tasks) < IN_FLIGHT_MAX:
            task = asyncio.get_running_loop().create_task(self._answer(self._waiting.popleft()))
            self._tasks.add(task)
            task.add_done_callback(self._answered)
        if self._waiting:
            self.transport.pause_reading()

    async def _answer(self, message: bytes) -> None:
        made: list[Subscription] = []
        _made.set(made)
        answer = await self._owner.rpc.answer(message, self.session)
        if answer is not None and not self.closing:
            self.write(text_frame(answer))
        for subscription in made:
            self._owner.begin(subscription)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("A message could not be answered.", exc_info=error)
            self.close(1011, "")
        self._take()
        self._read_on()

    def _read_on(self) -> None:
        if not self._waiting and self.paused_s is None and not self.transport.is_closing():
            self.transport.resume_reading()

    def subscribed(self, subscription: Subscription) -> None:
        """Keep a subscription; it begins when the answer to its call is written."""
        self.subscriptions[subscription.id] = subscription
        _made.get().append(subscription)

    # --- its end ---

    def ping(self) -> None:
        """Ask whether it is there."""
        if not self.closing:
            self.write(PING)

    def close(self, code: int, reason: str, linger_s: float | None = None) -> None:
        """Say why, and end: when the client has answered, or after a while without."""
        if self.closing:
            return
        self._end()
        if self._protocol.state is OPEN:
            self._protocol.send_close(code, reason)
        self._send()
        # What is not read cannot be answered, and a client that is slow may still send.
        self.transport.resume_reading()
        self._abort_in(LINGER_S if linger_s is None else linger_s)

    def drop(self) -> dict[str, int]:
        """Close a client that does not keep up, with the positions at which it can resume."""
        positions = {name: subscription.position for name, subscription in self.subscriptions.items()}
        self.close(1013, resume_reason(positions))
        return positions

    def abort(self) -> None:
        """End at once."""
        self.transport.abort()

    def _end(self) -> None:
        self.closing = True
        self._waiting.clear()
        for subscription in self.subscriptions.values():
            subscription.end()

    def _send(self) -> None:
        """Write what the protocol has to say: pongs, and how it closes. After its last word nothing follows."""
        for data in self._protocol.data_to_send():
            if self.transport.is_closing():
                return
            if data:
                self.write(data)
                continue
            # The client's last bytes are still read: with unread ones the system would reset the connection, and our
            # reason might not arrive.
            self._end()
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self._abort_in(LINGER_S)

    def _abort_in(self, seconds: float) -> None:
        if self._linger is None:
            self._linger = asyncio.get_running_loop().call_later(
                seconds, self._abort, seconds, self.held_bytes, LINGERS
            )

    def _abort(self, seconds: float, held: int, left: int) -> None:
        """Give up a client that takes nothing; one that still does may come to the close frame."""
        if self.held_bytes >= held or not left:
            self.transport.abort()
            return
        self._linger = asyncio.get_running_loop().call_later(seconds, self._abort, seconds, self.held_bytes, left - 1)
