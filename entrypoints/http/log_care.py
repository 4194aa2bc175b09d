"""The care of the log over HTTP: compare it with the store, trim it. For the operator: every call needs the key."""

from __future__ import annotations

from typing import Any

import msgspec
from sanic import HTTPResponse, Request, Sanic

from core.services.comparison import as_document
from core.services.log_care import LogCare
from core.services.trim import Trimmer, TrimOrder
from entrypoints.decode import from_json
from entrypoints.http.door import Door, check_media
from entrypoints.http.rest import JSON, READ, arguments_of, json_response, refuse_unknown


def add_log_care(app: Sanic[Any, Any], care: LogCare, trimmer: Trimmer, door: Door) -> None:
    """GET /api/log/compare, and /api/log/trim: POST orders one, GET says how far it is."""

    async def compare(request: Request) -> HTTPResponse:
        door.admit(request)
        return json_response(as_document(await care.compare()))

    async def trim(request: Request) -> HTTPResponse:
        principal = door.admit(request)
        refuse_unknown(arguments_of(request))
        check_media(request, JSON)
        return json_response(
            msgspec.to_builtins(trimmer.start(from_json(TrimOrder, request.body), principal.actor)), 202
        )

    async def trimmed(request: Request) -> HTTPResponse:
        door.admit(request)
        return json_response(msgspec.to_builtins(trimmer.state))

    app.add_route(compare, "/api/log/compare", methods=READ, name="log_compare")
    app.add_route(trim, "/api/log/trim", methods=["POST"], name="log_trim")
    app.add_route(trimmed, "/api/log/trim", methods=READ, name="log_trimmed")
