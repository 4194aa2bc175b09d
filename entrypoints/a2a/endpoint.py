"""The card and POST /a2a: JSON-RPC 2.0 for what answers once, server-sent events for what goes on."""

from __future__ import annotations

import logging
import time
from contextlib import aclosing
from typing import Any

import msgspec
import orjson
from sanic import HTTPResponse, Request, Sanic

from adapters.telemetry import REQUESTS, UNKNOWN
from core.kernel.errors import HivebusError, Invalid, internal
from core.services.dispatch import Principal
from entrypoints.a2a import card as cards
from entrypoints.a2a.card import Card
from entrypoints.a2a.errors import VersionNotSupported, error_object
from entrypoints.a2a.methods import STREAMS, Agent
from entrypoints.http.door import Door, check_media
from entrypoints.http.rest import JSON, READ
from entrypoints.rpc import frame

logger = logging.getLogger("hivebus.a2a")

VERSION_HEADER = "A2A-Version"
# What a caller means who does not say (A2A 1.0, 3.6.2).
VERSION_UNSAID = "0.3"
EVENT_STREAM = "text/event-stream"
HEARTBEAT_S = 15.0
TRANSPORT = "a2a"


def add_a2a(app: Sanic[Any, Any], agent: Agent, card: Card, door: Door) -> None:
    """GET /.well-known/agent-card.json without a key, POST /a2a with one."""

    async def show_card(request: Request) -> HTTPResponse:
        door.check_origin(request)
        body = orjson.dumps(card.document(f"{request.scheme}://{request.headers['host']}"))
        headers = {"ETag": cards.tag_of(body), "Cache-Control": "no-cache", "Vary": "Host"}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return HTTPResponse(status=304, headers=headers)
        return HTTPResponse(body, 200, headers, JSON)

    async def answer(request: Request) -> HTTPResponse | None:
        principal = door.admit(request)
        check_media(request, JSON)
        return await _answer(request, agent, principal)

    app.add_route(show_card, cards.PATH, methods=READ, name="agent_card")
    app.add_route(answer, cards.RPC_PATH, methods=["POST"], name="a2a")


async def _answer(request: Request, agent: Agent, principal: Principal) -> HTTPResponse | None:
    """One call. What goes wrong is an answer of JSON-RPC too; None where the answer was a stream."""
    token = frame.NULL
    try:
        asked, token = _read(request)
        _check(asked, request)
        if asked.method in STREAMS:
            return await _stream(request, token, agent.stream(asked.method, asked.params, principal))
        return _once(_envelope(token, b"result", await agent.call(asked.method, asked.params, principal)))
    except HivebusError as error:
        return _once(_refused(token, error))
    except Exception:
        # Whatever it was: the caller gets a number, the log gets the reason.
        logger.exception("A call of A2A failed.")
        return _once(_refused(token, internal()))


def _read(request: Request) -> tuple[frame.Request, bytes]:
    """The one call of a body, and its id as it stands there. Raises HivebusError, counted here."""
    try:
        asked = frame.read(request.body)
        if isinstance(asked, list):
            raise Invalid("A2A knows no batches.", remedy="Send one request at a time.")
    except HivebusError as error:
        REQUESTS.add(UNKNOWN, TRANSPORT, error.code)
        raise
    return asked, asked.id or frame.NULL


def _check(asked: frame.Request, request: Request) -> None:
    """Raises HivebusError for what is no call of A2A, counted here: nothing is called that could count itself."""
    try:
        if asked.error is not None:
            raise asked.error
        if asked.id is None:
            raise Invalid("A call of A2A has an id; without one nobody could be answered.", remedy="Add an id.")
        _check_version(request)
    except HivebusError as error:
        REQUESTS.add(UNKNOWN, TRANSPORT, error.code)
        raise


async def _stream(request: Request, token: bytes, updates: Any) -> HTTPResponse | None:
    """Server-sent events, each a JSON-RPC response. What fails before the first one is a plain answer."""
    async with aclosing(updates):
        first = await anext(updates)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        response = await request.respond(content_type=EVENT_STREAM, headers=headers)
        assert response is not None
        await response.send(_event(_envelope(token, b"result", first)))
        sent = time.monotonic()
        try:
            async for update in updates:
                if update is None and time.monotonic() - sent < HEARTBEAT_S:
                    continue
                await response.send(b":\n\n" if update is None else _event(_envelope(token, b"result", update)))
                sent = time.monotonic()
        except HivebusError as error:
            await response.send(_event(_refused(token, error)))
        except Exception:
            logger.exception("A stream of A2A failed.")
            await response.send(_event(_refused(token, internal())))
        await response.eof()
    return None


def _check_version(request: Request) -> None:
    said = request.headers.get(VERSION_HEADER) or request.args.get(VERSION_HEADER) or VERSION_UNSAID
    # A patch does not count (3.6).
    if ".".join(said.strip().split(".")[:2]) != cards.VERSION:
        raise VersionNotSupported(
            f"This agent speaks A2A {cards.VERSION}, and the call {said[:20]!r}.",
            remedy=f"Send the header {VERSION_HEADER}: {cards.VERSION}; without it a call means {VERSION_UNSAID}.",
        )


def _refused(token: bytes, error: HivebusError) -> bytes:
    return _envelope(token, b"error", error_object(error))


def _envelope(token: bytes, member: bytes, value: Any) -> bytes:
    try:
        text = orjson.dumps(value)
    except TypeError:
        # An integer beyond 64 bits in a task's result: rare, and no reason to hide the rest.
        text = msgspec.json.encode(value)
    return b'{"jsonrpc":"2.0","id":' + token + b',"' + member + b'":' + text + b"}"


def _event(envelope: bytes) -> bytes:
    return b"data: " + envelope + b"\n\n"


def _once(body: bytes) -> HTTPResponse:
    return HTTPResponse(body, 200, content_type=JSON)
