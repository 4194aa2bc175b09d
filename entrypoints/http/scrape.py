"""One look at everything that is measured rather than counted, for Prometheus."""

from __future__ import annotations

import asyncio

import psutil

from adapters import telemetry
from adapters.telemetry.described import Measured
from core.kernel.errors import HivebusError, Unavailable
from core.kernel.ports import Clock, EventLog
from core.services.disk import DiskGuard
from core.services.dispatch import ReadableViews
from core.services.positions import PositionGate
from core.services.scheduler import Scheduler
from entrypoints.http.vitals import Vitals
from projections.census import taken

PART_S_MAX = 5.0


class Scrape:
    """What is known now. A part that does not answer within 5 s, or says that it cannot, is absent from the answer.

    One at a time: the metrics listener asks for no key, and a look reads the views.
    """

    def __init__(
        self,
        log: EventLog,
        views: ReadableViews,
        clock: Clock,
        recorded: PositionGate,
        applied: PositionGate,
        scheduler: Scheduler,
        disk: DiskGuard,
        vitals: Vitals,
    ) -> None:
        self._log = log
        self._views = views
        self._clock = clock
        self._recorded = recorded
        self._applied = applied
        self._scheduler = scheduler
        self._disk = disk
        self._vitals = vitals
        self._one = asyncio.Lock()

    async def take(self) -> bytes:
        """All metrics in Prometheus' text format."""
        async with self._one:
            measured = Measured()
            await self._positions(measured)
            await self._counts(measured)
            measured.put(telemetry.LIVE_TASKS, len(self._scheduler.fleet.tasks))
            measured.put(telemetry.ALERTS, self._scheduler.fleet.alerts.by_kind())
            measured.put(telemetry.HOST_ATTEMPTS, self._vitals.attempts())
            if self._vitals.sockets is not None:
                sockets = self._vitals.sockets()
                measured.put(telemetry.SOCKETS, sockets["connections"])
                measured.put(telemetry.SOCKET_FRAMES, sockets["frames"])
            measured.put(telemetry.BROKER_MEMORY, self._broker_memory())
            if (space := self._disk.space) is not None:
                measured.put(telemetry.DISK_FREE, space.free)
                measured.put(telemetry.DISK_USED, space.used_percent / 100)
            return telemetry.exposition(measured)

    async def _positions(self, measured: Measured) -> None:
        # The others first: whoever subtracts shall not find a store ahead of its log.
        measured.put(telemetry.VIEWS_POSITION, self._applied.position)
        measured.put(telemetry.RECORDER_POSITION, self._recorded.position)
        measured.put(telemetry.SCHEDULER_POSITION, self._scheduler.fleet.position)
        try:
            async with asyncio.timeout(PART_S_MAX):
                measured.put(telemetry.LOG_HEAD, await self._log.head())
        except (HivebusError, TimeoutError):
            return

    async def _counts(self, measured: Measured) -> None:
        try:
            async with asyncio.timeout(PART_S_MAX):
                if (reason := self._vitals.waits()) is not None:
                    raise Unavailable(reason)
                async with self._views.reader(at=None, now_ms=self._clock.now_ms()) as reader:
                    census = await taken(reader)
        except (HivebusError, TimeoutError):
            return
        measured.put(telemetry.VIEWS_PARKED, self._views.parked)
        measured.put(telemetry.TASKS, census.tasks)
        measured.put(telemetry.AGENTS, census.agents)
        measured.put(telemetry.QUEUE, census.queued)
        measured.put(telemetry.QUEUE_OLDEST, census.oldest_age_s)

    def _broker_memory(self) -> int | None:
        pid = self._vitals.broker_pid()
        try:
            return None if pid is None else int(psutil.Process(pid).memory_info().rss)
        except psutil.Error:
            return None  # it has just ended, and is being started again
