"""What programs outside exchange messages with us on. A message may be lost, and none is delivered twice by us."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec import Struct


class Message(Struct, frozen=True):
    """One message as it came; `reply` is empty where no answer is awaited, names of headers are in lower case."""

    subject: str
    reply: str
    data: bytes
    headers: Mapping[str, str]


class Channel(Protocol):
    """A connection that comes back by itself. Subjects, and the names and values of headers, are ours."""

    async def listen(self, subject: str, handler: Callable[[Message], None], *, queue: str = "") -> int:
        """Hand over what is sent to a subject, through reconnects; the number that `leave` takes.

        Of all that listen in one queue group, one gets each message. The handler must not block.
        """
        ...

    async def leave(self, *numbers: int) -> None:
        """Take nothing new, within a second. What the broker had sent us before is handed over before this returns."""
        ...

    def answer(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
        """Send what somebody waits for; while disconnected it waits for the connection, so the caller bounds it."""
        ...

    def publish(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> bool:
        """Send what may be lost, without waiting; False if it was not taken: disconnected, or too much waits."""
        ...
