"""A connection to the broker that never gives up by itself, and the one stream of the log."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import Any

from adapters.jetstream.api import (
    ELECTING,
    LEASE_ROOT,
    LEASE_STREAM,
    NOT_ENABLED,
    STREAM,
    STREAM_API,
    STREAM_NOT_FOUND,
    TOO_FEW_SERVERS,
    ApiError,
    StreamInfo,
    encode,
    stream_info_of,
)
from adapters.jetstream.broker import Access
from adapters.jetstream.login import credentials_file, refusal, tls_context
from adapters.jetstream.requests import NoAnswer, NoResponders, Requests
from adapters.jetstream.wire import WireClient
from core.kernel.commit import COMMIT_MAX_BYTES, SUBJECT_ROOT
from core.kernel.errors import StartRefused

RECONNECT_WAIT_S = 0.1
CONNECT_DEADLINE_S = 10.0
ASK_TRY_S = 5.0
CLUSTER_REPLICAS = 3
# Atomic batches came with 2.12.
SERVER_VERSION_MIN = [2, 12]
HEADERS_BYTES = 1024
LEASES_BYTES_MAX = 4 * 1024 * 1024
PING_INTERVAL_S = 5
ERRORS_KEPT_MAX = 4
SEND_BUFFER_BYTES = 64 * 1024 * 1024

_logger = logging.getLogger("hivebus.broker")


async def connect(
    url: str, *, user: str, password: str, name: str, deadline_s: float = CONNECT_DEADLINE_S
) -> WireClient:
    """`connect_to` a broker with a user and a password."""
    return await connect_to(Access(urls=(url,), user=user, password=password), name=name, deadline_s=deadline_s)


async def connect_to(
    access: Access, *, name: str, inbox: str = "_INBOX", deadline_s: float = CONNECT_DEADLINE_S
) -> WireClient:
    """A client that reconnects for ever, ten times a second, to any of the addresses. Answers come under `inbox`.

    Raises StartRefused if the first connection fails: at once where a repeat would not help, else after `deadline_s`.
    """
    context, credentials = tls_context(access), credentials_file(access)
    client = WireClient(tls_only=context is not None)
    voice = _Voice(client, access)
    try:
        async with asyncio.timeout(deadline_s):
            await client.connect(
                list(access.urls),
                user=access.user or None,
                password=access.password or None,
                user_credentials=credentials,
                tls=context,
                name=name,
                inbox_prefix=inbox,
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
            f"The broker at {access.shown} accepted no connection within {deadline_s:g} s: {'; '.join(voice.errors)}.",
            remedy="Check that it runs, that the address is right and that the password belongs to it.",
        ) from None
    except StartRefused:
        await client.close()
        raise
    voice.refusals = None
    client.connected.set()
    return client


class _Voice:
    """What a connection says in the log, each outage once: a reconnect tries ten times a second."""

    def __init__(self, client: WireClient, access: Access) -> None:
        self._client = client
        self._access = access
        self.errors: list[str] = []
        # Answers that no repeat will change, counted until the first connection stands.
        self.refusals: int | None = 0

    async def on_error(self, error: Exception) -> None:
        if self.refusals is not None and (refused := refusal(error, self._access)):
            self.refusals += 1
            # One server of several may be set up wrongly: start with the others.
            if self.refusals >= len(self._access.urls):
                raise refused
        text = f"{type(error).__name__}: {error}"
        if text in self.errors:
            _logger.debug("Broker connection: %s", text)
            return
        self.errors = [*self.errors[1 - ERRORS_KEPT_MAX :], text]
        _logger.warning("Broker connection: %s", text)

    async def on_disconnected(self) -> None:
        self._client.connected.clear()
        self._client.forget_unsent()
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


def _lease_config(replicas: int) -> dict[str, Any]:
    """A key-value bucket of one value for a key, each with a time to live; a holder deletes its own message."""
    return {
        "name": LEASE_STREAM,
        "subjects": [f"{LEASE_ROOT}>"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "max_bytes": LEASES_BYTES_MAX,
        "num_replicas": replicas,
        "deny_delete": False,
        "allow_direct": True,
        "allow_msg_ttl": True,
    }


async def ensure_stream(client: WireClient, *, replicas: int = 1, bytes_max: int = -1) -> int:
    """Create the stream of the log, or verify the one that is there; a new `bytes_max` is applied. Its replicas.

    `replicas` 0 means 3 in a cluster and 1 elsewhere. Raises StartRefused for a broker that cannot hold the log, and
    for a stream that was configured otherwise: guarantees of the log rest on these settings.
    """
    _refuse_unfit(client)
    replicas = replicas or (CLUSTER_REPLICAS if client.server.get("cluster") else 1)
    await _ensured(client, _stream_config(replicas, bytes_max))
    return replicas


async def ensure_leases(client: WireClient, *, replicas: int) -> None:
    """As `ensure_stream`, for the bucket of leases."""
    await _ensured(client, _lease_config(replicas))


async def _ensured(client: WireClient, wanted: dict[str, Any]) -> None:
    name, replicas, bytes_max = wanted["name"], wanted["num_replicas"], wanted["max_bytes"]
    requests = Requests(client)
    await requests.start()
    try:
        info = await _ask(requests, f"{STREAM_API}.INFO.{name}", b"")
        if info.error is not None and info.error.err_code == STREAM_NOT_FOUND:
            info = await _ask(requests, f"{STREAM_API}.CREATE.{name}", encode(wanted))
        elif info.error is None and info.config.get("max_bytes") != bytes_max:
            info = await _ask(requests, f"{STREAM_API}.UPDATE.{name}", encode(info.config | {"max_bytes": bytes_max}))
    finally:
        requests.close()
    if info.error is not None:
        raise _stream_refusal(name, info.error, replicas)
    wrong = sorted(key for key, value in wanted.items() if info.config.get(key) != value)
    if wrong == ["num_replicas"]:
        raise StartRefused(
            f"The stream {name} has {info.config.get('num_replicas')} copies, and {replicas} are wanted.",
            remedy=f"Set HIVEBUS_NATS_REPLICAS, or change the stream: nats stream edit {name} --replicas={replicas}",
        )
    if wrong:
        raise StartRefused(
            f"The stream {name} differs from what Hivebus needs in: {', '.join(wrong)}.",
            remedy="Use another account or data directory, or put these settings right with the nats tool.",
        )


def _refuse_unfit(client: WireClient) -> None:
    version = str(client.server.get("version", ""))
    if [int(part) for part in re.findall(r"\d+", version)[:2]] < SERVER_VERSION_MIN:
        raise StartRefused(
            f"The broker is nats-server {version}; the log needs 2.12 or newer.",
            remedy="Bring all servers of the cluster to a newer version.",
        )
    if client.max_payload < COMMIT_MAX_BYTES + HEADERS_BYTES:
        raise StartRefused(
            f"The broker takes messages of {client.max_payload} bytes; a commit has up to {COMMIT_MAX_BYTES}.",
            remedy="Raise max_payload in the server's configuration; its default, 1MB, is enough.",
        )


def _stream_refusal(name: str, error: ApiError, replicas: int) -> StartRefused:
    if error.err_code in NOT_ENABLED:
        return _no_jetstream()
    if error.err_code in TOO_FEW_SERVERS:
        return StartRefused(
            f"The broker cannot keep {replicas} copies of the stream {name}: {error.description} ({error.err_code}).",
            remedy="Bring more servers of the cluster up, or set HIVEBUS_NATS_REPLICAS to what there are.",
        )
    return StartRefused(
        f"The broker refused the stream {name}: {error.description} ({error.err_code}).",
        remedy="Check that JetStream is enabled for the account and that its limits leave room.",
    )


def _no_jetstream() -> StartRefused:
    return StartRefused(
        "JetStream is not enabled for the account of this user.",
        remedy="Add `jetstream { store_dir: ... }` to the configuration, and `jetstream: enabled` to the account.",
    )


async def _ask(requests: Requests, subject: str, payload: bytes) -> StreamInfo:
    """The answer; a cluster that is electing a leader gets the time for it."""
    deadline = time.monotonic() + CONNECT_DEADLINE_S
    said = "no answer"
    while time.monotonic() < deadline:
        try:
            info = stream_info_of((await requests.one(subject, payload, timeout_s=ASK_TRY_S)).data)
        except NoResponders:
            raise _no_jetstream() from None
        except NoAnswer:
            continue
        if info.error is None or info.error.err_code not in ELECTING:
            return info
        said = f"{info.error.description} ({info.error.err_code})"
        await asyncio.sleep(RECONNECT_WAIT_S)
    raise StartRefused(
        f"The broker did not answer a JetStream request within {CONNECT_DEADLINE_S:g} s: {said}.",
        remedy="Check that most servers of the cluster run and that this user may use $JS.API.>; their logs say more.",
    )
