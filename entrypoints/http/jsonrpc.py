"""JSON-RPC 2.0 over HTTP: POST /api/. What is wrong with the request itself stays a problem document."""

from __future__ import annotations

from typing import Any

from sanic import HTTPResponse, Request, Sanic

from entrypoints.http.door import Door, check_media
from entrypoints.http.exchange import Answer
from entrypoints.http.rest import JSON, arguments_of, refuse_unknown
from entrypoints.rpc.engine import Rpc, Session


def add_jsonrpc(app: Sanic[Any, Any], rpc: Rpc, door: Door) -> None:
    """POST /api/: 200 with the answer, 204 where there is none."""

    async def answer(request: Request) -> HTTPResponse:
        session = Session(principal=door.admit(request), transport="http", initialized=True)
        refuse_unknown(arguments_of(request))
        check_media(request, JSON)
        text = await rpc.answer(request.body, session)
        return HTTPResponse(status=204) if text is None else Answer(text, 200, {}, JSON)

    app.add_route(answer, "/api/", methods=["POST"], name="jsonrpc")
