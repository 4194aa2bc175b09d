"""Integer ids for texts that repeat: streams, actors, command types."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import Connection, Table

from adapters.sql.statements import look_up


class Names:
    """The ids of one dictionary table, the recent ones in memory.

    A new name's id is the position that brought it. An id enters the memory only by `keep`, after the commit, because
    a transaction that was rolled back gave none.
    """

    def __init__(self, table: Table, *, kept_max: int) -> None:
        self._table = table
        self._kept_max = kept_max
        self._kept: dict[str, int] = {}

    def resolve(
        self, connection: Connection, first_seen: Mapping[str, int], fresh: Collection[str] = frozenset()
    ) -> tuple[dict[str, int], list[str]]:
        """The ids of all the names (given with the position that brings each), and the new ones in order.

        The `fresh` ones are taken for new unless they are in memory: where they are not, the table's index refuses.
        """
        kept = self._kept
        ids = {name: kept[name] for name in first_seen if name in kept}
        unknown = [name for name in first_seen if name not in ids]
        doubtful = [name for name in unknown if name not in fresh] if fresh else unknown
        if doubtful:
            table = self._table
            ids.update((name, key) for name, key in look_up(connection, table.c.name, doubtful, table.c.id))
        new = [name for name in unknown if name not in ids]
        ids.update((name, first_seen[name]) for name in new)
        return ids, new

    def keep(self, ids: Mapping[str, int]) -> None:
        """Remember committed ids, the newest ones within the bound."""
        self._kept.update(ids)
        for name in list(self._kept)[: max(0, len(self._kept) - self._kept_max)]:
            del self._kept[name]
