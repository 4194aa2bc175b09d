"""The client that programs import as `hivebus`.

    import hivebus

    async with hivebus.connect() as bus:
        answer = await bus.submit(type="hello", executor="command", parameters={"argv": ["echo", "hello"]})
        task = await bus.result(answer["task_id"])

What stands here is what `hivebus` holds. It imports neither the server nor SQLAlchemy: the Structs of queries, which
live beside their reads, are imported when they are first named. A command that does not stand here is found by its
name, too; only type checkers do not see it.
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
from core.limit import SetLimit
from core.pause import PauseQueue, ResumeQueue
from core.schedule import PauseSchedule, RemoveSchedule, ResumeSchedule, SetSchedule
from core.task import CancelTask, Retry, SubmitTask
from core.task.copies import ReplayTask
from core.task.dependencies import ApproveTask, RejectTask
from core.task.questions import AnswerTask
from entrypoints.client.actions import COMMANDS
from entrypoints.client.bus import Bus, connect
from entrypoints.client.events import Events
from entrypoints.client.problems import Unreachable

if TYPE_CHECKING:
    from projections.agents import ListAgents as ListAgents
    from projections.agents import ShowAgent as ShowAgent
    from projections.explain import ExplainTask as ExplainTask
    from projections.limits import ListLimits as ListLimits
    from projections.limits import ShowLimit as ShowLimit
    from projections.queue import ShowQueue as ShowQueue
    from projections.schedules import ListSchedules as ListSchedules
    from projections.schedules import ShowSchedule as ShowSchedule
    from projections.statistics import ListStatistics as ListStatistics
    from projections.task_queries import ListAssignments as ListAssignments
    from projections.task_queries import ListTasks as ListTasks
    from projections.task_queries import ShowTask as ShowTask

__all__ = [
    "AnswerTask",
    "ApproveTask",
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
    "PauseQueue",
    "PauseSchedule",
    "Refused",
    "RejectTask",
    "RemoveSchedule",
    "ReplayTask",
    "ResumeQueue",
    "ResumeSchedule",
    "RetireAgent",
    "Retry",
    "SetLimit",
    "SetSchedule",
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
    """The Struct of any action. Those of queries are not in __all__: `from hivebus import *` stays light."""
    if name[:1].isupper():
        for command in COMMANDS:
            if command.__name__ == name:
                return command
        from projections.catalogue import QUERIES  # noqa: PLC0415 - it stands on SQLAlchemy, which most never need

        for query in QUERIES:
            if query.struct.__name__ == name:
                return query.struct
    raise AttributeError(f"module 'hivebus' has no attribute {name!r}")
