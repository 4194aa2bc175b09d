"""A body as JSON-RPC messages, by the rules of MCP: an id is never null, parameters have names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
# Until 2025-11-25; from 2026-07-28 on it is INVALID_PARAMS.
RESOURCE_NOT_FOUND = -32002
HEADER_MISMATCH = -32020
UNSUPPORTED_VERSION = -32022


class Fault(Exception):
    """An error of the protocol, not of a tool: code, sentence and data as JSON-RPC has them."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def frame(self, frame_id: str | int | None) -> dict[str, Any]:
        """The answer that carries it; the id is null where none could be read."""
        error = {"code": self.code, "message": self.message} | ({} if self.data is None else {"data": self.data})
        return {"jsonrpc": "2.0", "id": frame_id, "error": error}


class Frame(Struct, frozen=True):
    """A request, or a notification, which has no id."""

    id: str | int | None
    method: str
    params: Mapping[str, Any]

    @property
    def asks(self) -> bool:
        """Whether it wants an answer."""
        return self.id is not None


def decoded(body: bytes) -> Any:
    """A body as JSON values. Raises Fault."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise Fault(PARSE_ERROR, f"The body is not JSON: {error}.") from error
    except RecursionError:
        raise Fault(PARSE_ERROR, "The body is nested too deeply.") from None


def id_of(value: Any) -> str | int | None:
    """The id of whatever came, as far as it has a valid one."""
    found = value.get("id") if isinstance(value, dict) else None
    return found if isinstance(found, str | int) and not isinstance(found, bool) else None


def frame_of(value: Any) -> Frame:
    """One request or notification. Raises Fault."""
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0":
        raise Fault(INVALID_REQUEST, 'A message is one JSON object with "jsonrpc": "2.0".')
    if "method" not in value and ("result" in value or "error" in value):
        raise Fault(INVALID_REQUEST, "This server asks nothing, so no response is expected.")
    method, params = value.get("method"), value.get("params")
    if not isinstance(method, str):
        raise Fault(INVALID_REQUEST, "The method of a message is a text.")
    if "id" in value and id_of(value) is None:
        raise Fault(INVALID_REQUEST, "The id of a request is a text or an integer.")
    if not isinstance(params, dict | None):
        raise Fault(INVALID_PARAMS, "The params of a message are an object.")
    return Frame(id_of(value), method, params or {})
