"""HTTP/1.1 by Sanic, with a shorter way for what nearly every call is: a request that came whole, answered at once.

Whatever is not plain (a body in chunks or in parts, Expect, Upgrade, HEAD, a line that does not parse) goes through
Sanic's own code, from the first byte. Like entrypoints/http/listener.py this rests on undocumented parts of Sanic,
which is pinned; tests/entrypoints/test_exchange.py sends the same requests on both ways and compares the answers.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property, lru_cache
from http import HTTPStatus
from time import monotonic
from typing import Any, cast

from httptools import parse_url
from httptools.parser.errors import HttpParserInvalidURLError
from sanic import HTTPResponse, Request, Sanic
from sanic.compat import Header
from sanic.exceptions import BadURL
from sanic.http import Http, Stage
from sanic.request import RequestParameters
from sanic.response import BaseHTTPResponse
from sanic.server import HttpProtocol

BUFFER_MAX_BYTES = 64 * 1024
URL_KEPT_MAX_BYTES = 512
# What says that more than a plain request is meant.
_SPECIAL = frozenset({"connection", "expect", "transfer-encoding", "upgrade"})
_DIGITS_MAX = 7


class Answer(HTTPResponse):
    """JSON of ours: names and values of its headers are visible ASCII, so nothing has to be taken out of them again."""

    __slots__ = ()

    def __init__(self, body: bytes, status: int, headers: Mapping[str, str], content_type: str) -> None:
        # Not Sanic's: it would make a dictionary of headers three times.
        self.asgi = False
        self.stream = None
        self._cookies = None
        self.body, self.status, self.content_type = body, status, content_type
        self.headers = Header(headers)

    @property
    def processed_headers(self) -> Any:
        """Names and values as bytes."""
        self.headers.setdefault("content-type", self.content_type)
        return ((name.encode("ascii"), str(value).encode("ascii")) for name, value in self.headers.items())

    def whole(self, *, keep_alive: bool) -> bytes:
        """Head and body as they go out."""
        body = self.body or b""
        said = "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()])
        return (_head(self.status, self.content_type, keep_alive) % (len(body), said)).encode("ascii") + body


@lru_cache(maxsize=256)
def _head(status: int, content_type: str | None, keep_alive: bool) -> str:
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {content_type}\r\n"
        f"connection: {'keep-alive' if keep_alive else 'close'}\r\ncontent-length: %d\r\n%s\r\n"
    )


@lru_cache(maxsize=512)
def _parts(url: bytes) -> tuple[Any, str, str]:
    """Sanic's own parse of an address, its path and its query string."""
    parsed = parse_url(url)
    if parsed.path is None:
        raise HttpParserInvalidURLError("an address without a path")
    return parsed, parsed.path.decode(), parsed.query.decode() if parsed.query else ""


class Call(Request):
    """A request whose fields that most calls never ask for are made when they are: Sanic sets thirty of them each time.

    What stands here hides a slot of Sanic's class; a value that is set lies in the instance's dictionary.
    """

    _id = _name = _ctx = _protocol = None
    _stream_id = 0
    conn_info = route = stream = None
    parsed_accept = parsed_cookies = parsed_credentials = parsed_files = None
    parsed_form = parsed_forwarded = parsed_json = parsed_token = None
    _request_middleware_started = _response_middleware_started = responded = False
    body = b""
    path = query_string = ""

    def __init__(
        self,
        url_bytes: bytes,
        headers: Header,
        version: str,
        method: str,
        transport: Any,
        app: Any,
        head: bytes = b"",
        stream_id: int = 0,
    ) -> None:
        parts = _parts if len(url_bytes) <= URL_KEPT_MAX_BYTES else _parts.__wrapped__
        try:
            self._parsed_url, self.path, self.query_string = parts(url_bytes)
        except HttpParserInvalidURLError:
            raise BadURL(f"Bad URL: {url_bytes.decode(errors='backslashreplace')}") from None
        self.raw_url, self.headers, self.head = url_bytes, headers, head
        self.version, self.method, self.transport, self.app = version, method, transport, app
        self.match_info = {}

    @cached_property
    def parsed_args(self) -> Any:  # type: ignore[override]
        """See Sanic."""
        return defaultdict(RequestParameters)

    @cached_property
    def parsed_not_grouped_args(self) -> Any:  # type: ignore[override]
        """See Sanic."""
        return defaultdict(list)


