"""The client of Hivebus: `async with hivebus.connect() as bus: ...`. docs/how-to/call-it-from-code.md shows it.

This file only passes on, so that the copy of it in an editable install never goes stale.
"""

from typing import TYPE_CHECKING

from entrypoints.client import *  # noqa: F403 - __all__ there names each
from entrypoints.client import __all__, __getattr__  # noqa: F401 - the Structs of queries come when they are named

if TYPE_CHECKING:
    # The second name says that it is re-exported (PEP 484).
    # ruff: noqa: PLC0414
    from entrypoints.client import ExplainTask as ExplainTask
    from entrypoints.client import ListAgents as ListAgents
    from entrypoints.client import ListAssignments as ListAssignments
    from entrypoints.client import ListLimits as ListLimits
    from entrypoints.client import ListSchedules as ListSchedules
    from entrypoints.client import ListStatistics as ListStatistics
    from entrypoints.client import ListTasks as ListTasks
    from entrypoints.client import ShowAgent as ShowAgent
    from entrypoints.client import ShowLimit as ShowLimit
    from entrypoints.client import ShowQueue as ShowQueue
    from entrypoints.client import ShowSchedule as ShowSchedule
    from entrypoints.client import ShowTask as ShowTask
