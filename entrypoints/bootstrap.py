"""The composition root: the only place that joins ports to adapters."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct
from sanic import Sanic

import core.scheduling.fleet
import core.task.events
from adapters.blobs.files import FileBlobs
from adapters.clock import SystemClock
from adapters.disk import FileSystem
from adapters.executors.command import CommandExecutor
from adapters.executors.host import Host
from adapters.executors.python import PythonExecutor
from adapters.jetstream.broker import Broker
from adapters.jetstream.channel import ClientChannel
from adapters.jetstream.connection import connect_to, ensure_stream
from adapters.jetstream.log import JetStreamLog
from adapters.memory.hosts import LocalControl, LocalGateway
from adapters.secrets import FileSecrets
from adapters.snapshots import FileSnapshots
from adapters.sql.store import SqlStore
from adapters.sql.verify import Report
from adapters.sql.verify import verify as verify_views
from adapters.sql.views import SqlViews
from adapters.telemetry import EVENTS_DROPPED, EVENTS_PUBLISHED
from core.actions import registry as make_registry
from core.agent import SpawnAgent
from core.kernel.codec import Codec
from core.kernel.command_bus import Caller, CommandBus
from core.kernel.ids import derive, from_key, uuid7
from core.kernel.registry import Registry
from core.kernel.subjects import CLIENT_USER
from core.services.agent_host import AgentHost
from core.services.disk import DiskGuard, Marks
from core.services.dispatch import Dispatcher, Principal
from core.services.log_care import compare, refuse_unless_equal
from core.services.pace import Pace
from core.services.positions import PositionGate
from core.services.projector import Projector
from core.services.recorder import Recorder
from core.services.relay import Relay
from core.services.scheduler import Scheduler
from core.services.vault import Vault
from entrypoints.database import places
from entrypoints.http.aliases import add_aliases
from entrypoints.http.blobs import add_blobs
from entrypoints.http.door import Door, load_key
from entrypoints.http.events import add_events
from entrypoints.http.listener import make_app
from entrypoints.http.pages import add_pages
from entrypoints.http.rest import add_queries, add_routes
from entrypoints.http.system import System, Vitals
from entrypoints.nats.commands import Commands
from entrypoints.paths import admin_key_file, write_private
from entrypoints.settings import Settings, load
from entrypoints.views import renew as renew_views
from projections.catalogue import QUERIES, VIEWS

logger = logging.getLogger("hivebus")

SYSTEM = "system:setup"

# Of a busy process's time; what is left belongs to commands. Beyond the lag (in commits) nobody rests.
RECORDER_SHARE = 0.06
PROJECTOR_SHARE = 0.08
RELAY_SHARE = 0.05
LAG_MAX = 50_000


class Program(Struct, frozen=True, kw_only=True):
    """Everything that runs, joined and not yet started."""

    registry: Registry
    bus: CommandBus
    log: JetStreamLog
    store: SqlStore
    views: SqlViews
    recorder: Recorder
    projector: Projector
    relay: Relay
    scheduler: Scheduler
    host: AgentHost
    dispatcher: Dispatcher
    commands: Commands
    door: Door
    system: System
    vitals: Vitals
    blobs: FileBlobs
    codec: Codec
    disk: DiskGuard
    recorded: PositionGate
    applied: PositionGate

    def services(self) -> list[Coroutine[Any, Any, None]]:
        """The loops. One that ends brings the program down."""
        return [
            self.disk.run(),
            self.log.watch(),
            self.recorder.run(),
            self.projector.run(),
            self.relay.run(),
            self.scheduler.run(),
            self._refusals(),
        ]

    async def _refusals(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            await self.bus.refusals.flush()

    async def spawn_first_agents(self, settings: Settings) -> None:
        """On a fresh log: one agent of each built-in type. Whoever retires one keeps it retired."""
        shell_slots = settings.shell_slots or max(2, os.cpu_count() or 2)
        for kind, slots in (("shell", shell_slots), ("python", settings.python_slots)):
            command_id = from_key(SYSTEM, f"first agent {kind}")
            if not await self.bus.position_of("agent", str(derive(command_id, "agent"))):
                command = SpawnAgent(type=kind, name=kind, slots=slots)
                await self.bus.execute(command, Caller(actor=SYSTEM, command_id=command_id))

    def api_app(self) -> Sanic[Any, Any]:
        """The REST API."""
        app = make_app("hivebus-api", first=True)
        self._add_api(app)
        return app

    def ui_app(self) -> Sanic[Any, Any]:
        """The page, and the API beside it so that the page has one origin."""
        app = make_app("hivebus-ui", first=False)
        self._add_api(app)
        add_pages(app)
        return app

    def tools_app(self) -> Sanic[Any, Any]:
        """For tools that look and never touch: every query, as of any position, and the events to replay."""
        app = make_app("hivebus-tools", first=False)
        add_queries(app, self.registry, self.dispatcher, self.door)
        add_events(app, self.store, self.codec, self.recorded, self.door)
        self.system.add_health(app)
        return app

    def metrics_app(self) -> Sanic[Any, Any]:
        """Prometheus metrics and health, nothing else."""
        app = make_app("hivebus-metrics", first=False)
        self.system.add_health(app)
        self.system.add_metrics(app)
        return app

    def _add_api(self, app: Sanic[Any, Any]) -> None:
        add_routes(app, self.registry, self.dispatcher, self.door)
        add_aliases(app, self.bus, self.dispatcher, self.door)
        add_events(app, self.store, self.codec, self.recorded, self.door)
        add_blobs(app, self.blobs, self.door, self.disk.refuse_growth)
        self.system.add_health(app)
        self.system.add_api(app)


@asynccontextmanager
async def joined(
    settings: Settings, broker: Broker, version: str, halted: Callable[[], bool] = lambda: False
) -> AsyncIterator[Program]:
    """Open everything on a running broker, in the order of dependence; close it in the other order.

    Raises Stopped when views have to be rebuilt first, and `halted()` while they are.
    """
    root = settings.data_dir
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        client = await connect_to(broker.access, name="hivebus")
        stack.push_async_callback(client.close)
        replicas = await ensure_stream(client, replicas=broker.replicas)
        # Brokers that copy the log group its commits themselves.
        grouped = settings.profile == "durable" and replicas == 1
        log = await JetStreamLog.open(client, replicas=replicas, grouped=grouped)
        clients = await connect_to(broker.access, name="hivebus-clients")
        stack.push_async_callback(clients.close)
        stack.push_async_callback(log.close)
        recorded_in, shown_in = places(settings, root)
        store = await SqlStore.open(recorded_in, readers=settings.readers)
        stack.push_async_callback(store.close)
        refuse_unless_equal(await compare(log, store))
        if isinstance(shown_in, Path) and (await store.checkpoint()).position:
            await asyncio.to_thread(renew_views, root, halted)
        views = await SqlViews.open(shown_in, VIEWS, readers=settings.readers)
        stack.push_async_callback(views.close)
        blobs, secret_files = FileBlobs(root), FileSecrets(root)
        machine = await Host.open(root, blobs, secret_files)
        stack.push_async_callback(machine.close)
        channel = ClientChannel(clients)
        yield _join(settings, version, clock, log, channel, store, views, blobs, secret_files, machine)


async def verify(root: Path, progress: Callable[[int, int], None]) -> Report:
    """Refold the store of a data directory and compare all views, beside a running program or without one."""
    return await asyncio.to_thread(verify_views, *places(load(), root), VIEWS, Codec(make_registry()), progress)


def _join(
    settings: Settings,
    version: str,
    clock: SystemClock,
    log: JetStreamLog,
    channel: ClientChannel,
    store: SqlStore,
    views: SqlViews,
    blobs: FileBlobs,
    secret_files: FileSecrets,
    machine: Host,
) -> Program:
    root = settings.data_dir
    registry = make_registry(QUERIES)
    codec = Codec(registry)
    recorded, applied = PositionGate(), PositionGate()
    bus = CommandBus(
        log, registry, codec, clock, store, cache_max=settings.cache_aggregates, cache_ttl_s=settings.cache_ttl_s
    )
    gateway = LocalGateway()
    scheduler = Scheduler(
        log,
        bus,
        codec,
        clock,
        gateway,
        FileSnapshots(root / "scheduler.image"),
        version=_fold_version(),
        lease_s=settings.lease_s,
    )
    host_id = _kept(root / "host.id", lambda: str(uuid7()))
    host = AgentHost(
        host_id,
        socket.gethostname(),
        {executor.name: executor for executor in (CommandExecutor(machine), PythonExecutor(machine))},
        LocalControl(bus, scheduler, f"host:{host_id}"),
        clock,
        slots=settings.slots,
        beat_s=settings.beat_s,
        self_stop_s=settings.self_stop_s,
    )
    gateway.add(host)
    fingerprint_key = bytes.fromhex(_kept(root / "fingerprint.key", lambda: secrets.token_hex(32)))
    door = Door(load_key(admin_key_file(root)), hosts=_hosts(settings.allowed_hosts))

    def executed() -> int:
        return bus.executed

    def urgent(lag: int) -> bool:
        return applied.waiting > 0 or lag > LAG_MAX

    def exhausted(now: bool) -> None:
        # A broker elsewhere has a disk of its own.
        log.refusal = disk.full if now and not settings.nats_url else None

    marks = Marks(
        warn_percent=settings.disk_warn_percent,
        full_percent=settings.disk_full_percent,
        enough_bytes=int(settings.disk_enough_gb * 1e9),
    )
    disk = DiskGuard(FileSystem(root), marks, clock, exhausted)
    relay = Relay(
        channel,
        # Never urgent: what cannot wait is dropped, and whoever misses it can read it.
        pace=Pace(clock, share=RELAY_SHARE, commands=executed, urgent=lambda: False),
        on_published=EVENTS_PUBLISHED.inc,
        on_dropped=EVENTS_DROPPED.inc,
    )
    dispatcher = Dispatcher(
        bus,
        registry,
        views,
        store,
        Vault(blobs, fingerprint_key),
        secret_files,
        clock,
        applied,
        live_tasks=lambda: len(scheduler.fleet.tasks),
        live_tasks_max=settings.live_tasks_max,
        refuse=disk.refuse,
    )
    client = Principal(f"nats:{settings.nats_client_user or CLIENT_USER}")
    vitals = Vitals(version=version, started_ms=clock.now_ms(), slots=settings.slots)
    program = Program(
        registry=registry,
        bus=bus,
        log=log,
        store=store,
        views=views,
        recorder=Recorder(
            log,
            store,
            codec,
            clock,
            on_recorded=recorded.advance,
            on_commits=relay.offer,
            pace=Pace(
                clock,
                share=RECORDER_SHARE,
                commands=executed,
                urgent=lambda: urgent(scheduler.fleet.position - recorded.position),
            ),
        ),
        projector=Projector(
            store,
            views,
            codec,
            recorded,
            applied.advance,
            pace=Pace(
                clock,
                share=PROJECTOR_SHARE,
                commands=executed,
                urgent=lambda: urgent(recorded.position - applied.position),
            ),
        ),
        relay=relay,
        scheduler=scheduler,
        host=host,
        dispatcher=dispatcher,
        commands=Commands(channel, registry, dispatcher, clock, client, version=version),
        door=door,
        system=System(vitals, log, views, clock, recorded, applied, scheduler, door, disk),
        vitals=vitals,
        blobs=blobs,
        codec=codec,
        disk=disk,
        recorded=recorded,
        applied=applied,
    )
    vitals.waits = lambda: program.recorder.trouble or program.projector.trouble
    return program


def _hosts(text: str) -> frozenset[str]:
    return frozenset(name.strip().lower() for name in text.split(",") if name.strip())


def _kept(path: Path, make: Callable[[], str]) -> str:
    """The content of a small private file, made at the first start."""
    if path.exists():
        return path.read_text().strip()
    text = make()
    write_private(path, text + "\n")
    return text


def _fold_version() -> str:
    """Changes with the code that folds the fleet: an image of another version is not read."""
    source = "".join(inspect.getsource(module) for module in (core.scheduling.fleet, core.task.events))
    return hashlib.sha256(source.encode()).hexdigest()[:16]
