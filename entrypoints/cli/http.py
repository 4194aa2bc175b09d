"""One connection to the server, kept alive, that outlives restarts of the server.

Every request may be sent again: reads change nothing, and each write carries an Idempotency-Key made once per command.
A server that never answered is not running, and the command ends at once; one that did answer is restarting, and is
given a minute.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import orjson
from msgspec import Struct

from entrypoints.cli.failures import Failure, Refusal, Unreachable
from entrypoints.cli.place import START_IT, Place, locate

CONNECT_S = 5.0
READ_S = 30.0
PATIENCE_S = 60.0
BUSY_MAX_S = 60.0
PAUSE_FIRST_S = 0.1
PAUSE_MAX_S = 2.0
ANSWER_MAX_BYTES = 64 * 1024 * 1024
BUSY = frozenset({429, 502, 503, 504})


class Answer(Struct, frozen=True):
    """What the server said. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as a value; Failure if the far side does not speak JSON, so is no Hivebus."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise Failure(
                "The server's answer is not JSON.", remedy="Is HIVEBUS_URL the address of the REST API (port 3001)?"
            ) from error

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document of an error; empty where a proxy or another server answered."""
        try:
            document = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}
        return document if isinstance(document, dict) else {}


class Request(Struct, frozen=True):
    """What is sent, as often as it takes."""

    method: str
    path: str
    body: bytes | None = None
    headers: dict[str, str] = {}


class Client:
    """Sends requests, one at a time. `note` tells the user about waits."""

    def __init__(
        self,
        *,
        place: Callable[[], Place] = locate,
        note: Callable[[str], None] = lambda sentence: None,
        patience_s: float = PATIENCE_S,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._place = place
        self._note = note
        self._patience_s = patience_s
        self._monotonic = monotonic
        self._sleep = sleep
        self._connection: http.client.HTTPConnection | None = None
        self._at: Place | None = None
        self._met = False

    def get(self, path: str, query: Mapping[str, Any] | None = None, *, read_s: float = READ_S) -> Answer:
        """Read; None values of the query are left out."""
        return self.call(Request("GET", path + query_string(query or {})), read_s=read_s)

    def call(self, request: Request, *, read_s: float = READ_S) -> Answer:
        """Send until there is an answer that is not "later"; Refusal for an error, Unreachable for none."""
        waited_s = 0.0
        while True:
            answer = self._deliver(request, read_s)
            pause_s = pause_before_repeat(answer)
            if pause_s is None or waited_s + pause_s > min(BUSY_MAX_S, self._patience_s):
                break
            if not waited_s:
                detail = answer.problem.get("detail") or f"The server answered {answer.status}."
                self._note(f"{detail} Trying again.")
            self._sleep(pause_s)
            waited_s += pause_s
        if answer.status >= 400:
            raise Refusal(answer.status, answer.problem)
        return answer

    def close(self) -> None:
        """Let the connection go."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _deliver(self, request: Request, read_s: float) -> Answer:
        """An answer of whatever status, through restarts of the server."""
        deadline: float | None = None
        pause_s = PAUSE_FIRST_S
        while True:
            reused = self._connection is not None
            try:
                answer = self._exchange(request, read_s)
            except (OSError, http.client.HTTPException, Unreachable) as error:
                self.close()
                if reused:
                    continue  # the server closed an idle connection, which says nothing about the server
                now = self._monotonic()
                if deadline is None:
                    deadline = now + self._patience_s
                if not self._met or now >= deadline:
                    raise self._unreachable(error) from error
                if pause_s == PAUSE_FIRST_S:
                    self._note(f"The server does not answer; trying again for up to {self._patience_s:g} s.")
                self._sleep(min(pause_s, deadline - now))
                pause_s = min(pause_s * 2, PAUSE_MAX_S)
                continue
            if deadline is not None:
                self._note("The server answers again.")
            self._met = True
            return answer

    def _exchange(self, request: Request, read_s: float) -> Answer:
        if self._connection is None:
            # Looked up again on each connect: a server that came back may have another port.
            self._at = self._place()
            self._connection = _connect(self._at)
        connection, at = self._connection, self._at
        assert at is not None, "set with the connection"
        assert connection.sock is not None, "connected above, and closed after each failure"
        connection.sock.settimeout(read_s)
        headers = {"User-Agent": "hivebus-cli", "Accept-Encoding": "identity"} | request.headers
        if at.key is not None:
            headers["Authorization"] = f"Bearer {at.key}"
        connection.request(request.method, at.parts.path + request.path, request.body, headers)
        response = connection.getresponse()
        body = response.read(ANSWER_MAX_BYTES + 1)
        if len(body) > ANSWER_MAX_BYTES:
            self.close()
            raise Failure(f"The server's answer is larger than {ANSWER_MAX_BYTES} bytes.", remedy="Lower --limit.")
        if connection.sock is None or response.will_close:
            self.close()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)

    def _unreachable(self, error: Exception) -> Unreachable:
        if isinstance(error, Unreachable):
            return error
        where = self._at.url if self._at is not None else "the server"
        return Unreachable(f"No server answers at {where}: {_cause(error)}.", remedy=START_IT)


def query_string(query: Mapping[str, Any]) -> str:
    """`?a=1&b=2`, without the None values; empty where nothing is left."""
    pairs = {name: value for name, value in query.items() if value is not None}
    return f"?{urlencode(pairs)}" if pairs else ""


def pause_before_repeat(answer: Answer) -> float | None:
    """How long a busy server wants to be left alone, in seconds; None for an answer that is final."""
    if answer.status not in BUSY:
        return None
    wish = answer.headers.get("retry-after") or answer.problem.get("retry_after_s")
    try:
        return max(PAUSE_FIRST_S, float(wish)) if wish is not None else 1.0
    except (TypeError, ValueError):  # an HTTP date, which no server of ours sends
        return 1.0


def _connect(place: Place) -> http.client.HTTPConnection:
    parts = place.parts
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=CONNECT_S)
    connection.connect()
    return connection


def _cause(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
