"""Schedules as the fold of the fleet keeps them, and what is due of them.

A run is submitted under an id that its schedule and its time give, and then marked as fired: whatever is lost in
between, whoever leads, it is the same run.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from core.kernel.commit import Commit
from core.schedule import (
    FireSchedule,
    Schedule,
    ScheduleRemoved,
    SkipReason,
    SkipRuns,
    evolve,
    last_due_ms,
    next_due_ms,
)
from core.scheduling.timers import enter
from core.task import RunScheduled, TaskSubmitted

# Later than this a run has missed its time.
LATE_MS = 60_000
MADE_UP_FOR_MAX = 100
RUNNING_MAX = 100
NO_RUN = (0, "")


class ScheduleEntry(Struct, kw_only=True):
    """A schedule that is not removed: its state, the next due time, and its runs that have not ended.

    `submitted` is the run on the log (its due time, its task) that is not marked as fired yet.
    """

    id: str
    state: Schedule
    owner: str
    position: int
    next_ms: int | None = None
    submitted: tuple[int, str] = NO_RUN
    running: set[str] = msgspec.field(default_factory=set)

    @property
    def unmarked(self) -> bool:
        """Whether a run is on the log that the schedule does not know of."""
        return self.submitted != NO_RUN

    def last_ms(self, until_ms: int) -> int | None:
        """The last due time that is not dealt with."""
        return last_due_ms(self.state.spec, self.state.set_ms, until_ms, self.state.cursor_ms)


class Schedules:
    """The schedules, and a lazy heap of when to look at them."""

    def __init__(self, entries: list[ScheduleEntry] | None = None) -> None:
        self.entries = {entry.id: entry for entry in entries or []}
        self.due: list[tuple[int, str]] = []
        for id_ in self.entries:
            self.put_back(id_)

    def put_back(self, schedule_id: str) -> None:
        """Look at it again when it is due, or at once where a run waits to be marked."""
        entry = self.entries.get(schedule_id)
        if entry is None:
            return
        due_ms = 0 if entry.unmarked else entry.next_ms
        if due_ms is not None:
            enter(self.due, (due_ms, schedule_id), len(self.entries), self.counts)

    def counts(self, item: tuple[int, str]) -> bool:
        """Whether an entry of the heap still speaks of its schedule."""
        entry = self.entries.get(item[1])
        return entry is not None and (entry.unmarked or entry.next_ms == item[0])

    def fold(self, commit: Commit, event: Any) -> None:
        """Apply an event of a schedule."""
        id_ = commit.aggregate_id
        entry = self.entries.get(id_)
        if isinstance(event, ScheduleRemoved):
            self.entries.pop(id_, None)
            return
        state = evolve(entry.state if entry is not None else None, event, commit.moment)
        if entry is None:
            entry = self.entries[id_] = ScheduleEntry(id=id_, state=state, owner=commit.body.actor, position=0)
        entry.state, entry.position = state, commit.position
        if entry.submitted[0] <= state.cursor_ms:
            # A trim takes the task of a run that has ended: what is marked must not depend on it.
            entry.submitted = NO_RUN
        after_ms = state.cursor_ms
        entry.next_ms = next_due_ms(state.spec, state.set_ms, after_ms) if state.status == "active" else None
        self.put_back(id_)

    def began(self, task_id: str, event: TaskSubmitted) -> None:
        """A run was submitted."""
        entry = self.entries.get(event.schedule_id or "")
        if entry is not None and event.due_ms is not None:
            entry.running.add(task_id)
            if event.due_ms > entry.state.cursor_ms:
                entry.submitted = max(entry.submitted, (event.due_ms, task_id))
            self.put_back(entry.id)

    def ended(self, schedule_id: str, task_id: str) -> None:
        """A run has ended."""
        entry = self.entries.get(schedule_id)
        if entry is not None:
            entry.running.discard(task_id)

    def take_due(self, now_ms: int) -> Iterator[ScheduleEntry]:
        """The schedules that something is to be done about; whoever does nothing puts them back."""
        while self.due and self.due[0][0] <= now_ms:
            item = heapq.heappop(self.due)
            if self.counts(item):
                yield self.entries[item[1]]


def next_step(entry: ScheduleEntry, now_ms: int, *, full: bool) -> FireSchedule | SkipRuns | RunScheduled | None:
    """What is to be done about a schedule now; `full` says that no more tasks may live."""
    if entry.unmarked:
        due_ms, task_id = entry.submitted
        return FireSchedule(schedule_id=entry.id, due_ms=due_ms, task_id=task_id)
    due_ms = entry.next_ms or 0
    newest_ms = entry.last_ms(now_ms)
    if entry.next_ms is None or newest_ms is None:
        return None
    missed = entry.state.spec.missed
    if missed == "skip" and now_ms - newest_ms > LATE_MS:
        return _skipped(entry, newest_ms, "missed")
    kept_ms = newest_ms
    for _ in range(MADE_UP_FOR_MAX - 1 if missed == "run_all" else 0):
        kept_ms = entry.last_ms(kept_ms - 1) or kept_ms
    before_ms = entry.last_ms(kept_ms - 1)
    if before_ms is not None:
        return _skipped(entry, before_ms, "missed")
    if entry.running and entry.state.spec.overlap == "skip":
        return _skipped(entry, due_ms, "overlap")
    if full or len(entry.running) >= RUNNING_MAX:
        return _skipped(entry, due_ms, "too_many")
    return RunScheduled(schedule_id=entry.id, due_ms=due_ms, task=entry.state.spec.task)


def _skipped(entry: ScheduleEntry, due_ms: int, reason: SkipReason) -> SkipRuns:
    return SkipRuns(schedule_id=entry.id, due_ms=due_ms, reason=reason)
