"""From commits to the rows of one view: fold in memory, then write in bulk.

A batch costs three statements a view, however many commits it holds: the rows it touches are read once, folded in
memory through all their versions, and written together. A version that has ended is written once, closed; the one that
is true now stays in memory until the batch settles. A live batch settles at once, a rebuild after very many.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import islice
from operator import itemgetter
from typing import Any

import msgspec
from sqlalchemy import JSON, Connection, Table, bindparam, select, update

from adapters.sql.statements import among, insert_rows, look_up, update_rows
from core.kernel.commit import Commit, Event
from core.projection import FOREVER, JournalView, Row, RowView, View

CHECKSUM_ZERO = bytes(16)
LOAD_ROWS_MAX = 500
SPAN = ("valid_from", "valid_to")

# Not orjson: it refuses integers beyond 64 bits, and a view must show whatever the log took.
_json = msgspec.json.Encoder().encode
_sha256 = hashlib.sha256
_number = int.from_bytes

Cells = tuple[Any, ...]
# A key, and the event that may change its row.
_Touch = tuple[str, Commit, Event]


def checksum_of(cells: Cells) -> int:
    """What a row adds to its view's checksum: 16 bytes of SHA-256 over its cells as a JSON array, JSON ones as text."""
    return _number(_sha256(_json(cells)).digest()[:16], "big")


def add_checksum(checksum: bytes, change: int) -> bytes:
    """A sum modulo 2**128: rows may come and go in any order."""
    return ((int.from_bytes(checksum, "big") + change) % (1 << 128)).to_bytes(16, "big")


class Shape:
    """How a view's rows become tuples in the order of its table's columns, and back."""

    def __init__(self, table: Table) -> None:
        self.columns = [column.name for column in table.columns]
        self.json = frozenset(column.name for column in table.columns if isinstance(column.type, JSON))
        folded = [name for name in self.columns if name not in SPAN]
        self._folded = itemgetter(*folded)
        self._json = [index for index, name in enumerate(folded) if name in self.json]
        # The two columns of the span stand side by side, in every table that has them.
        self._span_at = self.columns.index(SPAN[0]) if SPAN[0] in self.columns else len(folded)

    def cells_of(self, row: Row) -> Cells:
        """Plain values for the driver, without the span; JSON columns as text."""
        if not self._json:
            cells: Cells = self._folded(row)
            return cells
        values = list(self._folded(row))
        for index in self._json:
            value = values[index]
            values[index] = "null" if value is None else _json(value).decode()
        return tuple(values)

    def tuple_of(self, cells: Cells, since: int, until: int) -> Cells:
        """A row of a table that says when it was true."""
        at = self._span_at
        return (*cells[:at], since, until, *cells[at:])

    def row_of(self, values: Sequence[Any]) -> Row:
        """A tuple as Core gives it, without the columns that say when it was true."""
        row = dict(zip(self.columns, values, strict=True))
        for name in SPAN:
            row.pop(name, None)
        return row


class _Current:
    """A row as the fold has it now, since a position.

    `stored` once the table shows it as true now; `checksum` is then what it added, if that is known.
    """

    __slots__ = ("checksum", "row", "since", "stored")

    def __init__(self, row: Row | None, since: int, *, stored: bool) -> None:
        self.row = row
        self.since = since
        self.stored = stored
        self.checksum: int | None = None


