"""A connection to the broker that never gives up by itself, and the one stream of the log."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from adapters.jetstream.api import (
    STREAM,
    STREAM_CREATE,
    STREAM_INFO,
    STREAM_NOT_FOUND,
    STREAM_UPDATE,
    StreamInfo,
    encode,
    stream_info_of,
)
from adapters.jetstream.requests import NoAnswer, Requests
from adapters.jetstream.wire import WireClient
from core.kernel.commit import SUBJECT_ROOT
from core.kernel.errors import StartRefused

RECONNECT_WAIT_S = 0.1
CONNECT_DEADLINE_S = 10.0
PING_INTERVAL_S = 5
ERRORS_KEPT_MAX = 4
SEND_BUFFER_BYTES = 64 * 1024 * 1024

_logger = logging.getLogger("hivebus.broker")


async def connect(
    url: str, *, user: str, password: str, name: str, deadline_s: float = CONNECT_DEADLINE_S
) -> WireClient:
    """A client that reconnects for ever, ten times a second. Raises StartRefused if the first connection fails."""
    client = WireClient()
    voice = _Voice(client)
    try:
        async with asyncio.timeout(deadline_s):
            await client.connect(
                url,
                user=user,
                password=password,
                name=name,
                max_reconnect_attempts=-1,
                reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # annotated int, used as seconds
                ping_interval=PING_INTERVAL_S,
                pending_size=SEND_BUFFER_BYTES,
                error_cb=voice.on_error,
                disconnected_cb=voice.on_disconnected,
                reconnected_cb=voice.on_reconnected,
                closed_cb=voice.on_closed,
            )
    except TimeoutError:
        await client.close()
        raise StartRefused(
            f"The broker at {url} accepted no connection within {deadline_s:g} s: {'; '.join(voice.errors)}.",
            remedy="Check that it runs, that the address is right and that the password belongs to it.",
        ) from None
    client.connected.set()
    return client


class _Voice:
    """What a connection says in the log, each outage once: a reconnect tries ten times a second."""

    def __init__(self, client: WireClient) -> None:
        self._client = client
        self.errors: list[str] = []

    async def on_error(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        if text in self.errors:
            _logger.debug("Broker connection: %s", text)
            return
        self.errors = [*self.errors[1 - ERRORS_KEPT_MAX :], text]
        _logger.warning("Broker connection: %s", text)

    async def on_disconnected(self) -> None:
        self._client.connected.clear()
        if not self._client.is_closed:
            _logger.warning("Disconnected from the broker.")
        for tell in tuple(self._client.on_lost):
            tell()

    async def on_reconnected(self) -> None:
        self.errors = []
        self._client.connected.set()
        # A reconnect ends with a PONG: that is an answer, too.
        self._client.heard_at = time.monotonic()
        _logger.warning("Connected to the broker again.")
        for tell in tuple(self._client.on_back):
            tell()

    async def on_closed(self) -> None:
        _logger.info("The connection to the broker is closed.")


def _stream_config(replicas: int, bytes_max: int) -> dict[str, Any]:
    return {
        "name": STREAM,
        "subjects": [f"{SUBJECT_ROOT}>"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_age": 0,
        "max_bytes": bytes_max,
        "num_replicas": replicas,
        # No message carries a Nats-Msg-Id, so the window holds nothing; 0 would mean two minutes.
        "duplicate_window": 100_000_000,
        "deny_delete": True,
        "deny_purge": False,
        "allow_direct": True,
        "allow_atomic": True,
    }


async def ensure_stream(client: WireClient, *, replicas: int = 1, bytes_max: int = -1) -> None:
    """Create the stream of the log, or verify the one that is there; a new `bytes_max` is applied.

    Raises StartRefused for a stream that was configured otherwise: guarantees of the log rest on these settings.
    """
    wanted = _stream_config(replicas, bytes_max)
    requests = Requests(client)
    await requests.start()
    try:
        info = await _ask(requests, STREAM_INFO, b"")
        if info.error is not None and info.error.err_code == STREAM_NOT_FOUND:
            info = await _ask(requests, STREAM_CREATE, encode(wanted))
        elif info.error is None and info.config.get("max_bytes") != bytes_max:
            info = await _ask(requests, STREAM_UPDATE, encode(info.config | {"max_bytes": bytes_max}))
    finally:
        requests.close()
    if info.error is not None:
        raise StartRefused(
            f"The broker refused the stream {STREAM}: {info.error.description} ({info.error.err_code}).",
            remedy="Check that JetStream is enabled for the account and that its limits leave room.",
        )
    wrong = sorted(key for key, value in wanted.items() if info.config.get(key) != value)
    if wrong:
        raise StartRefused(
            f"The stream {STREAM} differs from what the log needs in: {', '.join(wrong)}.",
            remedy="Use another account or data directory, or put these settings right with the nats tool.",
        )


async def _ask(requests: Requests, subject: str, payload: bytes) -> StreamInfo:
    try:
        reply = await requests.one(subject, payload, timeout_s=CONNECT_DEADLINE_S)
    except NoAnswer:
        raise StartRefused(
            "The broker did not answer a JetStream request.",
            remedy="Check that JetStream is enabled for the account of this user; the broker's log says more.",
        ) from None
    return stream_info_of(reply.data)
