"""What this version knows of the actions: which one a Struct belongs to, and which only read."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from core.actions import registry

COMMANDS = {spec.struct: spec.name for spec in registry().client_commands()}
WRITES = frozenset(COMMANDS.values())
# The reads. Their declarations stand on SQLAlchemy, so this is a copy; a test holds it against the program.
READS = frozenset(
    {
        "agent.assignments",
        "agent.list",
        "agent.show",
        "event.list",
        "queue.show",
        "system.info",
        "system.status",
        "task.list",
        "task.show",
        "agents/list",
        "ping",
        "rpc.discover",
    }
)


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