class App(Sanic[Any, Any]):
    """Sanic without what no app of ours has: middleware, signals, handlers that are no coroutines, routes of a host."""

    async def handle_request(self, request: Request) -> None:
        """Find the handler, read the body for it, send what it answers. What it raises becomes a problem document."""
        try:
            route, handler, fields = self.router.get(request.path, request.method, None)
            request.route, request.match_info = route, fields
            stream: Any = request.stream
            if stream.request_body and not route.extra.ignore_body:
                if hasattr(handler, "is_stream"):
                    stream.request_max_size = float("inf")
                else:
                    request.body = stream.arrived_body()
                    if stream.request_body:
                        await request.receive_body()  # type: ignore[no-untyped-call]
            response = await handler(request, **fields)
            if response is not None and not request.responded:
                stream.respond(response)
                request.responded = True
            else:
                response = stream.response
            if isinstance(response, BaseHTTPResponse):
                await response.send(end_stream=True)
        except Exception as error:
            await self.handle_exception(request, error)


@lru_cache(maxsize=512)
def _header(line: str) -> tuple[str, str]:
    """Name and value of a line; a connection sends nearly the same ones each time. Raises ValueError."""
    name, value = line.split(":", 1)
    return name.lower(), value.lstrip()


class Exchange(Http):
    """One connection's requests, one after the other."""

    async def http1_request_header(self) -> None:
        """Take a plain request that lies in the buffer whole; any other goes Sanic's way."""
        request = self._plain()
        if request is None:
            await super().http1_request_header()  # type: ignore[no-untyped-call]
            return
        self.request, request.stream = request, self
        self.protocol.state["requests_count"] += 1

    def _plain(self) -> Request | None:
        buffer = self.recv_buffer
        end = buffer.find(b"\r\n\r\n")
        if not 0 < end < self.HEADER_MAX_SIZE:
            return None
        size = -1
        headers: list[tuple[str, str]] = []
        try:
            first, *lines = buffer[:end].decode("ascii").split("\r\n")
            method, url, version = first.split(" ")
            for line in lines:
                header = _header(line)
                name, value = header
                if name == "content-length":
                    if size >= 0 or not value.isdigit() or len(value) > _DIGITS_MAX:
                        return None
                    size = int(value)
                elif name in _SPECIAL and (name != "connection" or value.lower() != "keep-alive"):
                    return None
                headers.append(header)
        except ValueError:
            return None
        if version != "HTTP/1.1" or method == "HEAD" or len(buffer) < end + 4 + size or size > self.request_max_size:
            return None
        protocol: Any = self.protocol
        request: Request = protocol.request_class(
            url.encode("ascii"), Header(headers), "1.1", method, protocol.transport, protocol.app
        )
        self.keep_alive = True
        self.head_only = False
        self.request_body = True if size >= 0 else None  # type: ignore[assignment]
        self.request_bytes = self.request_bytes_left = max(0, size)
        del buffer[: end + 4]
        return request

    def arrived_body(self) -> bytes:
        """The body, taken out of the buffer if it lies there whole and its length was said; else nothing yet."""
        size, buffer = cast("int", self.request_bytes_left), self.recv_buffer
        kind: Any = self.request_body
        if kind is not True or self.expecting_continue or size > self.request_max_size or len(buffer) < size:
            return b""
        body = bytes(buffer[:size])
        del buffer[:size]
        self.request_bytes_left = 0
        self.request_body = None
        return body

    async def http1_response_header(self, data: bytes, end_stream: bool) -> None:
        """Send an answer of ours as one piece; any other goes Sanic's way."""
        protocol: Any = self.protocol
        response = self.response
        # A body that was refused before it was read may be longer than sanic reads on: the connection cannot be kept.
        if protocol.app.ctx.draining or (self.request_body and response.status >= 400):
            self.keep_alive = False
        if type(response) is not Answer or data or self.head_only or self.expecting_continue:
            await super().http1_response_header(data, end_stream)
            return
        self.response_func = None  # type: ignore[assignment]
        text = response.whole(keep_alive=self.keep_alive)
        if protocol.writable:
            protocol.write(text)
        else:
            await self._send(text)
        self.stage = Stage.IDLE


class Connection(HttpProtocol):
    """A connection, as Sanic's, whose waits cost one future."""

    HTTP_CLASS = Exchange
    __slots__ = ("_arrival", "_paused")

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        self._arrival: asyncio.Future[None] | None = None
        self._paused = False
        super().connection_made(transport)  # type: ignore[no-untyped-call]

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._time = monotonic()
        self.recv_buffer += data
        if len(self.recv_buffer) >= BUFFER_MAX_BYTES and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()
        arrival = self._arrival
        if arrival is not None and not arrival.done():
            arrival.set_result(None)

    async def receive_more(self) -> None:
        """Wait for the next bytes."""
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        self._arrival = self.loop.create_future()
        await self._arrival

    @property
    def writable(self) -> bool:
        """Whether a write goes out at once."""
        return self._can_write.is_set() and self.transport is not None and not self.transport.is_closing()

    def write(self, data: bytes) -> None:
        """Send without waiting; for who has looked whether it is `writable`."""
        assert self.transport is not None
        self.transport.write(data)
        self._time = monotonic()
