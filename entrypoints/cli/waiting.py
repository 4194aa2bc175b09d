"""Follows tasks to their ends: a pure list that events are shown to, and the loop that asks for them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from entrypoints.cli.events import Page, id_of, read_page, word_of
from entrypoints.cli.http import Client

IDLE_S = 1.0
LOOK_MAX = 1000
LOOKS_AGREE = 2
FIRST_LINE_MAX_CHARS = 200

ENDS = {
    "task.completed": "completed",
    "task.failed": "failed",
    "task.cancelled": "cancelled",
    "task.expired": "expired",
}
MOVES = {
    "task.queued": "waiting",
    "task.asked": "waiting",
    "task.scheduled": "waiting",
    "task.assigned": "running",
    "task.started": "running",
}


class Watchlist:
    """Where each of the tasks stands. Knows no clock and no server."""

    def __init__(self, task_ids: Iterable[str]) -> None:
        self.status: dict[str, str] = dict.fromkeys(task_ids, "waiting")
        self.first_lines: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self._open = len(self.status)
        self._looks: Counter[str] = Counter()

    def see(self, event: Mapping[str, Any]) -> None:
        """Take an event in; those of other tasks are none of our business."""
        task_id, word = id_of(event), word_of(event)
        if self.status.get(task_id) not in ("waiting", "running"):
            return
        if word in MOVES:
            self.status[task_id] = MOVES[word]
            self._forget_reason(task_id)
        elif word in ENDS:
            self.status[task_id] = ENDS[word]
            self._open -= 1
            self._forget_reason(task_id)
            first_line = first_line_of((event.get("data") or {}).get("result"))
            if first_line:
                self.first_lines[task_id] = first_line

    def look(self, tasks: Iterable[Mapping[str, Any]]) -> None:
        """Take in what the views say about waiting tasks.

        A reason counts once two looks agree: an agent that is just being replaced leaves its tasks without one for a
        moment.
        """
        for task in tasks:
            task_id, reason = task["id"], task.get("unassignable")
            if self.status.get(task_id) != "waiting":
                continue
            if reason is None:
                self._forget_reason(task_id)
                continue
            self._looks[task_id] += 1
            if self._looks[task_id] >= LOOKS_AGREE:
                self.reasons[task_id] = reason

    @property
    def done(self) -> bool:
        """Whether each task has ended, or never can."""
        return self._open == len(self.reasons)

    @property
    def ended(self) -> int:
        """How many have ended."""
        return len(self.status) - self._open

    def counts(self) -> dict[str, int]:
        """How many stand where; unassignable ones are not counted as waiting."""
        counts = Counter(self.status.values())
        counts["unassignable"] = len(self.reasons)
        counts["waiting"] -= len(self.reasons)
        return {word: number for word, number in counts.items() if number}

    def _forget_reason(self, task_id: str) -> None:
        self.reasons.pop(task_id, None)
        self._looks.pop(task_id, None)


class Follower:
    """Asks the server until a watchlist is done, or its time is over."""

    def __init__(
        self,
        client: Client,
        watchlist: Watchlist,
        *,
        correlation_id: str,
        after: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._watchlist = watchlist
        self._correlation_id = correlation_id
        self._monotonic = monotonic
        self._offset = 0
        self.position = after

    def run(self, changed: Callable[[Watchlist], None], timeout_s: float | None = None) -> bool:
        """Whether all ended before the timeout. `changed` is called after each answer."""
        until = None if timeout_s is None else self._monotonic() + timeout_s
        while not self._watchlist.done:
            left_s = IDLE_S if until is None else until - self._monotonic()
            if left_s <= 0:
                return False
            page = self._read(min(IDLE_S, left_s))
            for event in page.events:
                self._watchlist.see(event)
            if not page.events and page.next >= page.head and not self._watchlist.done:
                self._look()
            changed(self._watchlist)
        return True

    def _read(self, wait_s: float) -> Page:
        filters = {"correlation_id": self._correlation_id, "noun": "task"}
        page = read_page(self._client, self.position, filters, wait_s=wait_s)
        self.position = max(self.position, page.next)
        return page

    def _look(self) -> None:
        """One page of the waiting tasks; the next look takes the next page, so that no look is long."""
        query = {
            "correlation_id": self._correlation_id,
            "status": "queued",
            "limit": LOOK_MAX,
            "offset": self._offset or None,
        }
        answer = self._client.get("/api/tasks", query).json()
        self._offset = self._offset + LOOK_MAX if answer["pagination"]["has_more"] else 0
        self._watchlist.look(answer["tasks"])


def first_line_of(result: Any) -> str:
    """The first line that a program wrote; empty for other results."""
    stdout = result.get("stdout") if isinstance(result, dict) else None
    return stdout.lstrip("\n").partition("\n")[0][:FIRST_LINE_MAX_CHARS] if isinstance(stdout, str) else ""
