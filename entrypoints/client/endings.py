"""Who waits for the end of which task: one stream of task events for all of them, while anybody waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from core.kernel.errors import HivebusError
from entrypoints.client.events import Events
from entrypoints.client.problems import Unreachable

ENDS = frozenset(f"hivebus.task.{word}" for word in ("completed", "failed", "cancelled", "expired"))


class Endings:
    """Futures by task id. Whoever waits reads the task once more after `start`, at the position that this gives."""

    def __init__(self, follow: Callable[[int], Events]) -> None:
        self._follow = follow
        self._waiting: dict[str, list[asyncio.Future[int]]] = {}
        self._events: Events | None = None
        self._following: asyncio.Task[None] | None = None

    def start(self, task_id: str, after: int) -> tuple[asyncio.Future[int], int]:
        """The position of the task's end, once it comes; and the position up to which ends were looked at before."""
        if self._events is None:
            self._events = self._follow(after)
            self._following = asyncio.create_task(self._run(self._events), name="hivebus endings")
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(task_id, []).append(ended)
        assert self._events.position is not None, "it was given one"
        return ended, self._events.position

    async def leave(self, task_id: str, ended: asyncio.Future[int]) -> None:
        """No longer wait; the last one who leaves ends the stream."""
        futures = self._waiting.get(task_id, [])
        if ended in futures:
            futures.remove(ended)
        if not futures:
            self._waiting.pop(task_id, None)
        if not self._waiting:
            await self.close()

    async def close(self) -> None:
        """End the stream, and with it what still waits."""
        self._fail(Unreachable("The bus is closed.", code="closed", remedy="Wait inside `async with`."))
        following, self._following, self._events = self._following, None, None
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _run(self, events: Events) -> None:
        try:
            async for event in events:
                if event["type"] in ENDS:
                    self._tell(event)
        except HivebusError as error:
            self._fail(error)
            # Whoever asks next gets a stream of his own.
            if self._events is events:
                self._events = self._following = None

    def _fail(self, error: HivebusError) -> None:
        for futures in self._waiting.values():
            for ended in futures:
                if not ended.done():
                    ended.set_exception(error)

    def _tell(self, event: dict[str, Any]) -> None:
        for ended in self._waiting.get(event["subject"].partition("/")[2], ()):
            if not ended.done():
                ended.set_result(int(event["sequence"]))
