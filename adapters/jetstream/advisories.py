"""What the broker's system account tells: whose connection has ended."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec
from msgspec import Struct

from adapters.jetstream.wire import WireClient

DISCONNECTS = "$SYS.ACCOUNT.*.DISCONNECT"
PREFIX = "host:"

_logger = logging.getLogger("hivebus.hosts")


class _Client(Struct):
    name: str = ""


class _Disconnect(Struct):
    client: _Client
    reason: str = ""


_decode = msgspec.json.Decoder(_Disconnect).decode


def connection_name(host_id: str, life: str) -> str:
    """The name of the connection of one life of a host."""
    return f"{PREFIX}{host_id}:{life}"


async def watch_disconnects(client: WireClient, on_gone: Callable[[str, str], None]) -> None:
    """Call `on_gone(host_id, life)` for each host's connection that ends. The client is one of the system account.

    It comes 2 ms after a process was killed, and not at all for one that was stopped (SIGSTOP), nor while the broker
    itself was away: the lease finds those.
    """

    def on_message(_subject: bytes, _reply: bytes, data: bytes, _headers: bytes) -> None:
        try:
            told = _decode(data)
        except msgspec.MsgspecError:
            _logger.warning("A message of the broker about a connection cannot be read.")
            return
        prefix, _, rest = told.client.name.partition(":")
        host_id, _, life = rest.partition(":")
        if prefix == PREFIX[:-1] and host_id and life:
            _logger.info("The connection of host %s ended: %s.", host_id, told.reason or "no reason given")
            on_gone(host_id, life)

    await client.listen(DISCONNECTS, on_message)
