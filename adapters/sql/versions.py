"""The plain fold of row versions, all in memory, one commit after the other: what verify holds the tables against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from core.kernel.commit import Commit, Event
from core.projection import FOREVER, Row, RowView


class Versions:
    """The versions that a batch gives to one row, oldest first; None stands for its removal."""

    __slots__ = ("first", "items", "since")

    def __init__(self, first: Row | None, since: int = 0) -> None:
        self.first = first
        self.since = since
        self.items: list[tuple[int, Row | None]] = []

    @property
    def last(self) -> Row | None:
        """The row as the fold has it now."""
        return self.items[-1][1] if self.items else self.first

    def put(self, position: int, row: Row | None) -> None:
        """The row after a commit; several events of one commit make one version."""
        if self.items and self.items[-1][0] == position:
            self.items[-1] = (position, row)
        else:
            self.items.append((position, row))

    def spans(self) -> Iterator[tuple[int, int, Row]]:
        """(valid_from, valid_to, row) of each version that was ever true."""
        for index, (position, row) in enumerate(self.items):
            until = self.items[index + 1][0] if index + 1 < len(self.items) else FOREVER
            if row is not None:
                yield position, until, row


def fold_batch(view: RowView, commits: Sequence[Commit], versions: dict[str, Versions]) -> None:
    """Fold commits into versions; keys that are not in there yet are new rows."""
    for commit, event, key in touched(view, commits):
        row = versions.get(key)
        if row is None:
            row = versions[key] = Versions(None)
        before = row.last
        after = view.fold(before, commit, event)
        if after is not before:
            row.put(commit.position, after)


def touched(view: RowView, commits: Sequence[Commit]) -> Iterator[tuple[Commit, Event, str]]:
    """Each (commit, event, key) that the view wants to see."""
    nouns = view.nouns
    for commit in commits:
        if commit.noun in nouns:
            for event in commit.events:
                for key in view.touched(commit, event):
                    yield commit, event, key
