"""The listeners of a program, each with what answers there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sanic import Sanic

from core.catalogue import AGENT_TYPES
from entrypoints.a2a.card import Card
from entrypoints.a2a.endpoint import add_a2a
from entrypoints.a2a.methods import Agent
from entrypoints.a2a.tail import Tail
from entrypoints.http.aliases import add_aliases
from entrypoints.http.blobs import add_blobs
from entrypoints.http.documents import add_documents
from entrypoints.http.events import add_events
from entrypoints.http.jsonrpc import add_jsonrpc
from entrypoints.http.listener import make_app
from entrypoints.http.log_care import add_log_care
from entrypoints.http.pages import add_pages
from entrypoints.http.rest import add_queries, add_routes
from entrypoints.mcp.endpoint import add_mcp
from entrypoints.mcp.server import Mcp
from entrypoints.websocket.handshake import add_tickets, add_websocket

if TYPE_CHECKING:
    from entrypoints.bootstrap.program import Program


def api_app(program: Program) -> Sanic[Any, Any]:
    """The REST API."""
    app = make_app("hivebus-api", first=True)
    _add_api(program, app)
    # Here as well as on the page's port: HIVEBUS_URL is all that a client needs.
    add_websocket(app, program.sockets, program.door)
    return app


def ui_app(program: Program) -> Sanic[Any, Any]:
    """The page, and the API beside it so that the page has one origin."""
    app = make_app("hivebus-ui", first=False)
    _add_api(program, app)
    add_pages(app)
    add_websocket(app, program.sockets, program.door)
    return app


def tools_app(program: Program) -> Sanic[Any, Any]:
    """For tools: queries as of any position, events to replay, documents; and MCP and A2A, which command as well."""
    app = make_app("hivebus-tools", first=False)
    add_queries(app, program.registry, program.dispatcher, program.door)
    add_events(app, program.store, program.codec, program.recorded, program.streams, program.door)
    add_mcp(app, Mcp(program.calls, program.blobs, program.vitals.version), program.door)
    _add_a2a(program, app)
    add_documents(app, program.documents)
    program.system.add_health(app)
    return app


def metrics_app(program: Program, *, first: bool) -> Sanic[Any, Any]:
    """Prometheus metrics and health, nothing else."""
    app = make_app("hivebus-metrics", first=first)
    program.system.add_health(app)
    program.system.add_metrics(app)
    return app


def _add_api(program: Program, app: Sanic[Any, Any]) -> None:
    add_routes(app, program.registry, program.dispatcher, program.door)
    add_aliases(app, program.agent_tasks, program.door)
    add_jsonrpc(app, program.rpc, program.door)
    add_events(app, program.store, program.codec, program.recorded, program.streams, program.door)
    add_blobs(app, program.blobs, program.door, program.disk.refuse_growth)
    add_log_care(app, program.care, program.trimmer, program.door)
    add_tickets(app, program.door)
    program.system.add_health(app)
    program.system.add_api(app)


def _add_a2a(program: Program, app: Sanic[Any, Any]) -> None:
    def ending() -> bool:
        return program.vitals.draining

    tail = Tail(program.store, program.codec, program.recorded, ending)
    # A copy: the fold goes on while the card is written.
    card = Card(program.vitals.version, AGENT_TYPES, lambda: list(program.scheduler.fleet.agents.values()))
    add_a2a(app, Agent(program.calls, tail, ending), card, program.door)
