"""The client that programs import as `hivebus`.

    import hivebus

    async with hivebus.connect() as bus:
        answer = await bus.submit(type="hello", executor="command", parameters={"argv": ["echo", "hello"]})
        task = await bus.result(answer["task_id"])

What stands here is what `hivebus` holds. It imports neither the server nor SQLAlchemy: the Structs of queries, which
live beside their reads, are imported when they are first named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.agent import RetireAgent, SpawnAgent
from core.kernel.errors import (
    Forbidden,
    Gone,
    HivebusError,
    Invalid,
    KeyReused,
    NotFound,
    NotYet,
    OutcomeUnknown,
    Refused,
    TooLarge,
    TooMany,
    Unauthenticated,
    Unavailable,
    Unprocessable,
)
from core.task import CancelTask, Retry, SubmitTask
from entrypoints.client.bus import Bus, connect
from entrypoints.client.events import Events
from entrypoints.client.problems import Unreachable

if TYPE_CHECKING:
    from projections.agents import ListAgents as ListAgents
    from projections.agents import ShowAgent as ShowAgent
    from projections.queue import ShowQueue as ShowQueue
    from projections.task_queries import ListAssignments as ListAssignments
    from projections.task_queries import ListTasks as ListTasks
    from projections.task_queries import ShowTask as ShowTask

__all__ = [
    "Bus",
    "CancelTask",
    "Events",
    "Forbidden",
    "Gone",
    "HivebusError",
    "Invalid",
    "KeyReused",
    "NotFound",
    "NotYet",
    "OutcomeUnknown",
    "Refused",
    "RetireAgent",
    "Retry",
    "SpawnAgent",
    "SubmitTask",
    "TooLarge",
    "TooMany",
    "Unauthenticated",
    "Unavailable",
    "Unprocessable",
    "Unreachable",
    "connect",
]


def __getattr__(name: str) -> Any:
    """The Struct of a query. It is not in __all__: `from hivebus import *` stays light."""
    if name[:1].isupper():
        from projections.catalogue import QUERIES  # noqa: PLC0415 - it stands on SQLAlchemy, which most never need

        for query in QUERIES:
            if query.struct.__name__ == name:
                return query.struct
    raise AttributeError(f"module 'hivebus' has no attribute {name!r}")
