"""GET /ws: who may come in, and the way from sanic's connection to ours."""

from __future__ import annotations

import logging
from typing import Any

from sanic import HTTPResponse, Request, Sanic
from websockets.datastructures import Headers
from websockets.http11 import Request as Handshake
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from core.kernel.errors import Invalid
from core.services.dispatch import Principal
from entrypoints.calls import Nothing
from entrypoints.decode import from_json
from entrypoints.http.door import TICKET_S_WEBSOCKET, Door, check_media
from entrypoints.http.problems import UpgradeRequired
from entrypoints.http.rest import JSON, arguments_of, json_response, refuse_unknown
from entrypoints.websocket.sockets import Sockets

# It would log each connection that is closed.
_logger = logging.getLogger("hivebus.websocket.protocol")
_logger.setLevel(logging.ERROR)


def add_websocket(app: Sanic[Any, Any], sockets: Sockets, door: Door) -> None:
    """/ws."""

    async def upgrade(request: Request) -> None:
        principal = _admitted(request, door)
        sockets.make_room()
        protocol, response = _shaken(request)
        transport: Any = request.transport
        http: Any = transport.get_protocol()
        received = bytes(request.stream.recv_buffer)  # type: ignore[union-attr]
        # Sanic lets go of the connection: it neither counts nor closes it any more.
        http.connections.discard(http)
        http.transport = None
        sockets.enter(principal, protocol).open(transport, response, received)

    # Such a handler may end without a response.
    upgrade.is_websocket = True  # type: ignore[attr-defined]
    app.add_route(upgrade, "/ws", methods=["GET"], name="websocket")


def add_tickets(app: Sanic[Any, Any], door: Door) -> None:
    """POST /api/ticket {}: for a page's WebSocket, which can send neither a header nor, from elsewhere, a cookie."""

    async def ticket(request: Request) -> HTTPResponse:
        principal = door.admit(request)
        refuse_unknown(arguments_of(request))
        check_media(request, JSON)
        from_json(Nothing, request.body)
        return json_response(
            {"ticket": door.socket_ticket(principal), "expires_in_s": TICKET_S_WEBSOCKET},
            201,
            {"Cache-Control": "no-store"},
        )

    app.add_route(ticket, "/api/ticket", methods=["POST"], name="ticket")


def _admitted(request: Request, door: Door) -> Principal:
    values = arguments_of(request)
    ticket = values.pop("ticket", None)
    refuse_unknown(values)
    if ticket is None:
        return door.admit(request)
    door.check_origin(request)
    return door.by_ticket(ticket)


def _shaken(request: Request) -> tuple[ServerProtocol, bytes]:
    """The protocol of a handshake, and its answer as bytes. Raises UpgradeRequired, Invalid."""
    stream: Any = request.stream
    protocol = ServerProtocol(state=OPEN, logger=_logger)
    answer = protocol.accept(Handshake(request.path, Headers(request.headers.items())))
    if answer.status_code == 426 or not stream.upgrade_websocket:
        raise UpgradeRequired(
            "This address speaks WebSocket only.", remedy="Connect with a WebSocket client: ws://HOST:PORT/ws."
        )
    if answer.status_code != 101 or stream.request_body:
        sentence = answer.body.decode(errors="replace").strip().removeprefix("Failed to open a WebSocket connection: ")
        raise Invalid(
            f"The handshake is not sound: {sentence or 'it has a body.'}",
            code="invalid_handshake",
            remedy="Connect with a WebSocket client that speaks version 13 (RFC 6455).",
        )
    head = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.raw_items())
    return protocol, f"HTTP/1.1 101 Switching Protocols\r\n{head}\r\n".encode()
