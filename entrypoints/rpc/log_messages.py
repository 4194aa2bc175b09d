"""`log/message`: what the program logs from WARNING on, for whoever watches it."""

from __future__ import annotations

import logging
from collections import deque
from itertools import count
from typing import Any

from core.kernel.times import rfc3339
from entrypoints.rpc.notifications import Notification

HELD_MAX = 200
MESSAGE_CHARS_MAX = 1_000


class LogMessages(logging.Handler):
    """Keeps the newest 200 records until they are taken; older ones are dropped and counted.

    It says what the program's own log says and no more: the sentence, without a traceback. Records come from any
    thread.
    """

    def __init__(self, *, held_max: int = HELD_MAX) -> None:
        super().__init__(logging.WARNING)
        self._held: deque[Notification] = deque(maxlen=held_max)
        self._numbers = count(1)
        self._made = 0
        self._taken = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record. Never raises: a log that cannot be told is no reason to fail."""
        try:
            text = record.getMessage()
        except Exception:
            self.handleError(record)
            return
        params: dict[str, Any] = {
            "timestamp": rfc3339(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": text[:MESSAGE_CHARS_MAX],
            "unknown": {},
        }
        self._made = next(self._numbers)
        self._held.append(Notification("log/message", f"log/{self._made}", params))

    def take(self) -> list[Notification]:
        """What was logged since it was last asked, oldest first. Each is given once."""
        taken = []
        while self._held:
            taken.append(self._held.popleft())
        self._taken += len(taken)
        return taken

    @property
    def dropped(self) -> int:
        """How many were never taken, for others came after them."""
        return self._made - self._taken - len(self._held)
