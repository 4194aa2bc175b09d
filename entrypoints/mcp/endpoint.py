"""POST /mcp: the streamable HTTP transport, with one JSON answer to each request."""

from __future__ import annotations

import asyncio
from typing import Any

from sanic import HTTPResponse, Request, Sanic

from core.services.dispatch import Principal
from entrypoints.http.door import Door, check_media
from entrypoints.http.problems import NotAcceptable, WrongMethod
from entrypoints.http.rest import JSON, json_response
from entrypoints.mcp.frames import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    UNSUPPORTED_VERSION,
    Fault,
    decoded,
    frame_of,
    id_of,
)
from entrypoints.mcp.server import Mcp
from entrypoints.mcp.versions import BATCHED, MODERN, said_version, version_of

BATCH_MAX = 50
# Until 2025-11-25 a request that could be read has the status 200, whatever the answer says.
_LEGACY_STATUS: dict[int, int] = {}
_MODERN_STATUS = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    INVALID_PARAMS: 400,
    HEADER_MISMATCH: 400,
    UNSUPPORTED_VERSION: 400,
    METHOD_NOT_FOUND: 404,
}


def add_mcp(app: Sanic[Any, Any], mcp: Mcp, door: Door) -> None:
    """Put the endpoint at /mcp."""

    async def post(request: Request) -> HTTPResponse:
        principal = door.admit(request)
        check_media(request, JSON)
        _check_accept(request)
        try:
            value = decoded(request.body)
            if isinstance(value, list):
                return await _batch(mcp, value, request, principal)
        except Fault as fault:
            return json_response(fault.frame(None), 400)
        answer, status = await _answer(mcp, value, request, principal)
        return HTTPResponse(None, status) if answer is None else json_response(answer, status)

    async def other(request: Request) -> HTTPResponse:
        door.admit(request)
        # No stream to open, no session to end.
        raise WrongMethod(request, ["POST"])

    app.add_route(post, "/mcp", methods=["POST"], name="mcp")
    app.add_route(other, "/mcp", methods=["GET", "DELETE"], name="mcp_other")


async def _answer(mcp: Mcp, value: Any, request: Request, principal: Principal) -> tuple[dict[str, Any] | None, int]:
    """The answer to one message and its status; a notification has none. Nothing is under way that it could stop:
    a request ends with its connection.
    """
    statuses = _MODERN_STATUS
    try:
        frame = frame_of(value)
        version = version_of(frame, request)
        if not frame.asks:
            return None, 202
        statuses = _MODERN_STATUS if version in MODERN else _LEGACY_STATUS
        return {"jsonrpc": "2.0", "id": frame.id, "result": await mcp.answer(frame, version, principal)}, 200
    except Fault as fault:
        return fault.frame(id_of(value)), statuses.get(fault.code, 200)


async def _batch(mcp: Mcp, values: list[Any], request: Request, principal: Principal) -> HTTPResponse:
    """Several messages in one body, which only 2025-03-26 knows. Raises Fault."""
    if (said_version(request) or BATCHED) != BATCHED:
        raise Fault(INVALID_REQUEST, "A body holds one message; only 2025-03-26 knows batches.")
    if not 0 < len(values) <= BATCH_MAX:
        raise Fault(INVALID_REQUEST, f"A batch holds 1 to {BATCH_MAX} messages.")
    if any(isinstance(value, dict) and value.get("method") == "initialize" for value in values):
        raise Fault(INVALID_REQUEST, "initialize comes alone, not in a batch.")
    answered = await asyncio.gather(*(_answer(mcp, value, request, principal) for value in values))
    answers = [answer for answer, _ in answered if answer is not None]
    return _json_array(answers) if answers else HTTPResponse(None, 202)


def _json_array(answers: list[dict[str, Any]]) -> HTTPResponse:
    return HTTPResponse(b"[" + b",".join(json_response(answer).body or b"" for answer in answers) + b"]", 200, {}, JSON)


def _check_accept(request: Request) -> None:
    """Raises NotAcceptable where JSON is not wanted. A client should name event streams too; it will get none."""
    accepted = request.headers.get("accept", "*/*").lower()
    if not any(media in accepted for media in (JSON, "application/*", "*/*")):
        raise NotAcceptable(
            "The answer is JSON, and the Accept header does not take it.",
            remedy="Send Accept: application/json, text/event-stream.",
        )
