"""All aggregates of the program: the one list that the registry is made from."""

from __future__ import annotations

from collections.abc import Sequence

from core.agent import agent
from core.alert import alert
from core.host import host
from core.kernel.outcomes import outcomes
from core.kernel.registry import QuerySpec, Registry
from core.limit import limit
from core.pause import queue
from core.replay import replay
from core.schedule import schedule
from core.scheduling.election import election
from core.task import task

AGGREGATES = (task, agent, limit, schedule, queue, replay, alert, host, election, outcomes)


def registry(queries: Sequence[QuerySpec] = ()) -> Registry:
    """Every command, and the queries that the caller has reads for."""
    return Registry(AGGREGATES, queries)
