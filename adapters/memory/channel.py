"""A channel within one process: whoever holds the same exchange hears each other at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count

from msgspec import Struct

from core.services.channel import Message


class _Listener(Struct):
    pattern: list[str]
    handler: Callable[[Message], None]
    queue: str


class MemoryChannel:
    """Channel without a broker. `connected` may be taken away: then nothing is published, and answers wait."""

    def __init__(self) -> None:
        self.connected = True
        self._listeners: dict[int, _Listener] = {}
        self._numbers = count(1)
        self._turn = count()
        self._waiting: list[Message] = []

    async def listen(self, subject: str, handler: Callable[[Message], None], *, queue: str = "") -> int:
        """See Channel."""
        number = next(self._numbers)
        self._listeners[number] = _Listener(subject.split("."), handler, queue)
        return number

    async def leave(self, *numbers: int) -> None:
        """See Channel."""
        for number in numbers:
            self._listeners.pop(number, None)

    def answer(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
        """See Channel."""
        self._waiting.append(Message(subject, "", payload, _lower(headers)))
        if self.connected:
            self.reconnect()

    def publish(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> bool:
        """See Channel."""
        if self.connected:
            self.send(Message(subject, "", payload, _lower(headers)))
        return self.connected

    def reconnect(self) -> None:
        """Be connected, and deliver the answers that waited."""
        self.connected = True
        waiting, self._waiting = self._waiting, []
        for message in waiting:
            self.send(message)

    def send(self, message: Message) -> None:
        """Deliver to all that listen, and to one of each queue group."""
        words = message.subject.split(".")
        groups: dict[str, list[_Listener]] = {}
        for number, listener in list(self._listeners.items()):
            if _matches(listener.pattern, words):
                groups.setdefault(listener.queue or f"\0{number}", []).append(listener)
        for listeners in groups.values():
            listeners[next(self._turn) % len(listeners)].handler(message)


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _matches(pattern: list[str], words: list[str]) -> bool:
    if pattern[-1:] == [">"]:
        return len(words) >= len(pattern) and _matches(pattern[:-1], words[: len(pattern) - 1])
    return len(pattern) == len(words) and all(part in ("*", word) for part, word in zip(pattern, words, strict=True))
