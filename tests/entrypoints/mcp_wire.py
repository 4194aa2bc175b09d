"""Messages of MCP as bytes on the wire: what a client of each era sends."""

from __future__ import annotations

from typing import Any

import httpx

from tests.entrypoints.program import RunningProgram

LEGACY = "2025-11-25"
MODERN = "2026-07-28"
VERSION = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
ENVELOPE = {VERSION: MODERN, CAPABILITIES: {}}
NAMED = {"tools/call": "name", "resources/read": "uri"}


def request(method: str, params: dict[str, Any] | None = None, *, frame_id: Any = 1) -> dict[str, Any]:
    """A request of the handshake era."""
    return {"jsonrpc": "2.0", "id": frame_id, "method": method} | ({} if params is None else {"params": params})


def modern(method: str, params: dict[str, Any] | None = None, **meta: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """A request of 2026-07-28 and its headers."""
    params = params or {}
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
    if method in NAMED:
        headers["Mcp-Name"] = str(params[NAMED[method]])
    return request(method, params | {"_meta": ENVELOPE | meta}), headers


def post(program: RunningProgram, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
    """One POST to the endpoint, with the key."""
    address = f"{program.urls['tools']}/mcp"
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    media = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    return program.request("POST", address, headers=media | (headers or {}), **sent)


def result(program: RunningProgram, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """The result of a request of the handshake era that must succeed."""
    response = post(program, request(method, params), {"MCP-Protocol-Version": LEGACY})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert "error" not in answer, answer
    found: dict[str, Any] = answer["result"]
    return found


def call(program: RunningProgram, tool: str, **arguments: Any) -> dict[str, Any]:
    """The result of a tool."""
    return result(program, "tools/call", {"name": tool, "arguments": arguments})


def done(program: RunningProgram, tool: str, **arguments: Any) -> dict[str, Any]:
    """What a tool that must succeed answers."""
    answer = call(program, tool, **arguments)
    assert answer["isError"] is False, answer
    structured: dict[str, Any] = answer["structuredContent"]
    return structured
