"""All documents of one program, each written once, and the pages that show them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from core.kernel.registry import Registry
from entrypoints.calls import Calls, Nothing, fitted
from entrypoints.rpc.session import Method, Session
from entrypoints.schemas import pages
from entrypoints.schemas.asyncapi import asyncapi
from entrypoints.schemas.connection import METHODS, NOTIFICATIONS
from entrypoints.schemas.openapi import openapi
from entrypoints.schemas.openrpc import openrpc

STYLE = Path(__file__).parent / "style.css"


class Documents:
    """What a program says of its own interfaces."""

    NAMES: ClassVar = ("openapi", "openrpc", "asyncapi")
    PAGES: ClassVar = tuple(pages.NAMES)

    def __init__(self, calls: Calls, methods: Calls, registry: Registry, version: str) -> None:
        """`methods` are the actions under all names that JSON-RPC knows them by."""
        self._calls = calls
        self._methods = methods
        self._registry = registry
        self._version = version

    @cached_property
    def openapi(self) -> dict[str, Any]:
        """REST."""
        return openapi(self._calls, version=self._version)

    @cached_property
    def openrpc(self) -> dict[str, Any]:
        """JSON-RPC."""
        return openrpc(self._methods, version=self._version, methods=METHODS)

    @cached_property
    def asyncapi(self) -> dict[str, Any]:
        """NATS and the WebSocket."""
        return asyncapi(self._calls, self._registry, version=self._version, notifications=NOTIFICATIONS)

    def document(self, name: str) -> dict[str, Any]:
        """One of NAMES."""
        found: dict[str, Any] = getattr(self, name)
        return found

    def page(self, path: str) -> str:
        """One of PAGES."""
        match path:
            case "/docs/rest":
                return pages.rest(self.openapi)
            case "/docs/rpc":
                return pages.rpc(self.openrpc)
            case "/docs/events":
                return pages.events(self.asyncapi)
            case _:
                return pages.index(self.openapi, self.openrpc, self.asyncapi)


def discovery(documents: Documents) -> Mapping[str, Method]:
    """`rpc.discover`."""

    async def discover(params: dict[str, Any], session: Session) -> dict[str, Any]:
        del session
        fitted(params, Nothing)
        return documents.openrpc

    return {"rpc.discover": discover}
