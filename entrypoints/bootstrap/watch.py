"""The watch of this process, which raises and clears alerts."""

from __future__ import annotations

import asyncio

from core.kernel.command_bus import CommandBus
from core.kernel.errors import Unavailable
from core.process_managers.alerts import Thresholds, rules_of
from core.services.alerts import AlertWatch, QueueState
from core.services.disk import DiskGuard
from core.services.positions import PositionGate
from core.services.scheduler import Scheduler
from entrypoints.bootstrap.opened import Ground
from entrypoints.http.vitals import Vitals
from entrypoints.settings import Settings
from projections.alerts import queue_state

READ_S_MAX = 5.0


def watch_of(
    settings: Settings,
    ground: Ground,
    bus: CommandBus,
    scheduler: Scheduler,
    disk: DiskGuard,
    recorded: PositionGate,
    applied: PositionGate,
    vitals: Vitals,
) -> AlertWatch:
    """It looks through what the program has; while the views wait for their database, nothing is asked of them."""
    views, clock = ground.views, ground.clock
    thresholds = Thresholds(
        queue_age_s=settings.alert_queue_age_s,
        dead_letters=settings.alert_dead_letters,
        window_s=settings.alert_window_s,
        agent_lost_s=settings.alert_agent_lost_s,
        lag_s=settings.alert_lag_s,
    )

    async def queue(since_ms: int) -> QueueState:
        if (reason := vitals.waits()) is not None:
            raise Unavailable(reason)
        try:
            async with asyncio.timeout(READ_S_MAX), views.reader(at=None, now_ms=clock.now_ms()) as reader:
                return await queue_state(reader, since_ms=since_ms)
        except TimeoutError:
            raise Unavailable("The views did not answer in time.") from None

    return AlertWatch(
        bus,
        scheduler,
        rules_of(thresholds),
        clock,
        queue=queue,
        disk=disk,
        machine=ground.identity.name,
        window_s=settings.alert_window_s,
        recorded=recorded,
        applied=applied,
    )
