"""One client of JSON-RPC: who it is, by which way it came, and what it said at `initialize`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from msgspec import Struct, field

from core.services.dispatch import Principal

Method = Callable[[dict[str, Any], "Session"], Awaitable[Any]]
"""A method that is no action of the registry: params and session to a result that JSON can say. Raises HivebusError."""


class Session(Struct, kw_only=True, eq=False):
    """One connection, or one request of HTTP.

    `methods` belong to this connection alone and go before all others. Until it is `initialized`, nothing but
    `initialize` is answered. `streaming` and `notifications` are what the client said that it takes.
    """

    principal: Principal
    transport: Literal["websocket", "http"]
    initialized: bool = False
    methods: Mapping[str, Method] = field(default_factory=dict)
    client: str | None = None
    streaming: bool = False
    notifications: bool = False
