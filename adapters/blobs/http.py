"""Blobs of a server elsewhere, through PUT and GET /api/blobs/{sha256}."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import logging
import re
import ssl
from typing import Any
from urllib.parse import urlsplit

import msgspec

from core.execution import BLOB_MAX_BYTES
from core.kernel.errors import Forbidden, HivebusError, StartRefused, TooLarge, Unauthenticated, Unavailable

TIMEOUT_S = 30.0
TRIES_MAX = 6
PAUSE_S = 0.25
PAUSE_S_MAX = 4.0
OCTETS = "application/octet-stream"
READ_MORE_BYTES = 64 * 1024

_NAME = re.compile(r"[0-9a-f]{64}\Z")
_REFUSALS: dict[int, type[HivebusError]] = {401: Unauthenticated, 403: Forbidden, 413: TooLarge}

_logger = logging.getLogger("hivebus.blobs")


class HttpBlobs:
    """A connection for each call, in a thread. A server that does not answer is tried again for about eight seconds.

    Raises Unavailable after that, and Unauthenticated, Forbidden or TooLarge as the server says.
    """

    def __init__(self, url: str, key: str, *, timeout_s: float = TIMEOUT_S) -> None:
        """Raises StartRefused for anything but http(s)://host[:port][/path]."""
        parts = urlsplit(url)
        try:
            sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # a port that is none
            sound = False
        if not sound:
            raise StartRefused(f"{url!r} is no address of a server.", remedy="Use HIVEBUS_URL=http://HOST:PORT.")
        self._parts = parts
        self._key = key
        self._timeout_s = timeout_s

    async def put(self, data: bytes) -> str:
        """Store and return the SHA-256 in hex."""
        sha256 = hashlib.sha256(data).hexdigest()
        if len(data) > BLOB_MAX_BYTES:
            raise TooLarge(f"A blob holds at most {BLOB_MAX_BYTES} bytes.")
        await self._ask("PUT", sha256, data)
        return sha256

    async def get(self, sha256: str) -> bytes | None:
        """The bytes, or None; what does not hash to its name is not returned."""
        if not _NAME.match(sha256):
            return None
        data = await self._ask("GET", sha256, None)
        if data is not None and hashlib.sha256(data).hexdigest() != sha256:
            _logger.error("The server gave other bytes than those of the blob %s.", sha256)
            return None
        return data

    async def _ask(self, method: str, sha256: str, data: bytes | None) -> bytes | None:
        pause_s = PAUSE_S
        for left in range(TRIES_MAX - 1, -1, -1):
            try:
                return await asyncio.to_thread(self._once, method, sha256, data)
            except (OSError, http.client.HTTPException, Unavailable) as error:
                said = error.sentence if isinstance(error, Unavailable) else f"{type(error).__name__}: {error}"
                if not left:
                    raise Unavailable(
                        f"The server of blobs at {self._parts.netloc} does not answer: {said}.",
                        code="blobs_unavailable",
                        remedy="Check HIVEBUS_URL and that the server runs.",
                    ) from None
            await asyncio.sleep(pause_s)
            pause_s = min(PAUSE_S_MAX, pause_s * 2)
        raise AssertionError("the last try returns or raises")

    def _once(self, method: str, sha256: str, data: bytes | None) -> bytes | None:
        connection = self._connection()
        headers = {"Authorization": f"Bearer {self._key}"} | ({"Content-Type": OCTETS} if data is not None else {})
        try:
            connection.request(method, f"{self._parts.path.rstrip('/')}/api/blobs/{sha256}", data, headers)
            response = connection.getresponse()
            body = response.read(BLOB_MAX_BYTES + READ_MORE_BYTES)
        finally:
            connection.close()
        if response.status in (200, 201):
            return body
        if response.status == 404 and method == "GET":
            return None
        sentence = _sentence(body) or f"HTTP {response.status}."
        raise _REFUSALS.get(response.status, Unavailable)(sentence)

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=context)
        return http.client.HTTPConnection(host, port, timeout=self._timeout_s)


def _sentence(body: bytes) -> str:
    try:
        problem: Any = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return ""
    return str(problem.get("detail", "")) if isinstance(problem, dict) else ""
