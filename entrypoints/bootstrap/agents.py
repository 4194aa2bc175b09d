"""Agent hosts: executors, workspaces, and a way to the bus. No store, no listeners, and none of their imports."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from adapters.blobs.http import HttpBlobs
from adapters.clock import SystemClock
from adapters.executors.command import CommandExecutor
from adapters.executors.host import Host
from adapters.executors.python import PythonExecutor
from adapters.jetstream.advisories import connection_name
from adapters.jetstream.broker import Access
from adapters.jetstream.broker_files import Passwords
from adapters.jetstream.connection import connect_to
from adapters.jetstream.hosts import NatsControl, listen
from adapters.jetstream.server import EmbeddedServer
from adapters.secrets import FileSecrets
from core.actions import registry as make_registry
from core.host import FirstAgent
from core.kernel.errors import StartRefused
from core.kernel.ids import uuid7
from core.kernel.ports import Clock
from core.kernel.subjects import HOST_INBOX
from core.services.agent_host import AgentHost
from core.services.link import Control
from entrypoints.broker import chosen_broker
from entrypoints.paths import connection_file, host_key_file, write_private
from entrypoints.settings import Settings

URL_VARIABLE = "HIVEBUS_URL"
KEY_VARIABLE = "HIVEBUS_KEY"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class Place(Struct, frozen=True):
    """Where an agent host belongs: the broker, the server that keeps blobs, and its own directory."""

    broker: Access
    blobs: HttpBlobs
    root: Path


class Identity(Struct, frozen=True):
    """Who a host is: its id is kept, its name is for people, its life is this process's."""

    id: str
    name: str
    life: str

    @classmethod
    def of(cls, root: Path, settings: Settings, clock: Clock) -> Identity:
        """The identity that is kept in a directory, made at the first start."""
        return cls(kept(root / "host.id", lambda: str(uuid7())), host_name(settings), str(uuid7(clock.now_ms())))

    @property
    def connection(self) -> str:
        """The name of its connection, by which the broker tells its end."""
        return connection_name(self.id, self.life)


def host_name(settings: Settings) -> str:
    """HIVEBUS_HOST_NAME, else the name of this machine."""
    name = settings.host_name or socket.gethostname()
    if not _NAME.match(name):
        raise StartRefused(
            f"{name!r} cannot name an agent host: 1 to 64 letters, digits, dots, hyphens and underscores.",
            remedy="Set HIVEBUS_HOST_NAME.",
        )
    return name


def make_host(
    settings: Settings, identity: Identity, machine: Host, control: Control, clock: Clock, *, suffix: str = ""
) -> AgentHost:
    """The host, with the agents that it brings along: one of each built-in type."""
    shell_slots = settings.shell_slots or max(2, os.cpu_count() or 2)
    agents = (("shell", shell_slots), ("python", settings.python_slots))
    return AgentHost(
        identity.id,
        identity.name,
        {executor.name: executor for executor in (CommandExecutor(machine), PythonExecutor(machine))},
        control,
        clock,
        slots=settings.slots,
        beat_s=settings.beat_s,
        self_stop_s=settings.self_stop_s,
        agents=[FirstAgent(kind, f"{kind}{suffix}", slots) for kind, slots in agents],
        life=identity.life,
    )


@asynccontextmanager
async def joined(settings: Settings, place: Place) -> AsyncIterator[AgentHost]:
    """A host elsewhere, connected and not yet alive."""
    clock = SystemClock()
    identity = Identity.of(place.root, settings, clock)
    async with AsyncExitStack() as stack:
        client = await connect_to(place.broker, name=identity.connection, inbox=HOST_INBOX)
        stack.push_async_callback(client.close)
        control = NatsControl(client, make_registry(), identity.id)
        await control.start()
        stack.callback(control.close)
        machine = await Host.open(place.root, place.blobs, FileSecrets(place.root), hidden=settings.data_dir)
        stack.push_async_callback(machine.close)
        host = make_host(settings, identity, machine, control, clock, suffix=f"@{identity.name}")
        await listen(client, host)
        yield host


def host_root(settings: Settings) -> Path:
    """The directory of this machine's host of that name: workspaces, secrets, host.id."""
    return settings.data_dir / "hosts" / host_name(settings)


def place_of(settings: Settings) -> Place:
    """From the settings, or from what a server on this machine left in the data directory. Raises StartRefused."""
    root = host_root(settings)
    url, key = os.environ.get(URL_VARIABLE, ""), os.environ.get(KEY_VARIABLE, "")
    if settings.nats_url:
        if not (url and key):
            raise StartRefused(
                f"An agent host keeps large results with the server, and {URL_VARIABLE} or {KEY_VARIABLE} is not set.",
                remedy=f"Set {URL_VARIABLE} to the API's address and {KEY_VARIABLE} to the content of host.key in the "
                "server's data directory.",
            )
        return Place(chosen_broker(settings).access, HttpBlobs(url, key), root)
    here = _left_by_server(settings.data_dir)
    broker = Access(urls=(here.nats_url,), user=EmbeddedServer.hosts_user, password=here.password)
    return Place(broker, HttpBlobs(url or here.url, key or here.key), root)


class _Server(Struct):
    url: str
    nats_url: str
    password: str = ""
    key: str = ""


def _left_by_server(root: Path) -> _Server:
    """What a running server with an embedded broker wrote down for processes of the same user."""
    try:
        server = msgspec.json.decode(connection_file(root).read_bytes(), type=_Server)
        passwords: Any = msgspec.json.decode((root / "broker" / "passwords.json").read_bytes(), type=Passwords)
        server.password, server.key = passwords.hosts, host_key_file(root).read_text().strip()
    except (OSError, msgspec.MsgspecError):
        raise StartRefused(
            f"No server with a broker of its own runs with the data directory {root}.",
            remedy="Start it (hivebus up), name its directory (HIVEBUS_DATA_DIR), or name a broker elsewhere "
            f"(HIVEBUS_NATS_URL, {URL_VARIABLE}, {KEY_VARIABLE}): an embedded broker listens on loopback only.",
        ) from None
    return server


def kept(path: Path, make: Callable[[], str]) -> str:
    """The content of a small private file, made at the first start."""
    if path.exists():
        return path.read_text().strip()
    text = make()
    write_private(path, text + "\n")
    return text
