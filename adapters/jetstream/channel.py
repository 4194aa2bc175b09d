"""Messages with clients of the broker, on a connection of their own: a flood of theirs holds up no append."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from adapters.jetstream.wire import WireClient
from core.services.channel import Message

# More than this waiting to be sent means that the broker, or the machine, is slow: events are dropped.
UNSENT_BYTES_MAX = 1024 * 1024
LEAVE_S = 1.0


class ClientChannel:
    """Channel on a connection to the broker."""

    def __init__(self, client: WireClient) -> None:
        self._client = client

    async def listen(self, subject: str, handler: Callable[[Message], None], *, queue: str = "") -> int:
        """See Channel."""

        def handle(subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
            handler(Message(_text(subject), _text(reply), bytes(data), headers_of(headers)))

        return await self._client.listen(subject, handle, queue=queue)

    async def leave(self, *numbers: int) -> None:
        """See Channel."""
        if self._client.is_connected:
            self._client.send(b"".join(b"UNSUB %d\r\n" % number for number in numbers))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await self._client.settle()
        for number in numbers:
            self._client.unlisten(number)

    def answer(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
        """See Channel."""
        self._client.send(_frame(subject, payload, headers))

    def publish(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> bool:
        """See Channel."""
        if not self._client.is_connected or self._client.pending_data_size > UNSENT_BYTES_MAX:
            return False
        self._client.send(_frame(subject, payload, headers))
        return True


def headers_of(raw: bytes) -> dict[str, str]:
    """Raw headers by their names in lower case; of a name that is given twice, the first."""
    found: dict[str, str] = {}
    for line in raw.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            found.setdefault(_text(name).strip().lower(), _text(value).strip())
    return found


def _text(raw: bytes) -> str:
    return bytes(raw).decode(errors="replace")


def _frame(subject: str, payload: bytes, headers: Mapping[str, str]) -> bytes:
    if not headers:
        return b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(payload), payload)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"NATS/1.0\r\n{lines}\r\n".encode()
    size = len(head)
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (subject.encode(), size, size + len(payload), head, payload)
