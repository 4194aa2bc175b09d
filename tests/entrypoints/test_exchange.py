"""The short way through HTTP/1.1 and Sanic's own: the same requests, the same answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from sanic import HTTPResponse, Request

from core.kernel.errors import TooLarge
from entrypoints.http.exchange import BUFFER_MAX_BYTES, Answer
from entrypoints.http.listener import Listener, bind, make_app

WAIT_S = 10.0
HOST = b"Host: 127.0.0.1\r\n"
LARGE = b"x" * (2 * BUFFER_MAX_BYTES)


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    """Handlers that say what they got: whole, streamed, refused before the body was read."""
    app = make_app(f"exchange-{id(asyncio.get_running_loop())}", first=False)

    async def echo(request: Request, name: str = "") -> HTTPResponse:
        said = f"{request.method} {name} {request.query_string} {request.headers.get('x-said')} ".encode()
        return Answer(b'"%b"' % (said + request.body[:20] + b" %d" % len(request.body)), 200, {"X-One": "1"}, "a/b")

    async def stream(request: Request) -> HTTPResponse:
        size = 0
        while (part := await request.stream.read()) is not None:  # type: ignore[union-attr]
            size += len(part)
        return HTTPResponse(b"%d" % size)

    async def refuse(request: Request) -> HTTPResponse:
        raise TooLarge("no", remedy="none")

    app.add_route(echo, "/echo", methods=["GET", "POST", "HEAD"], name="echo")
    app.add_route(echo, "/echo/<name:str>", methods=["GET", "POST"], name="echo_named", unquote=True)
    app.add_route(stream, "/stream", methods=["PUT"], name="stream", stream=True)
    app.add_route(refuse, "/refuse", methods=["PUT"], name="refuse", stream=True)
    listener = Listener(app, bind("127.0.0.1", 0, "TEST_PORT"))
    await listener.prepare()
    await listener.serve()
    try:
        yield listener
    finally:
        await listener.drain(0.5)


async def answers(listener: Listener, pieces: list[bytes]) -> bytes:
    """All that comes back until the server closes, or has nothing more to say to a client that closed its side."""
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    try:
        async with asyncio.timeout(WAIT_S):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            with contextlib.suppress(ConnectionResetError):
                return await reader.read()
            return b""
    finally:
        writer.close()


def request(line: str, *headers: str, body: bytes | None = None) -> bytes:
    """The last one of a connection: it is closed after the answer."""
    said = [line + " HTTP/1.1", "Host: 127.0.0.1", *headers]
    if body is not None:
        said.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*said, "", ""]).encode("latin-1") + (body or b"")


END = request("GET /echo", "Connection: close")

PLAIN = [
    request("GET /echo"),
    request("GET /echo?a=1&b=%20"),
    request("GET /echo/with%20space"),
    request("POST /echo", body=b""),
    request("POST /echo", body=b"hello"),
    request("POST /echo", "X-Said:  twice  ", body=b"\r\n\r\n"),
    request("POST /echo", "Connection: keep-alive", body=LARGE),
    request("PUT /stream", body=b"hello"),
    request("PUT /stream", body=LARGE),
    request("GET /nowhere"),
    request(f"GET /echo?{'x' * 2000}"),
    request("GET http://127.0.0.1/echo?a=1"),
    request("DELETE /echo"),
    request("POST /echo", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n",
    request("HEAD /echo"),
]


@pytest.mark.parametrize("sent", PLAIN, ids=lambda sent: sent.split(b" HTTP")[0].decode())
async def test_a_request_that_comes_whole_is_answered_as_one_in_pieces(sent: bytes) -> None:
    async with listening() as listener:
        whole = await answers(listener, [sent, END])
        head_size = sent.index(b"\r\n\r\n") + 4
        pieces = [sent[:3], sent[3 : head_size - 1], sent[head_size - 1 : head_size + 1], sent[head_size + 1 :]]
        split = await answers(listener, [piece for piece in pieces if piece] + [END])

    assert whole.count(b"HTTP/1.1 ") == 2
    assert _sorted(whole) == _sorted(split)


async def test_requests_that_come_together_are_answered_in_their_order() -> None:
    sent = [request("POST /echo", body=b"%d" % number) for number in range(50)]
    async with listening() as listener:
        together = await answers(listener, [b"".join([*sent, END])])

    bodies = [part.rpartition(b"\r\n\r\n")[2] for part in together.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert bodies[:-1] == [b'"POST   None %d %d"' % (number, len(str(number))) for number in range(50)]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("POST /echo", "Content-Length: 5", body=b"hello"), 400),
        (request("POST /echo", "Content-Length: +5") + b"hello", 400),
        (request("POST /echo", "Content-Length: 5", "Transfer-Encoding: chunked") + b"hello", 400),
        (request("POST /echo", "Content-Length: 99999999"), 413),
        (request("POST /echo", f"X-Said: {'x' * 9000}"), 431),
        (request("POST /echo", "no colon"), 400),
        (request("GET /echo two"), 400),
        (request("GET echo"), 400),
        (b"GET /echo HTTP/3.7\r\n" + HOST + b"\r\n", 400),
        (request("POST /echo", "Expect: miracles", body=b"x"), 400),
    ],
)
async def test_a_request_that_is_not_sound_is_refused_and_the_connection_ends(sent: bytes, status: int) -> None:
    async with listening() as listener:
        answer = await answers(listener, [sent])

    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_who_expects_a_continue_gets_one() -> None:
    async with listening() as listener:
        answer = await answers(listener, [request("POST /echo", "Expect: 100-continue", body=b"hello"), END])

    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


async def test_a_body_that_was_refused_unread_ends_the_connection() -> None:
    async with listening() as listener:
        answer = await answers(listener, [request("PUT /refuse", body=b"hello"), END])

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_while_the_listener_drains_each_answer_is_the_last_of_its_connection() -> None:
    async with listening() as listener:
        listener.app.ctx.draining = True
        answer = await answers(listener, [request("GET /echo"), request("GET /echo")])

    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert b"connection: close\r\n" in answer


def _sorted(answer: bytes) -> list[list[bytes]]:
    """The lines of each answer: in what order the headers come says nothing."""
    return [sorted(part.lower().splitlines()) for part in answer.split(b"HTTP/1.1 ")]
