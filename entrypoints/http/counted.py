"""Handlers whose answers are counted by action."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any

from sanic import HTTPResponse, Request

from adapters.telemetry import answered

Handler = Callable[..., Coroutine[Any, Any, HTTPResponse]]


def counted(handler: Handler, action: str) -> Handler:
    """The handler, its answers and their durations counted. What it raises is counted where it becomes a problem."""

    async def handle(request: Request, **fields: Any) -> HTTPResponse:
        began = perf_counter()
        try:
            response = await handler(request, **fields)
        except Exception:
            request.ctx.action, request.ctx.began = action, began
            raise
        answered(action, "rest", perf_counter() - began)
        return response

    return handle
