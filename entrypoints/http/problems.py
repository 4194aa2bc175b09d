"""Errors as RFC 9457 problem documents. Each error knows its status; this module only writes it down."""

from __future__ import annotations

import contextlib
import logging
import math
from time import perf_counter
from typing import NotRequired, TypedDict

import orjson
from sanic import HTTPResponse, Request
from sanic.exceptions import (
    InvalidUsage,
    MethodNotAllowed,
    PayloadTooLarge,
    RequestCancelled,
    RequestTimeout,
    SanicException,
)
from sanic.exceptions import NotFound as NoSuchPath
from sanic.handlers import ErrorHandler

from adapters.telemetry import REQUESTS, UNKNOWN, answered
from core.kernel.errors import HivebusError, Invalid, NotFound, TooLarge, internal

logger = logging.getLogger("hivebus.http")

PROBLEM = "application/problem+json"
METHODS = ("DELETE", "GET", "HEAD", "POST", "PUT")


class Problem(TypedDict):
    """An error (RFC 9457). `code` is stable, `detail` says what happened, `remedy` what to do.

    `pointer` (RFC 6901) names the field that does not fit. Some errors say more: a `position`, what is `known`.
    """

    type: str
    title: str
    status: int
    code: str
    detail: str
    remedy: str
    pointer: NotRequired[str]
    retry_after_s: NotRequired[float]


class WrongMethod(HivebusError):
    """The path exists, the method does not; `allowed` are those that do, where the router alone cannot tell."""

    status = 405
    default_code = "method_not_allowed"

    def __init__(self, request: Request, allowed: list[str] | None = None) -> None:
        self.allowed = allowed or _allowed(request)
        super().__init__(
            f"{request.method} is not possible at {request.path}.", remedy=f"Allowed: {', '.join(self.allowed)}."
        )


class NotAcceptable(HivebusError):
    """The Accept header takes nothing of what there is."""

    status = 406
    default_code = "not_acceptable"


class TooSlow(HivebusError):
    """The request did not arrive in time."""

    status = 408
    default_code = "request_timeout"


class HeaderTooLarge(HivebusError):
    """The request line and headers do not fit."""

    status = 431
    default_code = "header_too_large"


class UpgradeRequired(HivebusError):
    """The path speaks WebSocket only."""

    status = 426
    default_code = "upgrade_required"


class Problems(ErrorHandler):
    """Sanic's hook for whatever a handler raises. No traceback reaches a user."""

    def default(self, request: Request, exception: Exception) -> HTTPResponse:
        """The problem document of an exception."""
        error = as_error(request, exception)
        _count(request, error.code)
        response = problem(error)
        if isinstance(error, WrongMethod):
            response.headers["Allow"] = ", ".join(error.allowed)
        return response


def _count(request: Request, code: str) -> None:
    """Every refusal passes here, so here it is counted; `counted` has left the action and when it began."""
    action: str = getattr(request.ctx, "action", UNKNOWN)
    if action == UNKNOWN:
        REQUESTS.add(action, "rest", code)
    else:
        answered(action, "rest", perf_counter() - request.ctx.began, code)


def problem(error: HivebusError) -> HTTPResponse:
    """An error as a response."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="hivebus"'
    body = error.as_problem()
    body.setdefault("remedy", f"Look up the code {error.code} in docs/reference/errors.md.")
    return HTTPResponse(orjson.dumps(body), error.status, headers, PROBLEM)


def as_error(request: Request, exception: Exception) -> HivebusError:
    """Whatever was raised, in the words of our own tree."""
    if isinstance(exception, HivebusError):
        return exception
    if isinstance(exception, NoSuchPath):
        return NotFound(
            f"There is nothing at {request.path}.",
            code="unknown_path",
            remedy="See docs/reference/rest.md for the paths there are.",
        )
    if isinstance(exception, MethodNotAllowed):
        return WrongMethod(request)
    if isinstance(exception, PayloadTooLarge) and "header" in str(exception):
        return HeaderTooLarge("The request line and headers are larger than 8 KiB.", remedy="Send shorter ones.")
    if isinstance(exception, PayloadTooLarge):
        return TooLarge(
            "The body is larger than 1 MiB.",
            remedy="Store large values with PUT /api/blobs/{sha256}; cut task files into batches.",
        )
    if isinstance(exception, RequestTimeout | RequestCancelled):
        return TooSlow("The request did not arrive in time.", remedy="Send it again.")
    if isinstance(exception, InvalidUsage) or (isinstance(exception, SanicException) and exception.status_code < 500):
        return Invalid(str(exception) or "The request could not be read.", remedy="Check the request line and headers.")
    logger.error("%s %s failed.", request.method, request.path, exc_info=exception)
    return internal()


def _allowed(request: Request) -> list[str]:
    """The methods that this path knows. Sanic tells them for paths without parameters only."""
    allowed = []
    for method in METHODS:
        with contextlib.suppress(SanicException):
            request.app.router.get(request.path, method, None)
            allowed.append(method)
    return allowed
