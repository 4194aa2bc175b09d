"""JSON-RPC 2.0 over bytes: one frame in, at most one frame out, whatever carries them.

Every action is a method by its name, every method takes its params by name. What fails is answered in the caller's
words or counted if nobody waits for an answer (https://www.jsonrpc.org/specification).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from adapters.telemetry import REQUESTS, UNKNOWN, answered
from core.kernel.errors import HivebusError, Invalid, TooMany, internal
from entrypoints.calls import Calls
from entrypoints.rpc.errors import error_object
from entrypoints.rpc.frame import NULL, Request, read
from entrypoints.rpc.session import Method, Session

__all__ = ["Method", "Rpc", "Session"]

logger = logging.getLogger("hivebus.rpc")

# Half a batch at a time; a call takes 25 s at most, and the listener answers within 60 s or not at all.
IN_FLIGHT_MAX = 25
BEGIN_WITHIN_S = 20.0
# Once a batch's answers have as many bytes nothing more of it is begun.
BATCH_ANSWER_BYTES = 8 * 1024 * 1024


class Rpc:
    """Answers frames. One instance serves all connections; what differs between them is in their Session."""

    def __init__(self, calls: Calls, methods: Mapping[str, Method]) -> None:
        self._calls = calls
        self._methods = dict(methods)

    async def answer(self, frame: bytes, session: Session) -> bytes | None:
        """The answer to a frame, or None where none is due: to notifications alone. Raises no HivebusError."""
        try:
            asked = read(frame)
        except HivebusError as error:
            _count_unread(session, error)
            return _refused(NULL, error)
        if isinstance(asked, Request):
            return await self._one(asked, session)
        answers = [answer for answer in await self._batch(asked, session) if answer is not None]
        return b"[" + b",".join(answers) + b"]" if answers else None

    async def _batch(self, requests: list[Request], session: Session) -> list[bytes | None]:
        """The answers in the order of the requests, which run side by side: the standard promises no order."""
        ahead: list[bytes | None] = []
        while not session.initialized and len(ahead) < len(requests):
            ahead.append(await self._one(requests[len(ahead)], session))
        turn = asyncio.Semaphore(IN_FLIGHT_MAX)
        until = time.monotonic() + BEGIN_WITHIN_S
        answer_bytes = 0

        async def next_one(request: Request) -> bytes | None:
            nonlocal answer_bytes
            async with turn:
                if time.monotonic() >= until:
                    return _not_begun(request, session, f"took longer than {BEGIN_WITHIN_S:g} s")
                if answer_bytes >= BATCH_ANSWER_BYTES:
                    return _not_begun(request, session, f"have answers of {answer_bytes} bytes already")
                answer = await self._one(request, session)
                answer_bytes += len(answer or b"")
                return answer

        return ahead + await asyncio.gather(*map(next_one, requests[len(ahead) :]))

    async def _one(self, request: Request, session: Session) -> bytes | None:
        try:
            text = await self._carried_out(request, session)
        except HivebusError as error:
            return _refused(request.id, error)
        if request.id is None:
            return None
        return b'{"jsonrpc":"2.0","id":' + request.id + b',"result":' + text + b"}"

    async def _carried_out(self, request: Request, session: Session) -> bytes:
        """The result as JSON."""
        if (error := request.error or _too_early(request, session)) is not None:
            _count_unread(session, error)
            raise error
        method = session.methods.get(request.method) or self._methods.get(request.method)
        try:
            if method is None:
                answer: Any = await self._calls.call(
                    request.method, request.params, session.principal, transport=session.transport
                )
            else:
                answer = await _counted(method, request, session)
            return _json(answer)
        except HivebusError:
            raise
        except Exception:
            # Whatever it was: the caller gets a number, the log gets the reason.
            logger.exception("%s failed.", request.method)
            raise internal() from None


def _too_early(request: Request, session: Session) -> Invalid | None:
    if session.initialized or request.method == "initialize":
        return None
    return Invalid(
        "This connection is not initialized yet.",
        code="not_initialized",
        remedy='Call initialize first: {"protocolVersion": {"major": 1, "minor": 0, "patch": 0}}.',
    )


async def _counted(method: Method, request: Request, session: Session) -> Any:
    """A method that is no action, counted as actions count themselves."""
    began = time.perf_counter()
    try:
        answer = await method(request.params, session)
    except Exception as error:
        code = error.code if isinstance(error, HivebusError) else internal().code
        answered(request.method, session.transport, time.perf_counter() - began, code)
        raise
    answered(request.method, session.transport, time.perf_counter() - began)
    return answer


def _count_unread(session: Session, error: HivebusError) -> None:
    """A request that nothing was called for."""
    REQUESTS.add(UNKNOWN, session.transport, error.code)


def _not_begun(request: Request, session: Session, what: str) -> bytes | None:
    error = TooMany(
        f"The requests before it in the batch {what}; this one was not begun.",
        code="not_begun",
        remedy="Send it again, in a shorter batch.",
        retry_after_s=1,
    )
    _count_unread(session, error)
    return _refused(request.id, error)


def _refused(token: bytes | None, error: HivebusError) -> bytes | None:
    """The answer that an error makes; a notification gets none."""
    if token is None:
        return None
    return b'{"jsonrpc":"2.0","id":' + token + b',"error":' + _json(error_object(error)) + b"}"


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        # An integer beyond 64 bits in a task's result: rare, and no reason to hide the rest.
        return msgspec.json.encode(value)
