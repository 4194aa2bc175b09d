"""Whether the broker answers: known without asking while it is busy, asked once a second while it is not."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import NoReturn

from adapters.jetstream.api import STREAM_INFO, stream_info_of
from adapters.jetstream.gate import Gate
from adapters.jetstream.requests import NoAnswer, NoResponders, Requests
from adapters.jetstream.wire import WireClient
from core.kernel.errors import Unavailable

# FRESH_S + PROBE_S is the two seconds that EventLog.healthy promises.
FRESH_S = 1.0
PROBE_S = 1.0
SILENCE_S = 3.0

_logger = logging.getLogger("hivebus.broker")


class Pulse:
    """The one opinion on whether it makes sense to send something.

    A probe asks for the stream, which only its leader answers, and is not a PING: nats-py ends its read loop when a
    PONG arrives for a flush that was given up, and a broker that cannot serve the log still answers PINGs.
    """

    def __init__(self, client: WireClient, requests: Requests, gate: Gate) -> None:
        self._client = client
        self._gate = gate
        self._requests = requests
        self._silent_at = float("-inf")
        self._serving = True

    @property
    def reachable(self) -> bool:
        """Whether an append may leave: the broker answers, and its log was compared since it came (see Gate)."""
        return self.answering and self._gate.opened.is_set()

    @property
    def answering(self) -> bool:
        """False while disconnected, or after an unanswered message, for 3 s at most: then the next one may try."""
        client = self._client
        # The rest is asked on every append, so the clock is read only after a miss.
        return client.is_connected and (
            client.heard_at >= self._silent_at or time.monotonic() - self._silent_at >= SILENCE_S
        )

    def missed(self, *, sent_at: float) -> None:
        """Report a message that got no answer; it counts as silence if nothing else came since."""
        if self._client.heard_at < sent_at:
            self._silent_at = time.monotonic()

    async def healthy(self) -> bool:
        """Whether the broker answered within two seconds; asks if nothing came within the last one."""
        if not self.reachable:
            return False
        fresh = time.monotonic() - self._client.heard_at < FRESH_S
        return (fresh and self._serving) or await self._probe()

    async def watch(self) -> NoReturn:
        """Ask once a second, and say so in the log when the answer changes. Raises Unavailable if nats-py gave up."""
        was_answering = True
        while True:
            await asyncio.sleep(FRESH_S)
            if self._client.is_closed:
                raise Unavailable(
                    f"The connection to the broker was closed: {self._client.last_error}.",
                    code="log_unavailable",
                    remedy="Start the program again; the broker's log says why it refused the connection.",
                )
            await self._probe()
            if self.answering != was_answering:
                was_answering = self.answering
                _logger.warning("The broker %s.", "answers again" if was_answering else "does not answer")

    async def _probe(self) -> bool:
        sent_at = time.monotonic()
        try:
            reply = await self._requests.one(STREAM_INFO, timeout_s=PROBE_S)
        except NoResponders:
            # It was heard, and it serves nothing: a publish finds that out by itself, at once.
            self._serving = False
            return False
        except NoAnswer:
            # Others may be heard all the while: a cluster whose servers answer and whose stream has no leader.
            self._serving = False
            self.missed(sent_at=sent_at)
            return False
        self._serving = stream_info_of(reply.data).error is None
        return self._serving
