"""Timers: until when a waiting task may be started, a stay in the queue may last, and a task may take altogether.

What is due is read off a task's entry; a heap only says when to look. An entry of a heap may be older than what it
speaks of: it counts if the task still says so. Times are the wall clock's: one that jumps back makes a timer late, one
that jumps on makes it early, and nothing is lost or done twice.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TypeVar

from msgspec import Struct

from core.task import ExpiryReason, TaskSubmitted

# Stale entries of a heap that are kept before somebody looks which of them still count.
STALE_MAX = 64

T = TypeVar("T", bound=tuple[object, ...])


class Timers(Struct, frozen=True):
    """What a task's submission says about time, in milliseconds; None where it says nothing."""

    deadline_ms: int | None = None
    queue_ms: int | None = None
    end_ms: int | None = None


def timers_of(event: TaskSubmitted, submitted_ms: int) -> Timers | None:
    """The timers of a submission; None for one without any, as most are."""
    if event.deadline_ms is None and event.queue_timeout_s is None and event.total_timeout_s is None:
        return None
    return Timers(
        event.deadline_ms,
        None if event.queue_timeout_s is None else int(event.queue_timeout_s * 1000),
        None if event.total_timeout_s is None else submitted_ms + int(event.total_timeout_s * 1000),
    )


def expiry(timers: Timers, *, held: bool, queued_ms: int | None) -> tuple[int, ExpiryReason] | None:
    """When a task expires as it stands, and why: the first of its timers that counts.

    The deadline counts while no attempt holds it, for another attempt too; the queue timeout counts one stay in the
    queue, which began at `queued_ms`; the total timeout counts always.
    """
    found: list[tuple[int, ExpiryReason]] = []
    if timers.end_ms is not None:
        found.append((timers.end_ms, "total_timeout"))
    if not held and timers.deadline_ms is not None:
        found.append((timers.deadline_ms, "deadline"))
    if queued_ms is not None and timers.queue_ms is not None:
        found.append((queued_ms + timers.queue_ms, "queue_timeout"))
    return min(found, default=None)


def enter(heap: list[T], item: T, live: int, counts: Callable[[T], bool]) -> None:
    """Push onto a lazy heap; what no longer counts, or stands there twice, goes before it outgrows the rest."""
    if len(heap) > 2 * live + STALE_MAX:
        heap[:] = sorted({entry for entry in heap if counts(entry)})
    heapq.heappush(heap, item)
