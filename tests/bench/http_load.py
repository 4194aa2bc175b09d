"""A load generator that costs little: raw HTTP/1.1 over kept connections, one request in flight on each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class _Connection(asyncio.Protocol):
    def __init__(self, next_request: Callable[[], bytes | None], done: Callable[[int, float], None]) -> None:
        self._next = next_request
        self._done = done
        self._buffer = b""
        self._sent_at = 0.0
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        request = self._next()
        if request is None:
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) >= length:
            self._buffer = body[length:]
            self._done(int(head[9:12]), time.perf_counter() - self._sent_at)
            self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


async def load(
    host: str, port: int, request: bytes, *, requests: int, connections: int
) -> tuple[float, dict[int, int], list[float]]:
    """(seconds, answers by status, sorted latencies in seconds) of so many requests over so many connections."""
    left = iter([request] * requests)
    statuses: dict[int, int] = {}
    latencies: list[float] = []

    def next_request() -> bytes | None:
        return next(left, None)

    def done(status: int, seconds: float) -> None:
        statuses[status] = statuses.get(status, 0) + 1
        latencies.append(seconds)

    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    made = [
        (await loop.create_connection(lambda: _Connection(next_request, done), host, port))[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*(connection.closed for connection in made))
    return time.perf_counter() - started, statuses, sorted(latencies)


def post(path: str, port: int, body: bytes, headers: dict[str, str]) -> bytes:
    """A POST as bytes."""
    lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])).encode() + body
