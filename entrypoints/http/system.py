"""What the program says of itself: status, info, health, metrics, and the session of a browser."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import psutil
from msgspec import Struct
from sanic import HTTPResponse, Request, Sanic

from adapters.telemetry import CONTENT_TYPE
from core.catalogue import AGENT_TYPES
from core.kernel.errors import Unavailable
from core.kernel.ports import Clock, EventLog
from core.kernel.times import rfc3339
from core.services.disk import DiskGuard, Level
from core.services.dispatch import ReadableViews
from core.services.log_care import LogCare
from core.services.positions import PositionGate
from core.services.scheduler import Scheduler
from entrypoints.calls import Action, Nothing, plain
from entrypoints.decode import from_json, from_query
from entrypoints.http.counted import counted
from entrypoints.http.door import COOKIE, SESSION_S, Door, check_media
from entrypoints.http.readings import Health, Services, SystemInfo, SystemStatus
from entrypoints.http.rest import JSON, READ, arguments_of, json_response
from entrypoints.http.scrape import Scrape
from entrypoints.http.vitals import Vitals
from projections.agents import count_active
from projections.queue import ShowQueue, show_queue

DISK: dict[Level, Health] = {
    Level.OK: "healthy",
    Level.WARN: "degraded",
    Level.FULL: "unhealthy",
    Level.EXHAUSTED: "unhealthy",
}
NOT_HERE = "this node is not part of a Docker Swarm"


def system_actions(
    status: Callable[[], Awaitable[SystemStatus]], info: Callable[[], Awaitable[SystemInfo]]
) -> tuple[Action, ...]:
    """The readings of the program as actions."""
    return (
        plain("system.status", "Health and figures of the program, measured now.", "/api/status", status),
        plain("system.info", "What this system is and can do.", "/api/info", info),
    )


class System:
    """The endpoints that speak of the program, not of the fleet."""

    def __init__(
        self,
        vitals: Vitals,
        log: EventLog,
        views: ReadableViews,
        clock: Clock,
        recorded: PositionGate,
        applied: PositionGate,
        scheduler: Scheduler,
        door: Door,
        disk: DiskGuard,
        not_ready: Callable[[], str | None],
        care: LogCare,
    ) -> None:
        self._vitals = vitals
        self._log = log
        self._views = views
        self._clock = clock
        self._recorded = recorded
        self._applied = applied
        self._scheduler = scheduler
        self._door = door
        self._disk = disk
        self._standing = not_ready
        self._care = care
        self._scrape = Scrape(
            log,
            views,
            clock,
            recorded,
            applied,
            scheduler,
            disk,
            vitals,
        )
        self._measuring = asyncio.Lock()
        self._process = psutil.Process()
        self._process.cpu_percent()

    def add_health(self, app: Sanic[Any, Any]) -> None:
        """Liveness and local readiness, on every listener, without a key."""
        app.add_route(self._live, "/health/live", methods=READ, name="live")
        app.add_route(self._ready, "/health/ready", methods=READ, name="ready")

    def add_api(self, app: Sanic[Any, Any]) -> None:
        """Status, info, sessions, and the metrics behind the key."""
        app.add_route(counted(self._status, "system.status"), "/api/status", methods=READ, name="status")
        app.add_route(counted(self._info, "system.info"), "/api/info", methods=READ, name="info")
        app.add_route(self._metrics_with_key, "/metrics", methods=READ, name="metrics")
        app.add_route(self._session, "/api/session", methods=["POST"], name="session")

    def add_metrics(self, app: Sanic[Any, Any]) -> None:
        """Prometheus' text format, without a key: for the listener that only a scraper reaches."""
        app.add_route(self._metrics, "/metrics", methods=READ, name="metrics")

    def actions(self) -> tuple[Action, ...]:
        """What every way in can ask of the program itself."""
        return system_actions(self.status, self.info)

    # --- handlers ---

    async def _live(self, request: Request) -> HTTPResponse:
        return json_response({"status": "live"})

    async def _ready(self, request: Request) -> HTTPResponse:
        reason = await self._not_ready()
        if reason is None:
            # Commands need the log, not the database: taking this replica away would help nobody.
            waits = self._vitals.waits()
            return json_response({"status": "ready"} | ({"database": waits} if waits else {}))
        raise Unavailable(reason, code="not_ready", remedy="Wait, or ask another replica.", retry_after_s=1)

    async def _not_ready(self) -> str | None:
        if self._vitals.draining:
            return "This program is stopping."
        if self._care.state.problem:
            return self._care.state.problem
        if not await self._log.healthy():
            return "The broker does not answer."
        return self._standing()

    async def _status(self, request: Request) -> HTTPResponse:
        """Anybody may ask, without a key: so one asker at a time is measured for."""
        self._door.check_origin(request)
        from_query(Nothing, arguments_of(request))
        return json_response(await self.status())

    async def status(self) -> SystemStatus:
        """Health and figures of the program, measured now."""
        async with self._measuring:
            return await self._measure_status()

    async def _measure_status(self) -> SystemStatus:
        broker = await self._log.healthy()
        now_ms = self._clock.now_ms()
        sockets = self._vitals.sockets
        unknown = {} if sockets else {"services.websocket": "this process serves no WebSocket"}
        active: int | None = None
        queued: int | None = None
        waits = self._vitals.waits()
        try:
            if waits is not None:
                raise Unavailable(waits)
            async with self._views.reader(at=None, now_ms=now_ms) as reader:
                active = await count_active(reader)
                queued = (await show_queue(ShowQueue(), reader))["depth"]
        except Unavailable as error:
            unknown["services.agents"] = error.sentence
            unknown |= dict.fromkeys(("metrics.active_agents", "metrics.queued_tasks"), error.sentence)
        services: Services = {
            "agents": None if active is None else "healthy" if active else "degraded",
            "websocket": None if sockets is None else "degraded" if self._vitals.draining else "healthy",
            "database": "unhealthy" if active is None else "degraded" if self._views.parked else "healthy",
            "broker": "healthy" if broker else "unhealthy",
            "disk": DISK[self._disk.level],
        }
        worst: Health = "unhealthy" if "unhealthy" in services.values() else "healthy"
        return {
            "status": "degraded" if worst == "healthy" and "degraded" in services.values() else worst,
            "version": self._vitals.version,
            "now": rfc3339(now_ms),
            "uptime": (now_ms - self._vitals.started_ms) / 1000,
            "services": services,
            "metrics": {
                "active_agents": active,
                "queued_tasks": queued,
                "live_tasks": len(self._scheduler.fleet.tasks),
                "alerts": len(self._scheduler.fleet.alerts.live),
                "parked_aggregates": self._views.parked,
                "cpu_usage": self._process.cpu_percent(),
                "memory_usage": psutil.virtual_memory().percent,
                "memory_rss_bytes": self._process.memory_info().rss,
            },
            "websocket": None if sockets is None else sockets(),
            "disk": self._disk.as_document(),
            "log": msgspec.to_builtins(self._care.state),
            "positions": {"recorded": self._recorded.position, "applied": self._applied.position},
            "unknown": unknown,
        }

    async def _info(self, request: Request) -> HTTPResponse:
        self._door.admit(request)
        from_query(Nothing, arguments_of(request))
        return json_response(await self.info())

    async def info(self) -> SystemInfo:
        """What this system is and can do."""
        return {
            "system": {
                "node_count": None,
                "swarm_status": None,
                "docker_version": None,
                "unknown": dict.fromkeys(("node_count", "swarm_status", "docker_version"), NOT_HERE),
            },
            "capabilities": {
                "agents": len(AGENT_TYPES),
                "agent_types": {
                    name: {
                        "executor": kind.executor,
                        "capabilities": list(kind.capabilities),
                        "description": kind.description,
                    }
                    for name, kind in AGENT_TYPES.items()
                },
                "max_concurrent_tasks": sum(
                    host.slots for host in self._scheduler.fleet.hosts.values() if host.session
                ),
                "supported_protocols": ["rest", "jsonrpc", "websocket", "server-sent events", "nats", "mcp", "a2a"],
            },
            "version": self._vitals.version,
        }

    async def _session(self, request: Request) -> HTTPResponse:
        self._door.check_origin(request)
        check_media(request, JSON)
        asked = from_json(AskedSession, request.body)
        cookie = self._door.session_for(ticket=asked.ticket, key=asked.key)
        response = json_response({"message": "This browser is known for 30 days."}, 201)
        response.add_cookie(
            COOKIE,
            cookie,
            httponly=True,
            samesite="Strict",
            secure=False,
            max_age=SESSION_S,
            path="/",
            host_prefix=False,
        )
        return response

    async def _metrics_with_key(self, request: Request) -> HTTPResponse:
        self._door.admit(request)
        return await self._metrics(request)

    async def _metrics(self, request: Request) -> HTTPResponse:
        self._door.check_origin(request)
        return HTTPResponse(await self._scrape.take(), 200, content_type=CONTENT_TYPE)


class AskedSession(Struct, forbid_unknown_fields=True):
    """What a browser swaps for its cookie: a one-time ticket, or a key."""

    ticket: str | None = None
    key: str | None = None
