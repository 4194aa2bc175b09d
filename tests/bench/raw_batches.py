"""The yardstick of the durable profile: atomic batches formed from a queue, with nothing around them.

No expectation but 0, no permit, no timeout, no resolution, one body for all; what waits at the end of a turn of the
loop is one batch, and the next one fills until its answer is there.
"""

from __future__ import annotations

import asyncio
import json
from itertools import count
from uuid import UUID

from adapters.jetstream.wire import WireClient

BATCH_MAX = 500
BATCHES_MAX = 4

Waiting = tuple[UUID, asyncio.Future[int]]


class RawBatches:
    """Appends one body under ever new subjects."""

    def __init__(self, client: WireClient, body: bytes) -> None:
        self._client = client
        self._body = body
        self._loop = asyncio.get_running_loop()
        self._inbox = f"{client.new_inbox()}."
        self._waiting: list[Waiting] = []
        self._batches: dict[bytes, list[Waiting]] = {}
        self._numbers = count()
        self._awake = False

    async def start(self) -> None:
        await self._client.listen(f"{self._inbox}*", self._on_ack)

    def append(self, commit_id: UUID) -> asyncio.Future[int]:
        position: asyncio.Future[int] = self._loop.create_future()
        self._waiting.append((commit_id, position))
        self._wake()
        return position

    def _wake(self) -> None:
        if self._waiting and not self._awake:
            self._awake = True
            self._loop.call_soon(self._end_of_turn)

    def _end_of_turn(self) -> None:
        self._awake = False
        while self._waiting and (
            not self._batches or (len(self._waiting) >= BATCH_MAX and len(self._batches) < BATCHES_MAX)
        ):
            self._send()

    def _send(self) -> None:
        batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
        number = next(self._numbers)
        self._batches[b"%d" % number] = batch
        pieces = []
        reply = commit = ""
        for place, (commit_id, _) in enumerate(batch, 1):
            if place == len(batch):
                reply, commit = f"{self._inbox}{number} ", "Nats-Batch-Commit: 1\r\n"
            head = (
                f"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: 0\r\n"
                f"Nats-Batch-Id: {self._inbox}{number}\r\nNats-Batch-Sequence: {place}\r\n{commit}\r\n"
            )
            sizes = f"{len(head)} {len(head) + len(self._body)}"
            pieces += [f"HPUB hive.log.raw.{commit_id.hex} {reply}{sizes}\r\n{head}".encode(), self._body, b"\r\n"]
        self._client.send(b"".join(pieces))

    def _on_ack(self, subject: bytes, _reply: bytes, data: bytes, _headers: bytes) -> None:
        batch = self._batches.pop(subject[len(self._inbox) :])
        ack = json.loads(data)
        assert ack["count"] == len(batch), ack
        for place, (_, position) in enumerate(batch, ack["seq"] - ack["count"] + 1):
            position.set_result(place)
        self._wake()
