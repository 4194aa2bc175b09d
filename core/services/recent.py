"""What was just recorded, kept for who comes right behind the recorder: it need not be read back and parsed again."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from msgspec import Struct

from core.kernel.commit import Body, Entry

KEPT_MAX = 2_000
KEPT_BYTES_MAX = 2 * 1024 * 1024


class Span(Struct, frozen=True):
    """All commits after a position up to another, without those that are parked."""

    after: int
    position: int
    commits: Sequence[tuple[Entry, Body]]


class Recent:
    """Spans as they were recorded, at most 2,000 commits and 2 MiB; whoever finds a gap reads the store.

    Put in after the transaction that recorded them, so that nobody is ever ahead of the store.
    """

    def __init__(self) -> None:
        self._spans: deque[Span] = deque()
        self._kept = 0
        self._kept_bytes = 0

    def put(self, after: int, position: int, commits: Sequence[tuple[Entry, Body]]) -> None:
        """Keep what was recorded, if there is room: what came earlier is asked for first."""
        size = _size(commits)
        if self._kept + len(commits) > KEPT_MAX or self._kept_bytes + size > KEPT_BYTES_MAX:
            return
        self._kept += len(commits)
        self._kept_bytes += size
        self._spans.append(Span(after, position, commits))

    def take(self, after: int) -> Span | None:
        """The span right after a position, whatever of it is newer; it is forgotten here, and so is what is older."""
        while self._spans and self._spans[0].after <= after:
            span = self._spans.popleft()
            self._kept -= len(span.commits)
            self._kept_bytes -= _size(span.commits)
            if span.after == after:
                return span
            if span.position > after:
                newer = [commit for commit in span.commits if commit[0].position > after]
                return Span(after, span.position, newer)
        return None

    def gap(self, after: int) -> int | None:
        """How many positions lie between this one and what is kept; None where nothing is."""
        return self._spans[0].after - after if self._spans else None


def _size(commits: Sequence[tuple[Entry, Body]]) -> int:
    return sum([len(entry.body) for entry, _ in commits])
