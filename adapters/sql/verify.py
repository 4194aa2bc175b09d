"""Proof that replay equals live: refold the store in memory and compare every row version of every view.

Reads only, beside a running program or after it: one look at the views, the store up to where they stand. The store
itself is held against its own Merkle leaves and frontier first, so that what is refolded is what was recorded.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Engine, Text, cast, create_engine, event, exc, inspect, select

from adapters.signing import Verifier
from adapters.sql import schema
from adapters.sql.head_check import Broken, HeadCheck
from adapters.sql.rows import CHECKSUM_ZERO, Shape, add_checksum, checksum_of
from adapters.sql.versions import Versions, fold_batch
from adapters.sql.views import parked, state
from core.kernel.codec import Codec, Undecodable
from core.kernel.commit import Commit, Entry
from core.kernel.errors import StartRefused
from core.kernel.merkle import HASH_BYTES, Frontier, leaf_hash
from core.projection import JournalView, RowView, View

if TYPE_CHECKING:
    from adapters.sql.postgres import Postgres

PAGE = 2000

Progress = Callable[[int, int], None]


class Difference(Struct, frozen=True):
    """The first thing that is not what the log makes it: where, and both values."""

    view: str
    key: str
    column: str
    stored: Any
    refolded: Any


class Checked(Struct, frozen=True):
    """One view: how many row versions were compared."""

    name: str
    rows: int
    equal: bool


class Report(Struct, frozen=True):
    """The outcome of a verification at a position.

    `heads` signed heads hold; of `unchecked_heads` more the root is right, and another machine's key signed them.
    """

    equal: bool
    position: int
    views: list[Checked]
    difference: Difference | None
    heads: int = 0
    unchecked_heads: int = 0


class _Refold:
    """All views folded again, in memory."""

    def __init__(self, views: Sequence[View], parked: Mapping[str, Mapping[tuple[str, str], int]]) -> None:
        self._parked = parked
        self.rows: dict[str, dict[str, Versions]] = {v.name: {} for v in views if isinstance(v, RowView)}
        self.journals: dict[str, dict[str, dict[str, Any]]] = {v.name: {} for v in views if isinstance(v, JournalView)}
        self._views = views

    def fold(self, commits: Sequence[Commit]) -> None:
        for view in self._views:
            known = self._known_to(view, commits)
            if isinstance(view, RowView):
                fold_batch(view, known, self.rows[view.name])
            elif isinstance(view, JournalView):
                journal = self.journals[view.name]
                for commit in known:
                    for row in view.rows(commit):
                        journal[f"{row['position']}/{row['index']}"] = row

    def _known_to(self, view: View, commits: Sequence[Commit]) -> Sequence[Commit]:
        """Without those of aggregates that the view has parked, from where it parked them."""
        stopped = self._parked.get(view.name)
        if not stopped:
            return commits
        return [c for c in commits if c.position < stopped.get((c.noun, c.aggregate_id), c.position + 1)]

    def expected(self, view: View) -> dict[str, dict[str, Any]]:
        """Every row version by its key, `id@valid_from` or `position/index`."""
        if isinstance(view, JournalView):
            return dict(self.journals[view.name])
        return {
            f"{key}@{since}": {**row, "valid_from": since, "valid_to": until}
            for key, versions in self.rows[view.name].items()
            for since, until, row in versions.spans()
        }


def verify(
    store: Path | Postgres,
    live: Path | Postgres,
    views: Sequence[View],
    codec: Codec,
    progress: Progress,
    verifier: Verifier | None = None,
) -> Report:
    """Compare the views of a database with the fold of a store; `progress` hears (position, end).

    For a thread of its own: it blocks, and on Postgres it runs a loop.
    """

    def compare(seen: Connection, recorded: Connection) -> Report:
        # The files of one machine are signed by its key alone; a database by each machine that ever recorded in it.
        heads = HeadCheck(recorded, verifier, alone=isinstance(store, Path))
        return _verify(seen, recorded, views, codec, progress, heads)

    if not (isinstance(store, Path) and isinstance(live, Path)):
        assert not isinstance(store, Path)
        assert not isinstance(live, Path)
        return asyncio.run(_on_postgres(store, live, compare))
    engines = [_open(path) for path in (store, live)]
    try:
        with engines[1].connect() as seen, engines[0].connect() as recorded:
            seen.exec_driver_sql("BEGIN")
            return compare(seen, recorded)
    finally:
        for engine in engines:
            engine.dispose()


async def _on_postgres(store: Postgres, live: Postgres, compare: Callable[[Connection, Connection], Report]) -> Report:
    from adapters.sql import postgres, provision  # noqa: PLC0415 - a machine with files does not pay for it

    engines = [postgres.reader_engine(place, readers=1, snapshot=True, statement_s_max=None) for place in (store, live)]
    try:
        async with engines[1].connect() as seen, engines[0].connect() as recorded:
            other = recorded.sync_connection
            assert other is not None
            for connection, place in ((seen, live), (recorded, store)):
                if not await connection.run_sync(lambda sync: inspect(sync).get_table_names()):
                    raise StartRefused(
                        f"There is no schema {place.schema} at {place.where} that this user can read.",
                        remedy="Start Hivebus once on this database, or correct HIVEBUS_DATABASE_URL.",
                    )
            return await seen.run_sync(compare, other)
    except (exc.DBAPIError, OSError) as error:
        raise provision.refusal(live, error) from error
    finally:
        for engine in engines:
            await engine.dispose()


def _verify(
    seen: Connection,
    recorded: Connection,
    views: Sequence[View],
    codec: Codec,
    progress: Progress,
    heads: HeadCheck,
) -> Report:
    states = {row.name: row for row in seen.execute(select(state))}
    end = min((states[view.name].position for view in views if view.name in states), default=0)
    stopped: dict[str, dict[tuple[str, str], int]] = defaultdict(dict)
    for row in seen.execute(select(parked)):
        stopped[row.view][row.noun, row.aggregate_id] = row.position
    refold = _Refold(views, stopped)
    broken = _fold_store(recorded, codec, refold, end, progress, heads)
    if broken is not None:
        return Report(False, end, [], broken)
    report = _compare_all(seen, views, refold, states, end)
    return msgspec.structs.replace(report, heads=heads.checked, unchecked_heads=heads.unchecked)


def _open(path: Path) -> Engine:
    if not path.exists():
        raise StartRefused(
            f"There is no {path}.",
            remedy="Start Hivebus once on this data directory, or name another; "
            "where the store is in Postgres, set HIVEBUS_DATABASE_URL.",
        )
    engine = create_engine(f"sqlite:///file:{path}?mode=ro&uri=true")

    @event.listens_for(engine, "connect")
    def _plain(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    return engine


def _fold_store(
    connection: Connection, codec: Codec, refold: _Refold, end: int, progress: Progress, heads: HeadCheck
) -> Difference | None:
    """Fold the store up to `end`; the first commit that is not what its leaf says, if one is not."""
    frontier = Frontier()
    after = 0
    while after < end:
        page = list(_page(connection, after, end))
        if not page:
            return Difference("store", str(after + 1), "position", None, after + 1)
        commits: list[Commit] = []
        for entry, leaf, why in page:
            if entry.position != after + 1:
                return Difference("store", str(after + 1), "position", entry.position, after + 1)
            after = entry.position
            computed = leaf_hash(after, entry.subject, entry.body)
            if computed != leaf:
                return Difference("store", str(after), "leaf", leaf.hex(), computed.hex())
            frontier.append(computed)
            if broken := heads.at(frontier):
                return _of_head(broken)
            if why is None:
                commits.extend(_decoded(codec, entry))
        refold.fold(commits)
        progress(after, end)
    broken = heads.beyond()
    return _of_head(broken) if broken else _compare_frontier(connection, frontier, after)


def _of_head(broken: Broken) -> Difference:
    return Difference("heads", str(broken.size), broken.column, broken.stored, broken.refolded)


def _page(connection: Connection, after: int, end: int) -> Iterator[tuple[Entry, bytes, str | None]]:
    commits = schema.commits.c
    statement = (
        select(commits.position, schema.streams.c.name, commits.body, commits.leaf, commits.parked)
        .join_from(schema.commits, schema.streams, commits.stream_id == schema.streams.c.id)
        .where(commits.position > after, commits.position <= end)
        .order_by(commits.position)
        .limit(PAGE)
    )
    for row in connection.execute(statement):
        # A body that somebody changed to text is compared as text; its leaf tells.
        body = row.body if isinstance(row.body, bytes) else str(row.body).encode()
        yield Entry(row.position, row.name, "", body), row.leaf, row.parked


def _decoded(codec: Codec, entry: Entry) -> Iterator[Commit]:
    try:
        yield codec.decode(entry)
    except Undecodable:
        return  # no view shows it either


def _compare_frontier(connection: Connection, frontier: Frontier, position: int) -> Difference | None:
    """The Merkle frontier speaks of the whole store: it is compared where the fold reached the store's end."""
    row = connection.execute(select(schema.checkpoint.c.position, schema.checkpoint.c.frontier)).one()
    computed = b"".join(frontier.encode())
    if row.position != position or row.frontier == computed:
        return None
    stored = row.frontier[:HASH_BYTES].hex()
    return Difference("store", str(position), "frontier", stored, computed[:HASH_BYTES].hex())


