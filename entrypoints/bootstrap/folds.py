"""What the fold of the fleet is made of, and the version that follows from it."""

from __future__ import annotations

import hashlib
import inspect

import core.cron
import core.process_managers.alerts
import core.process_managers.children
import core.process_managers.dependencies
import core.schedule
import core.scheduling.entries
import core.scheduling.fleet
import core.scheduling.images
import core.scheduling.limits
import core.scheduling.schedules
import core.scheduling.shares
import core.scheduling.statistics
import core.scheduling.timers
import core.task.events

FOLDS = (
    core.cron,
    core.schedule,
    core.scheduling.images,
    core.scheduling.schedules,
    core.scheduling.timers,
    core.process_managers.alerts,
    core.process_managers.children,
    core.process_managers.dependencies,
    core.scheduling.entries,
    core.scheduling.fleet,
    core.scheduling.limits,
    core.scheduling.shares,
    core.scheduling.statistics,
    core.task.events,
)


def fold_version() -> str:
    """Changes with the code that folds the fleet: an image of another version is not read."""
    source = "".join(map(inspect.getsource, FOLDS))
    return hashlib.sha256(source.encode()).hexdigest()[:16]
