"""Following the log: an ephemeral consumer read by two overlapping pulls, made anew whenever in doubt.

What this process appends itself it need not be sent: an acknowledged append that comes next in order is taken as it is.
While nothing else comes the broker is not asked for more, and delivers nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from uuid import uuid4

from adapters.jetstream.api import CONSUMER_CREATE, CONSUMER_DELETE, CONSUMER_NEXT, STREAM, answer_of, encode
from adapters.jetstream.requests import NoAnswer, Requests
from adapters.jetstream.wire import WireClient, header_of, publish_frame, status_of
from core.kernel.commit import Entry
from core.kernel.errors import Unavailable

PULL_MAX = 500
HELD_MAX = 2 * PULL_MAX
# Two pulls of the largest bodies would otherwise exceed the 64 MiB after which the server drops a slow client.
PULL_BYTES_MAX = 8 * 1024 * 1024
PULL_EXPIRES_S = 30
HEARTBEAT_S = 2.0
# In a cluster the server that holds the consumer may be gone while the connection stands: notice it sooner.
COPIED_HEARTBEAT_S = 0.8
HEARTBEATS_MISSED = 2.5
WAIT_MIN_S = 0.5
REOPEN_PAUSE_S = 0.02
INACTIVE_S = 60
# So many own appends one after the other, and the broker is not asked any more; who waits so long for one asks again.
OWN_RUN = 256
OWN_WAIT_S = 0.1
OWN_HELD_MAX = 4_000
OWN_HELD_BYTES_MAX = 4 * 1024 * 1024

_NANOSECONDS = 1_000_000_000
_logger = logging.getLogger("hivebus.broker")


class Follower:
    """All entries after a position, for ever, in batches of at most 1,000.

    An iterator for one consumer. A cancelled wait loses nothing; `aclose` frees the consumer on the server. New pulls
    are made only for a consumer that asks for more, so that one who stopped asking is forgotten by the server.
    """

    def __init__(
        self,
        client: WireClient,
        requests: Requests,
        *,
        after: int,
        trimmed_to: int = 0,
        opened: asyncio.Event,
        ensure_held: Callable[[int], Awaitable[None]],
        on_close: Callable[[Follower], None],
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        """`ensure_held(position)` raises Unavailable when the log has passed a position and does not hold it.

        `opened` is the log's gate. Positions up to `trimmed_to` may be missing for good.
        """
        self._client = client
        self._on_close = on_close
        self._requests = requests
        self._ensure_held = ensure_held
        self._seen = after
        self._trimmed_to = trimmed_to
        self._opened = opened
        self._delivered = 0
        self._held: list[Entry] = []
        self._held_bytes = 0
        # How many own appends followed each other, the last of them, and how far the broker has delivered.
        self._own = 0
        self._own_to = after
        self._delivered_to = after
        self._credit = 0
        self._consumer: str | None = None
        self._inbox = ""
        self._number = 0
        self._heard_at = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self._refused = False
        self._missed_s = HEARTBEATS_MISSED * heartbeat_s
        self._pull_request = encode(
            {
                "batch": PULL_MAX,
                "max_bytes": PULL_BYTES_MAX,
                "expires": PULL_EXPIRES_S * _NANOSECONDS,
                "idle_heartbeat": int(heartbeat_s * _NANOSECONDS),
            }
        )
        client.on_lost.append(self._drop_consumer)

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> Sequence[Entry]:
        while not self._closed:
            if self._held:
                return self._take()
            if self._consumer is None:
                try:
                    await self._open()
                except Unavailable:
                    await self.aclose()
                    raise
            else:
                self._pull()
                await self._wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the iteration, also for a task that waits in it. A repeat is harmless."""
        if self._closed:
            return
        self._closed = True
        self._client.on_lost.remove(self._drop_consumer)
        self._drop_consumer()
        self._on_close(self)

    def offer(self, entry: Entry) -> None:
        """Hear of an acknowledged append of this process; what comes next in order is taken, all else is left."""
        position, alone = entry.position, self._alone
        self._own = self._own + 1 if position == self._own_to + 1 else 1
        self._own_to = position
        has_room = len(self._held) < OWN_HELD_MAX and self._held_bytes <= OWN_HELD_BYTES_MAX
        if position == self._seen + 1 and has_room and not self._closed:
            self._seen = position
            self._hold(entry)
        elif position > self._seen and alone:
            # Something between came from elsewhere, an acknowledgement was lost, or too much is held.
            self._ask_again()

    @property
    def _alone(self) -> bool:
        """Whether nobody else appends, so that the broker need not be asked: it may be ahead of its own answers."""
        return self._own >= OWN_RUN and self._seen - PULL_MAX <= self._own_to <= self._seen

    def _hold(self, entry: Entry) -> None:
        self._held.append(entry)
        self._held_bytes += len(entry.body)
        self._wake()

    def _ask_again(self) -> None:
        """Have the broker deliver: from where it stopped, if that is not far, else from here."""
        self._own = 0
        if self._seen - self._delivered_to > PULL_MAX:
            self._drop_consumer()
        else:
            self._pull()

    def _take(self) -> list[Entry]:
        batch, self._held = self._held[:HELD_MAX], self._held[HELD_MAX:]
        self._held_bytes = sum([len(entry.body) for entry in self._held])
        self._pull()
        return batch

    def _pull(self) -> None:
        if self._alone:
            return
        # What is held and what may still come never exceed two pulls together.
        while self._consumer and self._credit + len(self._held) <= PULL_MAX and self._client.is_connected:
            if self._credit == 0:
                self._heard_at = time.monotonic()
            self._credit += PULL_MAX
            self._client.send(publish_frame(f"{CONSUMER_NEXT}.{self._consumer}", self._inbox, self._pull_request))

    async def _wait(self) -> None:
        """Until something comes; without even a heartbeat in time the consumer is taken for dead."""
        self._waiter = asyncio.get_running_loop().create_future()
        left_s = self._heard_at + self._missed_s - time.monotonic()
        asked = not self._alone
        try:
            # The loop may have been busy for longer than that while the answers lie in the socket: let it look first.
            async with asyncio.timeout(max(left_s, WAIT_MIN_S) if asked else OWN_WAIT_S):
                await self._waiter
        except TimeoutError:
            if not asked:
                self._ask_again()
            elif time.monotonic() - self._heard_at >= self._missed_s:
                _logger.warning("No heartbeat from the consumer after position %d; making a new one.", self._seen)
                self._drop_consumer()
        finally:
            self._waiter = None

    async def _open(self) -> None:
        """One attempt to make a consumer that starts after the last entry seen."""
        await self._client.connected.wait()
        await self._opened.wait()
        # A wait that was cancelled in here may have left its subscription.
        self._client.unlisten(self._number)
        try:
            await self._ensure_held(max(self._seen, self._trimmed_to) + 1)
            name, self._delivered_to = uuid4().hex, self._seen
            self._inbox = self._client.new_inbox()
            self._number = await self._client.listen(self._inbox, self._on_message)
            reply = await self._requests.one(f"{CONSUMER_CREATE}.{name}", self._config(name))
        except NoAnswer:
            self._client.unlisten(self._number)
            await asyncio.sleep(REOPEN_PAUSE_S)
            return
        error = answer_of(reply.data).error
        if error is not None:
            # Once for each outage: it is asked for again and again.
            level = logging.DEBUG if self._refused else logging.WARNING
            _logger.log(level, "The broker refused a consumer: %s (%d).", error.description, error.err_code)
            self._refused = True
            self._client.unlisten(self._number)
            await asyncio.sleep(REOPEN_PAUSE_S)
            return
        if self._closed or self._number == 0:
            # Closed or disconnected in the meantime: the server forgets a consumer that nobody pulls from.
            self._client.unlisten(self._number)
            return
        self._consumer = name
        self._refused = False
        self._credit = 0
        self._delivered = 0
        self._own = 0

    def _config(self, name: str) -> bytes:
        config = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._seen + 1,
            "ack_policy": "none",
            "max_waiting": 16,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": INACTIVE_S * _NANOSECONDS,
        }
        return encode({"stream_name": STREAM, "action": "create", "config": config})

    def _drop_consumer(self) -> None:
        """Forget the consumer; entries already held stay, and the next one starts after them."""
        self._client.unlisten(self._number)
        self._number = 0
        if self._consumer is not None and self._client.is_connected:
            self._client.send(publish_frame(f"{CONSUMER_DELETE}.{self._consumer}", "", b""))
        self._consumer = None
        self._wake()

    def _on_message(self, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        self._heard_at = time.monotonic()
        if not reply:
            self._on_status(headers)
            return
        self._credit -= 1
        position, delivered = _position(reply)
        dense, self._delivered = delivered == self._delivered + 1, delivered
        self._delivered_to = position
        if position <= self._seen:
            return
        # Below the trim a gap is one of the log if the consumer itself left nothing out.
        if position != self._seen + 1 and not (dense and position <= self._trimmed_to + 1):
            # Lost on the way, or gone from the stream: the next consumer finds out which.
            self._drop_consumer()
            return
        self._seen = position
        commit_id = header_of(headers, b"Hive-Commit-Id").decode()
        self._hold(Entry(position, subject.decode(), commit_id, data))

    def _on_status(self, headers: bytes) -> None:
        status = status_of(headers)
        if status == b"100":
            return
        if status == b"408" or (status == b"409" and (b"MaxBytes" in headers or b"Batch Completed" in headers)):
            self._credit -= int(header_of(headers, b"Nats-Pending-Messages") or b"0")
            self._wake()
            return
        _logger.info("The consumer ended: %s", headers[9:].split(b"\r\n", 1)[0].decode())
        self._drop_consumer()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _position(reply: bytes) -> tuple[int, int]:
    """The stream's and the consumer's sequence in a reply subject (NATS ADR-15).

    $JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
    """
    tokens = reply.split(b".")
    first = 5 if len(tokens) == 9 else 7
    return int(tokens[first]), int(tokens[first + 1])