def _compare_all(
    connection: Connection, views: Sequence[View], refold: _Refold, states: Mapping[str, Any], end: int
) -> Report:
    checked: list[Checked] = []
    first: Difference | None = None
    for view in views:
        difference, rows = _compare(connection, view, refold.expected(view))
        if difference is None:
            difference = _compare_checksum(view, refold, states[view.name].checksum)
        checked.append(Checked(view.name, rows, difference is None))
        first = first or difference
    return Report(first is None, end, checked, first)


def _compare(connection: Connection, view: View, expected: dict[str, dict[str, Any]]) -> tuple[Difference | None, int]:
    shape = Shape(view.table)
    names = [str(name) for name in shape.columns]
    # JSON cells are read as the text they are: what is no JSON any more must be named, not raise.
    plain = [cast(column, Text) if column.name in shape.json else column for column in view.table.columns]
    rows = 0
    for values in connection.execute(select(*plain).execution_options(yield_per=PAGE)):
        rows += 1
        row = dict(zip(names, values, strict=True))
        key = _key_of(view, row)
        wanted = expected.pop(key, None)
        if wanted is None:
            return Difference(view.name, key, "(row)", "present", "absent"), rows
        for column in names:
            expected_cell = _canonical(wanted[column]) if column in shape.json else wanted[column]
            stored_cell = _as_canonical(row[column]) if column in shape.json else row[column]
            if stored_cell != expected_cell:
                return Difference(
                    view.name, key, column, _shown(row[column], column in shape.json), wanted[column]
                ), rows
    for key in expected:
        return Difference(view.name, key, "(row)", "absent", "present"), rows
    return None, rows


