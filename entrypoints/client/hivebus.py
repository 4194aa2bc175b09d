"""The client of Hivebus: `async with hivebus.connect() as bus: ...`. docs/how-to/call-it-from-code.md shows it.

This file only passes on, so that the copy of it in an editable install never goes stale.
"""

from typing import TYPE_CHECKING

from entrypoints.client import *  # noqa: F403 - __all__ there names each
from entrypoints.client import __all__, __getattr__  # noqa: F401 - the Structs of queries come when they are named

if TYPE_CHECKING:
    from entrypoints.client import ListAgents, ListAssignments, ListTasks, ShowAgent, ShowQueue, ShowTask  # noqa: F401
