"""Requests to the broker over one shared inbox, with one or many replies each."""

from __future__ import annotations

import asyncio
from itertools import count

from msgspec import Struct

from adapters.jetstream.wire import WireClient, header_frame, publish_frame, status_of

REQUEST_TIMEOUT_S = 2.0
REQUESTS_MAX = 1024


class NoAnswer(Exception):
    """The broker did not answer: disconnected, silent, or nobody serves the subject. Whether it acted is unknown."""


class NoResponders(NoAnswer):
    """The server answered that nobody serves the subject: JetStream, the stream or the consumer is not there."""


class Reply(Struct, frozen=True):
    """One reply; `status` is empty for a message with content."""

    status: bytes
    headers: bytes
    data: bytes


class _Waiting(Struct):
    future: asyncio.Future[list[Reply]]
    many: bool
    replies: list[Reply]


class Requests:
    """At most 1,024 requests at a time. A lost connection fails all of them at once instead of after a timeout."""

    def __init__(self, client: WireClient) -> None:
        self._client = client
        self._inbox = f"{client.new_inbox()}."
        self._tokens = count()
        self._waiting: dict[bytes, _Waiting] = {}
        self._number = 0

    async def start(self) -> None:
        """Subscribe the inbox."""
        self._number = await self._client.listen(f"{self._inbox}*", self._on_reply)
        self._client.on_lost.append(self._fail_all)

    def close(self) -> None:
        """Give up what still waits."""
        self._client.unlisten(self._number)
        if self._fail_all in self._client.on_lost:
            self._client.on_lost.remove(self._fail_all)
        self._fail_all()

    async def one(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> Reply:
        """The first reply, or NoAnswer."""
        return (await self._ask(subject, payload, many=False, timeout_s=timeout_s, headers=headers))[0]

    async def many(self, subject: str, payload: bytes, *, timeout_s: float = REQUEST_TIMEOUT_S) -> list[Reply]:
        """All replies up to and with the one that carries a status, or NoAnswer."""
        return await self._ask(subject, payload, many=True, timeout_s=timeout_s)

    async def _ask(
        self, subject: str, payload: bytes, *, many: bool, timeout_s: float, headers: dict[str, str] | None = None
    ) -> list[Reply]:
        if not self._client.is_connected or len(self._waiting) >= REQUESTS_MAX:
            raise NoAnswer(subject)
        token = b"%d" % next(self._tokens)
        waiting = _Waiting(asyncio.get_running_loop().create_future(), many, [])
        self._waiting[token] = waiting
        inbox = self._inbox + token.decode()
        frame = header_frame(subject, inbox, headers, payload) if headers else publish_frame(subject, inbox, payload)
        self._client.send(frame)
        try:
            async with asyncio.timeout(timeout_s):
                return await waiting.future
        except TimeoutError:
            raise NoAnswer(subject) from None
        finally:
            self._waiting.pop(token, None)

    def _on_reply(self, subject: bytes, _reply: bytes, data: bytes, headers: bytes) -> None:
        waiting = self._waiting.get(subject[len(self._inbox) :])
        if waiting is None or waiting.future.done():
            return
        status = status_of(headers)
        if status == b"503":
            waiting.future.set_exception(NoResponders("no responders"))
            return
        waiting.replies.append(Reply(status, headers, data))
        if status or not waiting.many:
            waiting.future.set_result(waiting.replies)

    def _fail_all(self) -> None:
        for waiting in self._waiting.values():
            if not waiting.future.done():
                waiting.future.set_exception(NoAnswer("connection lost"))