class RowWriter:
    """Writes one row view. The newest rows stay in memory: `rows_kept` of the view, and all that have not settled."""

    def __init__(self, view: RowView, *, fresh: bool = False) -> None:
        """`fresh`: the table is new and empty, so that what is not in memory need not be looked for."""
        self._view = view
        self._table = view.table
        self._shape = Shape(view.table)
        self._current: dict[str, _Current] = {}
        self._unsettled: list[str] = []
        self._knows_all = fresh
        key = view.table.c[view.key]
        self._close = (
            update(view.table)
            .where(key == bindparam("row_key"), view.table.c.valid_from == bindparam("since"))
            .values(valid_to=bindparam("until"))
        )

    def forget(self) -> None:
        """Drop what is in memory: the transaction that would have made it true was rolled back."""
        self._current.clear()
        self._unsettled.clear()
        self._knows_all = False

    def write(self, connection: Connection, commits: Sequence[Commit], *, settle: bool = True) -> int:
        """Fold the commits and write their versions; the change of the checksum.

        Without `settle` the rows that are true now are not written and not summed yet: a later call does.
        """
        touches = self._touches(commits)
        if not self._knows_all:
            self._load(connection, {key for key, _, _ in touches})
        versions: list[Cells] = []
        closings: list[tuple[Any, ...]] = []
        change = self._fold(touches, versions, closings)
        if settle:
            change += self._settle(versions)
        update_rows(connection, self._close, ("until", "row_key", "since"), closings)
        insert_rows(connection, self._table, versions)
        return change

    def _touches(self, commits: Sequence[Commit]) -> list[_Touch]:
        nouns, touched = self._view.nouns, self._view.touched
        return [
            (key, commit, event)
            for commit in commits
            if commit.noun in nouns
            for event in commit.events
            for key in touched(commit, event)
        ]

    def _fold(self, touches: Sequence[_Touch], versions: list[Cells], closings: list[tuple[Any, ...]]) -> int:
        """Fold in memory; the versions that ended, and those of the table that did."""
        current, shape, unsettled, fold = self._current, self._shape, self._unsettled, self._view.fold
        change = 0
        for key, commit, event in touches:
            known = current.get(key)
            if known is None:
                after = fold(None, commit, event)
                if after is not None:
                    current[key] = _Current(after, commit.position, stored=False)
                    unsettled.append(key)
                continue
            before = known.row
            after = fold(before, commit, event)
            if after is before:
                continue
            position = commit.position
            if known.stored:
                assert before is not None
                closings.append((position, key, known.since))
                change -= checksum_of(shape.cells_of(before)) if known.checksum is None else known.checksum
                known.stored = False
                unsettled.append(key)
            elif before is not None and known.since != position:
                versions.append(shape.tuple_of(shape.cells_of(before), known.since, position))
            known.row = after
            known.since = position
        return change

    def _settle(self, versions: list[tuple[Any, ...]]) -> int:
        """What is true now, to be written as such; beyond the bound the oldest rows leave the memory."""
        current, shape = self._current, self._shape
        change = 0
        for key in self._unsettled:
            known = current[key]
            if known.row is None:
                del current[key]
                continue
            cells = shape.cells_of(known.row)
            versions.append(shape.tuple_of(cells, known.since, FOREVER))
            known.checksum = checksum_of(cells)
            change += known.checksum
            known.stored = True
        self._unsettled.clear()
        for key in list(islice(current, max(0, len(current) - self._view.rows_kept))):
            del current[key]
            self._knows_all = False
        return change

    def _load(self, connection: Connection, keys: set[str]) -> None:
        """Bring the rows of these keys into memory, where the table has them."""
        view, table, current = self._view, self._table, self._current
        missing = keys.difference(current)
        if not missing:
            return
        # Which of them have a row at all is asked by the indexed key; only those are read whole.
        known = [row[0] for row in look_up(connection, table.c[view.key], missing)]
        known = list(dict.fromkeys(known))
        for start in range(0, len(known), LOAD_ROWS_MAX):
            chunk = known[start : start + LOAD_ROWS_MAX]
            # Not `valid_to ==`: SQLite would walk all current rows by an index that begins with it.
            those = among(connection, table.c[view.key], chunk)
            statement = select(table).where(those, table.c.valid_to + 0 == FOREVER)
            for values in connection.execute(statement):
                row = self._shape.row_of(values)
                current[row[view.key]] = _Current(row, values.valid_from, stored=True)


class JournalWriter:
    """Writes one journal."""

    def __init__(self, view: JournalView) -> None:
        self._view = view
        self._shape = Shape(view.table)

    def forget(self) -> None:
        """A journal keeps nothing in memory."""

    def write(self, connection: Connection, commits: Sequence[Commit], *, settle: bool = True) -> int:
        """Add the commits' rows; the change of the checksum. A row is settled as soon as it is written."""
        cells_of, rows_of = self._shape.cells_of, self._view.rows
        rows = [cells_of(row) for commit in commits for row in rows_of(commit)]
        insert_rows(connection, self._view.table, rows)
        return sum(map(checksum_of, rows))


Writer = RowWriter | JournalWriter


def writer_of(view: View, *, fresh: bool = False) -> Writer:
    """The writer that a view's kind asks for; `fresh` where its table is new."""
    if isinstance(view, RowView):
        return RowWriter(view, fresh=fresh)
    assert isinstance(view, JournalView)
    return JournalWriter(view)
