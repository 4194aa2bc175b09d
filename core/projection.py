"""What a read model is.

A row view keeps every version of its rows, with the positions between which each was true. So "now" and "as of any
position" are the same indexed query, and what was answered then can be answered again. A journal only grows.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from core import agent, budget, limit
from core.kernel import codec
from core.kernel.commit import Commit, Event
from core.task import events

FOREVER = (1 << 63) - 1
EVENT_MODULES = (events, agent, limit, budget, codec)
# How rows become cells and cells a checksum (adapters/sql/rows.py).
LAYOUT = "cells 2"

Row = dict[str, Any]


class View(ABC):
    """Base of both kinds. The version is a hash of fold, table and layout: another one rebuilds the view."""

    name: ClassVar[str]
    table: ClassVar[Any]
    nouns: ClassVar[frozenset[str]]

    @classmethod
    def version(cls) -> str:
        """Changes with the module that holds fold and table, and with those that say what events are."""
        source = "".join(map(inspect.getsource, (sys.modules[cls.__module__], *EVENT_MODULES)))
        return hashlib.sha256((LAYOUT + source).encode()).hexdigest()[:16]


class RowView(View):
    """A table of rows by key, every version kept. Subclasses are pure: no clock, no I/O."""

    key: ClassVar[str] = "id"
    # The newest rows that a writer keeps in memory, so that a batch need not read what the last one wrote.
    rows_kept: ClassVar[int] = 500

    @abstractmethod
    def touched(self, commit: Commit, event: Event) -> Iterable[str]:
        """The keys of the rows that this event may change."""
        ...

    @abstractmethod
    def fold(self, row: Row | None, commit: Commit, event: Event) -> Row | None:
        """The row after the event; None removes it. Never changes the row it is given."""
        ...


class JournalView(View):
    """A table that only grows: one row per event."""

    @abstractmethod
    def rows(self, commit: Commit) -> Sequence[Row]:
        """The rows that a commit adds, each with its `position` and `index`."""
        ...
