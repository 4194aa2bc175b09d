"""Health and metrics of a process that only runs agents: where HIVEBUS_METRICS_PORT is set, since such a process often
lives beside a server whose port that is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from sanic import HTTPResponse, Request, Sanic

from adapters import telemetry
from adapters.telemetry.described import Measured
from core.kernel.errors import Unavailable
from core.services.agent_host import AgentHost
from entrypoints.http.door import Door, Key
from entrypoints.http.listener import Listener, bind, make_app
from entrypoints.http.rest import READ, json_response
from entrypoints.settings import Settings


@asynccontextmanager
async def listening(settings: Settings, host: AgentHost, stopping: Callable[[], bool]) -> AsyncIterator[str]:
    """Answer while the context lasts; its address. Raises StartRefused for a port that cannot be had."""
    sock = bind(settings.bind, settings.metrics_port, "HIVEBUS_METRICS_PORT")
    listener = Listener(host_app(settings, host, stopping), sock)
    try:
        await listener.prepare()
        await listener.serve()
        yield f"http://{settings.bind}:{listener.port}"
    finally:
        await listener.drain(0.0)


def host_app(settings: Settings, host: AgentHost, stopping: Callable[[], bool]) -> Sanic[Any, Any]:
    """/health/live, /health/ready (a session has begun) and /metrics; no call takes a key."""
    door = Door(Key.make(), hosts=settings.host_names)

    async def live(request: Request) -> HTTPResponse:
        return json_response({"status": "live"})

    async def ready(request: Request) -> HTTPResponse:
        if host.registered and not stopping():
            return json_response({"status": "ready"})
        raise Unavailable("This host has no session.", code="not_ready", remedy="Wait.", retry_after_s=1)

    async def metrics(request: Request) -> HTTPResponse:
        door.check_origin(request)
        measured = Measured()
        measured.put(telemetry.HOST_ATTEMPTS, host.running)
        return HTTPResponse(telemetry.exposition(measured), 200, content_type=telemetry.CONTENT_TYPE)

    app = make_app("hivebus-agent-host", first=True)
    app.add_route(live, "/health/live", methods=READ, name="live")
    app.add_route(ready, "/health/ready", methods=READ, name="ready")
    app.add_route(metrics, "/metrics", methods=READ, name="metrics")
    return app
