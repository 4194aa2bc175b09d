"""Ways to send a frame to the JSON-RPC engine: what the conformance table and the random frames have in common.

A way takes the bytes of a frame and gives those of the answer, None where there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import msgspec

from tests.entrypoints.program import RunningProgram

Way = Callable[[bytes], bytes | None]


def request(method: str, id_: Any = 1, **params: Any) -> bytes:
    """A frame with one request."""
    return msgspec.json.encode({"jsonrpc": "2.0", "method": method, "params": params, "id": id_})


def over_http(program: RunningProgram, url: str) -> Way:
    """POST /api/ of a listener."""

    def ask(frame: bytes) -> bytes | None:
        response = post(program, url, frame)
        assert response.status_code in (200, 204), response.text
        if response.status_code == 204:
            assert response.content == b""
            return None
        assert response.headers["content-type"] == "application/json"
        return response.content

    return ask


def post(program: RunningProgram, url: str, frame: bytes, **headers: str) -> httpx.Response:
    """One request to POST /api/ as it is."""
    return program.request("POST", f"{url}/api/", content=frame, headers={"Content-Type": "application/json"} | headers)


def decoded(answer: bytes | None) -> Any:
    """An answer as JSON values."""
    return None if answer is None else msgspec.json.decode(answer)


def outline(answer: bytes | None) -> Any:
    """(id, result) or (id, number, code) of an answer, a list of them for a batch. Each is checked for its form."""
    value = decoded(answer)
    return [_outline(item) for item in value] if isinstance(value, list) else _outline(value)


def _outline(value: Any) -> Any:
    if value is None:
        return None
    assert value["jsonrpc"] == "2.0"
    if "result" in value:
        assert value.keys() == {"jsonrpc", "id", "result"}
        return value["id"], value["result"]
    assert value.keys() == {"jsonrpc", "id", "error"}
    error = value["error"]
    assert error.keys() == {"code", "message", "data"}
    data = error["data"]
    assert data.keys() >= {"code", "field", "reason", "remedy", "status"}
    assert error["message"] == data["reason"]
    assert data["reason"].endswith(".")
    assert data["remedy"]
    return value["id"], error["code"], data["code"]
