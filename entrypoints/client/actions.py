"""What this version knows of the actions: which one a Struct belongs to, and which only read."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from msgspec import Struct

from core.actions import registry

COMMANDS = {spec.struct: spec.name for spec in registry().client_commands()}
WRITES = frozenset(COMMANDS.values())
# Reads that are no queries of the registry.
READS_BESIDE = frozenset({"agents/list", "event.list", "ping", "rpc.discover", "system.info", "system.status"})


@cache
def reads() -> frozenset[str]:
    """The actions that change nothing. A test holds this against the program."""
    # Plain data, where the declarations stand on SQLAlchemy; but with click, which an import of hivebus shall not load.
    from entrypoints.cli.queries import QUERIES  # noqa: PLC0415

    return READS_BESIDE.union(query.name for query in QUERIES)


def name_of_command(command: Struct) -> str:
    """The action of a command's Struct. Raises TypeError for a Struct that is none."""
    name = COMMANDS.get(type(command))
    if name is None:
        raise TypeError(f"{type(command).__name__} is no command that clients may give")
    return name


def name_of_query(query: Struct) -> str:
    """The action of a query's Struct. Raises TypeError for a Struct that is none."""
    from projections.catalogue import QUERIES  # noqa: PLC0415 - whoever holds such a Struct has imported it already

    for spec in QUERIES:
        if spec.struct is type(query):
            return spec.name
    raise TypeError(f"{type(query).__name__} is no query")


def fields_of(struct: Struct) -> dict[str, Any]:
    """What a Struct says beyond its defaults, so that an older server does not meet a field that nobody set."""
    values: dict[str, Any] = msgspec.to_builtins(struct)
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
        if value == default:
            del values[field.encode_name]
    return values
