"""Which version of MCP a request speaks.

From 2026-07-28 on a request says so in `params._meta` and again in headers. Both have to agree, so that a proxy that
routes by headers and the program see the same (basic/transports/streamable-http, Server Validation). An earlier one has
a header at most; without it 2025-03-26 is assumed, as that transport says.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from sanic import Request

from entrypoints.mcp.frames import HEADER_MISMATCH, INVALID_PARAMS, UNSUPPORTED_VERSION, Fault, Frame

MODERN = ("2026-07-28",)
LEGACY = ("2025-11-25", "2025-06-18", "2025-03-26")
SUPPORTED = (*MODERN, *LEGACY)
ASSUMED = "2025-03-26"
# The only one in which several messages may come in one body.
BATCHED = "2025-03-26"

META_VERSION = "io.modelcontextprotocol/protocolVersion"
META_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
META_SERVER = "io.modelcontextprotocol/serverInfo"

VERSION_HEADER = "MCP-Protocol-Version"
METHOD_HEADER = "Mcp-Method"
NAME_HEADER = "Mcp-Name"
_NAMED = {"tools/call": "name", "resources/read": "uri"}
_ENCODED = re.compile(r"=\?base64\?(.*)\?=").fullmatch


def version_of(frame: Frame, request: Request) -> str:
    """The version of a request, or of a notification. Raises Fault."""
    header = _header(request, VERSION_HEADER)
    meta = frame.params.get("_meta")
    meta = meta if isinstance(meta, dict) else {}
    claims = META_VERSION in meta or header in MODERN
    if not (frame.asks and claims) or (header in LEGACY and meta[META_VERSION] == header):
        return said_version(request) or ASSUMED
    _check_envelope(frame, meta, header, request)
    version: str = meta[META_VERSION]
    if version not in MODERN:
        raise unsupported(version)
    return version


def said_version(request: Request) -> str | None:
    """What the header says. Raises Fault for a version that is not spoken here."""
    header = _header(request, VERSION_HEADER)
    if header is not None and header not in SUPPORTED:
        raise unsupported(header)
    return header


def negotiated(params: Mapping[str, Any]) -> str:
    """The version that `initialize` agrees on: the one asked for, or the newest that has `initialize`."""
    asked = params.get("protocolVersion")
    if not isinstance(asked, str):
        raise Fault(INVALID_PARAMS, "initialize needs protocolVersion, a text.")
    return asked if asked in LEGACY else LEGACY[0]


def unsupported(version: str) -> Fault:
    """The refusal that names what is spoken here."""
    return Fault(
        UNSUPPORTED_VERSION,
        "This version of the protocol is not spoken here.",
        {"supported": list(SUPPORTED), "requested": version[:100]},
    )


def _check_envelope(frame: Frame, meta: Mapping[str, Any], header: str | None, request: Request) -> None:
    """Raises Fault unless `_meta` is whole and the headers say the same."""
    missing = [key for key in (META_VERSION, META_CAPABILITIES) if key not in meta]
    if missing:
        raise Fault(INVALID_PARAMS, f"params._meta lacks {' and '.join(missing)}.")
    if not isinstance(meta[META_VERSION], str) or not isinstance(meta[META_CAPABILITIES], dict):
        raise Fault(INVALID_PARAMS, f"{META_VERSION} is a text, {META_CAPABILITIES} an object.")
    _agree(VERSION_HEADER, header, meta[META_VERSION])
    _agree(METHOD_HEADER, _header(request, METHOD_HEADER), frame.method)
    name = frame.params.get(_NAMED.get(frame.method, ""))
    if isinstance(name, str):
        _agree(NAME_HEADER, _plain(_header(request, NAME_HEADER)), name)


def _agree(name: str, said: str | None, meant: str) -> None:
    if said is None:
        raise Fault(HEADER_MISMATCH, f"The header {name} is missing.")
    if said != meant:
        raise Fault(HEADER_MISMATCH, f"The header {name} says something else than the body.")


def _header(request: Request, name: str) -> str | None:
    """A header's value. Raises Fault where it came twice: nobody could say which one counts."""
    values: list[str] = request.headers.getall(name, [])
    if len(values) > 1:
        raise Fault(HEADER_MISMATCH, f"The header {name} came {len(values)} times.")
    return values[0] if values else None


def _plain(value: str | None) -> str | None:
    """A header's text, where it is in Base64 because it is no visible ASCII: decoded."""
    match = _ENCODED(value or "")
    if match is None:
        return value
    try:
        return base64.b64decode(match[1], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise Fault(HEADER_MISMATCH, f"The header {NAME_HEADER} is no valid Base64.") from None
