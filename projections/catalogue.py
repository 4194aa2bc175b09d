"""All views and all queries of the program."""

from __future__ import annotations

from core.kernel.registry import QuerySpec
from core.projection import View
from projections import (
    agents,
    alerts,
    explain,
    limits,
    pauses,
    queue,
    schedules,
    statistics,
    task_inputs,
    task_queries,
    tasks,
)
from projections.timeline import Timeline

VIEWS: tuple[View, ...] = (
    tasks.TaskSpecs(),
    tasks.Tasks(),
    task_inputs.TaskInputs(),
    agents.Agents(),
    queue.Queue(),
    limits.Limits(),
    schedules.Schedules(),
    pauses.Pauses(),
    alerts.Alerts(),
    statistics.Attempts(),
    Timeline(),
)
QUERIES: tuple[QuerySpec, ...] = (
    *task_queries.QUERIES,
    *explain.QUERIES,
    *agents.QUERIES,
    *queue.QUERIES,
    *limits.QUERIES,
    *schedules.QUERIES,
    *alerts.QUERIES,
    *statistics.QUERIES,
)
