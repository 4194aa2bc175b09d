"""The pipelined publisher: one inbox for all acknowledgements, one frame per append, one sweep for all timeouts."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from itertools import count

from adapters.jetstream.api import COMMIT_ID, EXPECTED, NO_RESPONDERS, Ack, ack_of, unreachable
from adapters.jetstream.health import Pulse
from adapters.jetstream.room import Room
from adapters.jetstream.wire import WireClient

IN_FLIGHT_MAX = 4096
IN_FLIGHT_BYTES_MAX = 32 * 1024 * 1024
SWEEP_S = 0.1

Answer = asyncio.Future[Ack | None]
Stored = Callable[[int, str, str, bytes], None]
"""Hears of each acknowledged append, in the order of the answers: position, subject, commit id, body."""

_SUBJECT = re.compile(r"[A-Za-z0-9_.-]+").fullmatch
_HEAD_SIZE = len(f"NATS/1.0\r\n{EXPECTED}: ")


class Publisher:
    """Sends appends and matches their acknowledgements.

    At most `in_flight_max` frames and 32 MiB are unanswered at a time; callers beyond that queue, first come, first
    served. Every publish is answered or given up after `timeout_s`, or as soon as the connection is lost.
    """

    def __init__(
        self, client: WireClient, pulse: Pulse, *, timeout_s: float = 2.0, in_flight_max: int = IN_FLIGHT_MAX
    ) -> None:
        self.room = Room(in_flight_max, IN_FLIGHT_BYTES_MAX)
        self.on_settled: Callable[[], None] | None = None
        self.on_stored: Stored | None = None
        self._client = client
        self._pulse = pulse
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._inbox = f"{client.new_inbox()}."
        self._inbox_size = len(self._inbox)
        self._tokens = count()
        # Future, time of sending, subject, commit id, body by token. The order is that of sending: the oldest first.
        self._flights: dict[bytes, tuple[Answer, float, str, str, bytes]] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._number = 0

    @property
    def in_flight(self) -> int:
        """How many frames are unanswered."""
        return len(self._flights)

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

    def publish(self, subject: str, commit_id: str, body: bytes, expected: int) -> Awaitable[Ack | None]:
        """The server's answer, or None if none came: then the message may or may not be stored.

        Raises Unavailable when nothing was sent. Once sent, cancelling the caller changes nothing.
        """
        check(subject)
        if not self.room.take(len(body)):
            return self._publish_in_turn(subject, commit_id, body, expected)
        return self._publish(subject, commit_id, body, expected)

    async def _publish_in_turn(self, subject: str, commit_id: str, body: bytes, expected: int) -> Ack | None:
        await self.room.wait(len(body))
        return await self._publish(subject, commit_id, body, expected)

    def _publish(self, subject: str, commit_id: str, body: bytes, expected: int) -> Answer:
        if not self._pulse.reachable:
            self.room.give(len(body))
            raise unreachable()
        answer: Answer = self._loop.create_future()
        self.send(subject, commit_id, body, expected, answer)
        return answer

    def send(self, subject: str, commit_id: str, body: bytes, expected: int, answer: Answer) -> None:
        """Send one frame; its permit, which the caller took, is given back when `answer` is set."""
        token = next(self._tokens)
        size = len(body)
        tail = f"{expected}\r\n{COMMIT_ID}: {commit_id}\r\n\r\n"
        head = _HEAD_SIZE + len(tail)
        line = f"HPUB {subject} {self._inbox}{token} {head} {head + size}\r\nNATS/1.0\r\n{EXPECTED}: {tail}"
        self._flights[b"%d" % token] = (answer, time.monotonic(), subject, commit_id, body)
        if self._sweep is None:
            self._sweep = self._loop.call_later(SWEEP_S, self._give_up_old)
        self._client.send(line.encode() + body + b"\r\n")

    def _on_ack(self, subject: bytes, _reply: bytes, data: bytes, headers: bytes) -> None:
        self._settle(subject[self._inbox_size :], NO_RESPONDERS if headers else ack_of(data))

    def _give_up_old(self) -> None:
        self._sweep = None
        limit = time.monotonic() - self._timeout_s
        while self._flights:
            token, (_, sent_at, *_) = next(iter(self._flights.items()))
            if sent_at > limit:
                self._sweep = self._loop.call_later(SWEEP_S, self._give_up_old)
                return
            self._pulse.missed(sent_at=sent_at)
            self._settle(token, None)

    def _give_up_all(self) -> None:
        for token in list(self._flights):
            self._settle(token, None)

    def _settle(self, token: bytes, ack: Ack | None) -> None:
        flight = self._flights.pop(token, None)
        if flight is None:
            return
        answer, _, subject, commit_id, body = flight
        self.room.give(len(body))
        if not answer.done():
            answer.set_result(ack)
        if ack is not None and ack.error is None and self.on_stored is not None:
            self.on_stored(ack.seq, subject, commit_id, body)
        if self.on_settled is not None:
            self.on_settled()


def check(subject: str) -> None:
    """Refuse what would be read as something else on the wire."""
    if _SUBJECT(subject) is None:
        raise ValueError(f"not a subject of the log: {subject!r}")
