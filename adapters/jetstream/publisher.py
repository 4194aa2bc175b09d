"""The pipelined publisher: one inbox for all acknowledgements, one frame per append, one sweep for all timeouts."""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from itertools import count

from msgspec import Struct

from adapters.jetstream.api import COMMIT_ID, EXPECTED, NO_RESPONDERS, Ack, ack_of, unreachable
from adapters.jetstream.health import Pulse
from adapters.jetstream.wire import WireClient

IN_FLIGHT_MAX = 4096
IN_FLIGHT_BYTES_MAX = 32 * 1024 * 1024
SWEEP_S = 0.1

_SUBJECT = re.compile(r"[A-Za-z0-9_.-]+").fullmatch


class _Flight(Struct):
    future: asyncio.Future[Ack | None]
    sent_at: float
    size: int


class Publisher:
    """Sends appends and matches their acknowledgements.

    At most `in_flight_max` frames and 32 MiB are unanswered at a time; callers beyond that queue, first come, first
    served. Every publish is answered or given up after `timeout_s`, or as soon as the connection is lost.
    """

    def __init__(
        self, client: WireClient, pulse: Pulse, *, timeout_s: float = 2.0, in_flight_max: int = IN_FLIGHT_MAX
    ) -> None:
        self._client = client
        self._pulse = pulse
        self._timeout_s = timeout_s
        self._room = _Room(in_flight_max, IN_FLIGHT_BYTES_MAX)
        self._loop = asyncio.get_running_loop()
        self._inbox = f"{client.new_inbox()}."
        self._inbox_size = len(self._inbox)
        self._tokens = count()
        # Insertion order is sending order, so the oldest flight is always the first.
        self._flights: dict[bytes, _Flight] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._number = 0

    async def start(self) -> None:
        """Subscribe the inbox."""
        self._number = await self._client.listen(f"{self._inbox}*", self._on_ack)
        self._client.on_lost.append(self._give_up_all)

    def close(self) -> None:
        """Stop listening; what is in flight ends without an answer."""
        self._client.unlisten(self._number)
        if self._give_up_all in self._client.on_lost:
            self._client.on_lost.remove(self._give_up_all)
        self._give_up_all()

    async def publish(self, subject: str, commit_id: str, body: bytes, expected: int) -> Ack | None:
        """The server's answer, or None if none came: then the message may or may not be stored.

        Raises Unavailable when nothing was sent. Once sent, cancelling the caller changes nothing.
        """
        if _SUBJECT(subject) is None:
            raise ValueError(f"not a subject of the log: {subject!r}")
        size = len(body)
        if not self._room.take(size):
            await self._room.wait(size)
        if not self._pulse.reachable:
            self._room.give(size)
            raise unreachable()
        token = str(next(self._tokens))
        head = f"NATS/1.0\r\n{EXPECTED}: {expected}\r\n{COMMIT_ID}: {commit_id}\r\n\r\n"
        line = f"HPUB {subject} {self._inbox}{token} {len(head)} {len(head) + size}\r\n{head}"
        future: asyncio.Future[Ack | None] = self._loop.create_future()
        self._flights[token.encode()] = _Flight(future, time.monotonic(), size)
        if self._sweep is None:
            self._sweep = self._loop.call_later(SWEEP_S, self._give_up_old)
        self._client.send(b"%b%b\r\n" % (line.encode(), body))
        return await future

    def _on_ack(self, subject: bytes, _reply: bytes, data: bytes, headers: bytes) -> None:
        ack = NO_RESPONDERS if headers else ack_of(data)
        flight = self._flights.pop(subject[self._inbox_size :], None)
        if flight is None:
            return
        self._room.give(flight.size)
        if not flight.future.done():
            flight.future.set_result(ack)

    def _give_up_old(self) -> None:
        self._sweep = None
        limit = time.monotonic() - self._timeout_s
        while self._flights:
            token, flight = next(iter(self._flights.items()))
            if flight.sent_at > limit:
                self._sweep = self._loop.call_later(SWEEP_S, self._give_up_old)
                return
            self._pulse.missed(sent_at=flight.sent_at)
            self._give_up(token)

    def _give_up_all(self) -> None:
        for token in list(self._flights):
            self._give_up(token)

    def _give_up(self, token: bytes) -> None:
        flight = self._flights.pop(token)
        self._room.give(flight.size)
        if not flight.future.done():
            flight.future.set_result(None)


class _Room:
    """Permits by count and by bytes. A body larger than all the bytes still passes when it is alone."""

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self._count = count_max
        self._bytes = bytes_max
        self._bytes_max = bytes_max
        self._queue: deque[tuple[asyncio.Future[None], int]] = deque()

    def take(self, size: int) -> bool:
        """A permit at once, unless there is none or others wait."""
        if self._queue or not self._fits(size):
            return False
        self._count -= 1
        self._bytes -= size
        return True

    async def wait(self, size: int) -> None:
        """A permit in turn."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((future, size))
        try:
            await future
        except asyncio.CancelledError:
            # Granted and cancelled in the same round of the loop: the permit goes to the next one.
            if future.done() and not future.cancelled():
                self.give(size)
            raise

    def give(self, size: int) -> None:
        """Return a permit and grant what fits now."""
        self._count += 1
        self._bytes += size
        while self._queue:
            future, wanted = self._queue[0]
            if not future.done():
                if not self._fits(wanted):
                    return
                self._count -= 1
                self._bytes -= wanted
                future.set_result(None)
            self._queue.popleft()

    def _fits(self, size: int) -> bool:
        return self._count > 0 and (size <= self._bytes or self._bytes == self._bytes_max)