def _canonical(value: Any) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()


def _as_canonical(text: Any) -> Any:
    """A JSON cell in its canonical form, so that 1 and true differ; what is no JSON stays as it is."""
    try:
        return _canonical(msgspec.json.decode(text))
    except (msgspec.MsgspecError, TypeError):
        return text


def _shown(cell: Any, is_json: bool) -> Any:
    """A cell as a person would read it: JSON as its value, where it is JSON."""
    if not is_json:
        return cell
    try:
        return msgspec.json.decode(cell)
    except (msgspec.MsgspecError, TypeError):
        return cell


def _key_of(view: View, row: Mapping[str, Any]) -> str:
    return f"{row[view.key]}@{row['valid_from']}" if isinstance(view, RowView) else f"{row['position']}/{row['index']}"


def _compare_checksum(view: View, refold: _Refold, stored: bytes) -> Difference | None:
    cells_of = Shape(view.table).cells_of
    if isinstance(view, JournalView):
        rows = list(refold.journals[view.name].values())
    else:
        rows = [last for row in refold.rows[view.name].values() if (last := row.last) is not None]
    computed = add_checksum(CHECKSUM_ZERO, sum(checksum_of(cells_of(row)) for row in rows))
    if computed == stored:
        return None
    return Difference(view.name, "(all)", "checksum", stored.hex(), computed.hex())
