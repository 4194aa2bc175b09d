"""The clocks of the live tasks: which of them waits for a time, should have ended its attempt, or expires, and when.

Three lazy heaps: what is due is read off a task's entry, a heap only says when to look (core/scheduling/timers.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from core.scheduling.entries import TaskEntry
from core.scheduling.timers import enter


class Clocks:
    """Times in milliseconds, each with the id of its task; timeouts with the fence of the attempt too."""

    def __init__(self, tasks: Mapping[str, TaskEntry]) -> None:
        self._tasks = tasks
        self.timers: list[tuple[int, str]] = []
        self.timeouts: list[tuple[int, int, str]] = []
        self.expiries: list[tuple[int, str]] = []

    def enter(self, entry: TaskEntry) -> None:
        """Enter the times that a task's state gives it."""
        live = len(self._tasks)
        if entry.status == "scheduled":
            enter(self.timers, (entry.not_before_ms, entry.id), live, self._is_timed)
        elif entry.held:
            enter(self.timeouts, (_deadline_ms(entry), entry.fence, entry.id), live, self._is_watched)
        expires = entry.expiry
        if expires is not None:
            enter(self.expiries, (expires[0], entry.id), live, self._is_expiring)

    def _is_timed(self, item: tuple[int, str]) -> bool:
        entry = self._tasks.get(item[1])
        return entry is not None and entry.status == "scheduled" and entry.not_before_ms == item[0]

    def _is_watched(self, item: tuple[int, int, str]) -> bool:
        entry = self._tasks.get(item[2])
        return entry is not None and entry.fence == item[1]

    def _is_expiring(self, item: tuple[int, str]) -> bool:
        entry = self._tasks.get(item[1])
        expires = entry.expiry if entry is not None else None
        return expires is not None and expires[0] == item[0]


def _deadline_ms(entry: TaskEntry) -> int:
    """When an attempt should have ended by itself; one that is being cancelled, after the grace."""
    return entry.cancelled_ms if entry.cancelling else entry.assigned_ms + int(entry.timeout_s * 1000)
