"""One WebSocket to the server: opened, greeted, asked; it ends once and is not opened again."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from importlib.metadata import version
from socket import SO_RCVBUF, SOL_SOCKET
from typing import Any
from urllib.parse import urlunsplit

import msgspec
import orjson
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from core.kernel.errors import HivebusError, OutcomeUnknown, TooLarge, Unprocessable
from entrypoints.cli.failures import Failure
from entrypoints.cli.failures import Unreachable as NoServer
from entrypoints.cli.place import START_IT, Place
from entrypoints.client.problems import Unreachable, error_of, error_of_rpc

OPEN_S = 10.0
CLOSE_S = 2.0
HEARTBEAT_S = 30.0
# The server ends each call within a minute; who waits longer waits for nobody.
ANSWER_S = 65.0
FRAME_SENT_MAX_BYTES = 1024 * 1024
FRAME_READ_MAX_BYTES = 64 * 1024 * 1024
FRAMES_AHEAD_MAX = 4
RECEIVE_BUFFER_BYTES = 256 * 1024
# Answers of a server, or of a proxy before it, that may be another one soon.
LATER = frozenset({408, 429, 500, 502, 503, 504})


class Lost(Exception):
    """The connection ended; what was asked and not answered may have taken place."""


class Connection:
    """Calls in any number side by side, and the notices of a subscription in their order."""

    def __init__(self, socket: ClientConnection, url: str) -> None:
        self.url = url
        self._socket = socket
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        # Full when nobody takes them: then the socket is not read, and the server sees a slow reader.
        self._notices: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(FRAMES_AHEAD_MAX)
        self._end: str | None = None
        self._reading = asyncio.create_task(self._read(), name="hivebus connection")

    @classmethod
    async def open(cls, place: Place) -> Connection:
        """Connect and initialize. Raises Unreachable where another try may help, another HivebusError where not."""
        url = address_of(place)
        headers = {} if place.key is None else {"Authorization": f"Bearer {place.key}"}
        try:
            socket = await open_socket(
                url,
                additional_headers=headers,
                proxy=None,
                compression=None,
                open_timeout=OPEN_S,
                close_timeout=CLOSE_S,
                ping_interval=HEARTBEAT_S,
                ping_timeout=HEARTBEAT_S,
                max_size=FRAME_READ_MAX_BYTES,
                max_queue=FRAMES_AHEAD_MAX,
            )
        except InvalidStatus as error:
            raise _refused(url, error) from error
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
            raise Unreachable(f"No server answers at {url}: {_cause(error)}.", remedy=START_IT) from error
        # Left alone the system takes in megabytes for a program that reads nothing, and the server cannot see it.
        wire = socket.transport.get_extra_info("socket")
        wire.setsockopt(SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        connection = cls(socket, url)
        try:
            await connection.request("initialize", _greeting())
        except Lost as lost:
            raise Unreachable(f"The server at {url} hung up: {lost}.", remedy=START_IT) from lost
        except BaseException:
            await connection.close()
            raise
        return connection

    @property
    def alive(self) -> bool:
        """Whether it has not ended, as far as is known here."""
        return self._end is None

    async def request(self, method: str, params: dict[str, Any]) -> Any:
        """The result of a method. Raises HivebusError as the server said, and Lost."""
        number = next(self._ids)
        frame = frame_of(number, method, params)
        if self._end is not None:
            raise Lost(self._end)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(ANSWER_S):
                # Text: that is what JSON-RPC clients send, and what people see in a browser's tools.
                await self._socket.send(frame, text=True)
                return await answer
        except ConnectionClosed as error:
            raise Lost(_words_of(error)) from error
        except TimeoutError:
            raise OutcomeUnknown(
                f"The server did not answer {method} within {ANSWER_S:g} s.", remedy="Look whether it took place."
            ) from None
        finally:
            del self._waiting[number]

    async def notice(self) -> dict[str, Any]:
        """The next notification: {method, params}. Raises Lost after the last one."""
        if self._end is not None and self._notices.empty():
            raise Lost(self._end)
        notice = await self._notices.get()
        if notice is None:
            raise Lost(self._end)
        return notice

    async def close(self) -> None:
        """Say goodbye, and let go."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._socket.close()

    async def _read(self) -> None:
        end = "it was closed here"
        try:
            while True:
                await self._take(orjson.loads(await self._socket.recv(decode=False)))
        except ConnectionClosed as error:
            end = _words_of(error)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            end = f"what came is no JSON-RPC ({error})"
            await self._socket.close(1002)
        finally:
            self._finish(end)

    async def _take(self, message: dict[str, Any]) -> None:
        if "method" in message:
            await self._notices.put(message)
            return
        answer = self._waiting.get(message["id"])
        if answer is None or answer.done():
            return  # who asked has gone
        if "error" in message:
            answer.set_exception(error_of_rpc(message["error"]))
        else:
            answer.set_result(message["result"])

    def _finish(self, end: str) -> None:
        self._end = end
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(Lost(end))
        with contextlib.suppress(asyncio.QueueFull):  # full: whoever empties it looks at the end first
            self._notices.put_nowait(None)


def frame_of(number: int, method: str, params: dict[str, Any]) -> bytes:
    """A request as it is sent. Raises Unprocessable for what JSON cannot say, TooLarge for what no server takes."""
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    try:
        frame = orjson.dumps(message, default=msgspec.to_builtins)
    except TypeError as error:
        raise Unprocessable(f"{method} cannot be sent: {error}.", remedy="Give values that JSON has.") from error
    if len(frame) > FRAME_SENT_MAX_BYTES:
        raise TooLarge(
            f"{method} has {len(frame)} bytes; {FRAME_SENT_MAX_BYTES} is the most.",
            remedy="Store large values with PUT /api/blobs/{sha256}.",
        )
    return frame


def address_of(place: Place) -> str:
    """The address of the socket. Raises HivebusError for an address that is none."""
    try:
        parts = place.parts
    except Failure as failure:
        raise in_our_words(failure) from failure
    scheme = "wss" if parts.scheme == "https" else "ws"
    return urlunsplit((scheme, parts.netloc.rpartition("@")[2], f"{parts.path}/ws", "", ""))


def in_our_words(failure: Failure) -> HivebusError:
    """What the command line would say, as an error of the tree."""
    if isinstance(failure, NoServer):
        return Unreachable(failure.sentence, remedy=failure.remedy)
    return error_of({"detail": failure.sentence, "remedy": failure.remedy, "code": failure.code, "status": 400})


def _greeting() -> dict[str, Any]:
    return {
        "protocolVersion": {"major": 1, "minor": 0, "patch": 0},
        "clientInfo": {"name": "hivebus-python", "version": version("hivebus")},
        "capabilities": {"streaming": True, "notifications": False},
    }


def _refused(url: str, error: InvalidStatus) -> HivebusError:
    """The answer to a handshake that opened no socket."""
    status, body = error.response.status_code, error.response.body or b""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = {}
    problem = error_of(document if isinstance(document, dict) else {}, status=status)
    if status in LATER:
        return Unreachable(f"{url} answered {status}: {problem.sentence}", remedy=problem.remedy or "Try again.")
    return problem


def _cause(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return (str(error) or type(error).__name__).rstrip(".")


def _words_of(error: ConnectionClosed) -> str:
    close = error.rcvd or error.sent
    if close is None:
        return "the connection broke"
    return f"it was closed with {close.code}" + (f" ({close.reason})" if close.reason else "")
