"""Ways to send a frame to the JSON-RPC engine: what the conformance table and the random frames have in common.

A way takes the bytes of a frame and gives those of the answer, None where there is none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

import httpx
import msgspec
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.entrypoints.program import RunningProgram

Way = Callable[[bytes], bytes | None]
T = TypeVar("T")


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


class OverWebSocket:
    """/ws, initialized. A connection that the server closed is opened again for the next frame."""

    def __init__(self, url: str, key: str, *, initialize: bool = True, timeout_s: float = 30.0) -> None:
        """`url` is that of the page's listener."""
        self._address = url.replace("http://", "ws://", 1) + "/ws"
        self._headers = {"Authorization": f"Bearer {key}"}
        self._initialize = initialize
        self._timeout_s = timeout_s
        self._connection: ClientConnection | None = None
        self._numbers = itertools.count(1)
        self._stack = ExitStack()

    def __call__(self, frame: bytes) -> bytes | None:
        """The answer to a frame; for one that is due none, make sure that the next answer is another's."""
        self.send(frame)
        if not is_silent(frame):
            return self.receive()
        sentinel = f"sentinel {next(self._numbers)}"
        self.send(request("initialize", sentinel, protocolVersion={"major": 1}))
        answer = decoded(self.receive())
        assert answer["id"] == sentinel, f"{frame[:200]!r} was answered: {answer}"
        return None

    def send(self, frame: bytes) -> None:
        """Send a frame as text, or as bytes where it is none. Raises ConnectionClosed."""
        if self._connection is None:
            opened = connect(
                self._address, additional_headers=self._headers, max_size=None, proxy=None, compression=None
            )
            self._connection = self._stack.enter_context(opened)
            if self._initialize:
                self._connection.send(request("initialize", protocolVersion={"major": 1}).decode())
                self.receive()
        try:
            text: str | bytes = frame.decode()
        except UnicodeDecodeError:
            text = frame
        self._held_open(lambda connection: connection.send(text))

    def receive(self) -> bytes:
        """The next message. Raises ConnectionClosed, and TimeoutError when nothing comes."""
        message = self._held_open(lambda connection: connection.recv(self._timeout_s))
        return message.encode() if isinstance(message, str) else message

    def _held_open(self, act: Callable[[ClientConnection], T]) -> T:
        assert self._connection is not None
        try:
            return act(self._connection)
        except ConnectionClosed:
            self._connection = None
            self._stack.close()
            raise

    def close(self) -> None:
        """Close it."""
        self._stack.close()


def is_silent(frame: bytes) -> bool:
    """Whether no answer is due: a notification, or a batch of nothing else."""
    try:
        value = msgspec.json.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    requests = value if isinstance(value, list) else [value]
    return 0 < len(requests) <= 50 and all(map(_is_notification, requests))


def _is_notification(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and "id" not in value
        and value.get("jsonrpc") == "2.0"
        and isinstance(value.get("method"), str)
        and isinstance(value.get("params", {}), dict | list)
    )


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
