"""One batch of commits into the store, as one transaction: synchronous Core, on the thread that writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import Struct
from sqlalchemy import Connection, Table, case, literal_column, update
from sqlalchemy.exc import IntegrityError

from adapters.sql import schema
from adapters.sql.names import Names
from adapters.sql.statements import insert_rows, look_up
from core.kernel.commit import Entry
from core.kernel.ports import Checkpoint, CheckpointMoved, Recording

DUPLICATE = "duplicate_commit_id"
# A refusal is never remembered, so whatever is was accepted.
ACCEPTED = "accepted"


class _Item(NamedTuple):
    """A recording on its way into the tables: its commit id as they hold it, or why it is parked."""

    recording: Recording
    entry: Entry
    commit_id: bytes | None
    parked: str | None


class Written(Struct, frozen=True):
    """What a transaction leaves to do once it is committed."""

    ids: tuple[tuple[Names, dict[str, int]], ...]
    repeats: tuple[Recording, ...]


class Writer:
    """Writes batches. All that it holds between them are ids of names, and only committed ones."""

    def __init__(self) -> None:
        self._streams = Names(schema.streams, kept_max=20_000)
        self._actors = Names(schema.actors, kept_max=1_000)
        self._types = Names(schema.command_types, kept_max=1_000)

    def write(
        self, connection: Connection, recordings: Sequence[Recording], old: Checkpoint, new: Checkpoint
    ) -> Written:
        """Write a batch inside the connection's transaction; CheckpointMoved comes before any other row is touched."""
        _move_checkpoint(connection, old, new)
        try:
            # That a batch brings nothing known is almost always so, and the indexes find out for nothing.
            with connection.begin_nested():
                return self._insert(connection, recordings, new, trusting=True)
        except IntegrityError:
            return self._insert(connection, recordings, new, trusting=False)

    def _insert(
        self, connection: Connection, recordings: Sequence[Recording], new: Checkpoint, *, trusting: bool
    ) -> Written:
        """`trusting`: a commit id, and the subject of a first version, are taken for new without a look."""
        items = _park_repeats(connection, recordings, trusting=trusting)
        first = _first((r.entry.subject, r) for r in recordings)
        fresh = {r.entry.subject for r in recordings if r.version == 1} if trusting else frozenset()
        streams, _ = self._streams.resolve(connection, first, fresh)
        actors = _resolve(connection, self._actors, schema.actors, ((r.actor, r) for r in recordings))
        types = _resolve(connection, self._types, schema.command_types, ((r.command, r) for r in recordings))
        recorded_ms = new.recorded_ms
        rows = [
            (
                entry.position,
                streams[entry.subject],
                r.version,
                commit_id,
                None if commit_id else entry.commit_id,
                entry.body,
                r.leaf,
                recorded_ms,
                types[r.command],
                actors[r.actor],
                parked,
            )
            for r, entry, commit_id, parked in items
        ]
        insert_rows(connection, schema.commits, rows)
        insert_rows(connection, schema.streams, _stream_rows(items, streams), on_conflict=_advance)
        insert_rows(connection, schema.commands, _command_rows(items), on_conflict=_keep_first)
        repeats = tuple(item.recording for item in items if item.parked == DUPLICATE)
        return Written(((self._streams, streams), (self._actors, actors), (self._types, types)), repeats)


def _move_checkpoint(connection: Connection, old: Checkpoint, new: Checkpoint) -> None:
    # First, so that of two recorders one stops before it writes anything.
    table = schema.checkpoint
    moved = connection.execute(
        update(table)
        .where(table.c.id == 1, table.c.position == old.position)
        .values(position=new.position, recorded_ms=new.recorded_ms, frontier=b"".join(new.frontier))
    )
    if moved.rowcount != 1:
        raise CheckpointMoved(f"The store's checkpoint is no longer {old.position}.")


def _park_repeats(connection: Connection, recordings: Sequence[Recording], *, trusting: bool) -> list[_Item]:
    ids = [None if r.parked else _uuid_bytes(r.entry.commit_id) for r in recordings]
    taken: set[bytes] = set()
    if not trusting:
        taken.update(row[0] for row in look_up(connection, schema.commits.c.commit_id, [key for key in ids if key]))
    items: list[_Item] = []
    for recording, commit_id in zip(recordings, ids, strict=True):
        # A parked commit does not hold its id: whatever else carries the id may be the real one.
        if commit_id is None:
            items.append(_Item(recording, recording.entry, None, recording.parked))
        elif commit_id in taken:
            items.append(_Item(recording, recording.entry, None, DUPLICATE))
        else:
            items.append(_Item(recording, recording.entry, commit_id, None))
            taken.add(commit_id)
    return items


def _first(named: Iterable[tuple[str, Recording]]) -> dict[str, int]:
    """Each name with the position that brings it first."""
    first: dict[str, int] = {}
    for name, recording in named:
        first.setdefault(name, recording.entry.position)
    return first


def _resolve(
    connection: Connection, names: Names, table: Table, named: Iterable[tuple[str, Recording]]
) -> dict[str, int]:
    ids, fresh = names.resolve(connection, _first(named))
    insert_rows(connection, table, [(ids[name], name) for name in fresh])
    return ids


def _stream_rows(items: Sequence[_Item], ids: Mapping[str, int]) -> list[tuple[Any, ...]]:
    versions: dict[str, int] = {}
    last: dict[str, int] = {}
    for recording, _, _, parked in items:
        # A parked commit takes a position on its subject and is no version of the aggregate.
        last[recording.entry.subject] = recording.entry.position
        if parked is None:
            versions[recording.entry.subject] = recording.version
    return [(ids[name], name, versions.get(name, 0), position) for name, position in last.items()]


def _advance(insert: Any) -> Any:
    given = insert.excluded
    version = case((given.version > literal_column("0"), given.version), else_=schema.streams.c.version)
    return insert.on_conflict_do_update(
        index_elements=[schema.streams.c.id], set_={"version": version, "last_position": given.last_position}
    )


def _command_rows(items: Sequence[_Item]) -> list[tuple[Any, ...]]:
    return [
        (recording.command_id.bytes, recording.fingerprint, ACCEPTED, recording.entry.position)
        for recording, _, _, parked in items
        if parked is None and recording.command_id is not None
    ]


def _keep_first(insert: Any) -> Any:
    return insert.on_conflict_do_nothing(index_elements=[schema.commands.c.command_id])


def _uuid_bytes(text: str) -> bytes:
    # A third of the cost of UUID(text).bytes; the recorder parks whatever is not written canonically.
    return bytes.fromhex(text.replace("-", ""))
