"""The program: log, store, views, scheduler, a host and the listeners, joined."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from adapters.blobs.files import FileBlobs
from adapters.disk import FileSystem
from adapters.executors.host import Host
from adapters.jetstream.broker import Broker
from adapters.jetstream.lease import JetStreamLeases
from adapters.jetstream.log import JetStreamLog
from adapters.signing import FileSigner, Verifier
from adapters.snapshots import FileSnapshots
from adapters.sql.store import SqlStore
from adapters.sql.verify import Report
from adapters.sql.verify import verify as verify_views
from adapters.sql.views import SqlViews
from adapters.telemetry import EVENTS_DROPPED, EVENTS_PUBLISHED
from adapters.telemetry import recorded as recorded_metrics
from core.actions import registry as make_registry
from core.kernel.codec import Codec
from core.kernel.command_bus import CommandBus
from core.kernel.commit import Body, Entry
from core.kernel.errors import StartRefused
from core.kernel.ports import Lease
from core.kernel.registry import Registry
from core.kernel.subjects import CLIENT_USER
from core.services.agent_host import AgentHost
from core.services.alerts import AlertWatch
from core.services.disk import DiskGuard, Marks
from core.services.dispatch import Dispatcher, Principal
from core.services.feed import Feed
from core.services.heads import Heads
from core.services.host_door import HostDoor
from core.services.leadership import Kept, hold
from core.services.log_care import LogCare
from core.services.pace import Pace
from core.services.position_follower import PositionFollower
from core.services.positions import PositionGate
from core.services.projector import Projector
from core.services.recent import Recent
from core.services.recorder import Recorder
from core.services.relay import Relay
from core.services.scheduler import Scheduler
from core.services.trim import Trimmer
from core.services.vault import Vault
from entrypoints.agent_tasks import AgentTasks
from entrypoints.bootstrap.agents import kept
from entrypoints.bootstrap.folds import fold_version
from entrypoints.bootstrap.keeping import picture_of, trimmer_of
from entrypoints.bootstrap.links import hosted, linked
from entrypoints.bootstrap.opened import Ground, opened
from entrypoints.bootstrap.watch import watch_of
from entrypoints.calls import Calls, actions_of
from entrypoints.database import address_of, places
from entrypoints.http.door import Door, load_key
from entrypoints.http.event_stream import EventStreams
from entrypoints.http.events import event_list
from entrypoints.http.system import System
from entrypoints.http.vitals import Vitals
from entrypoints.nats.commands import Commands
from entrypoints.paths import admin_key_file, host_key_file
from entrypoints.roles import AGENTS, API, RECORDER, SCHEDULER
from entrypoints.rpc.engine import Rpc
from entrypoints.rpc.log_messages import LogMessages
from entrypoints.rpc.methods import methods
from entrypoints.rpc.notifications import Metrics, Notifications
from entrypoints.rpc.older import older_actions
from entrypoints.schemas.documents import Documents, discovery
from entrypoints.settings import Settings, load
from entrypoints.websocket.sockets import Sockets
from entrypoints.websocket.watching import Watching
from projections.catalogue import QUERIES, VIEWS
from projections.replays import pick

logger = logging.getLogger("hivebus")

# Of a busy process's time; what is left belongs to commands. Beyond the lag (in commits) nobody rests.
RECORDER_SHARE = 0.05
PROJECTOR_SHARE = 0.05
RELAY_SHARE = 0.05
LAG_MAX = 50_000
# Where the follower looks up what is recorded, it does so for the feed some fifteen times a second.
LOOK_UP_S = 0.02
# A recorder that went down gives its lease back, or loses it after 12 s.
SOLE_S = 30.0


class Program(Struct, frozen=True, kw_only=True):
    """Everything that runs in this process, joined and not yet started: what its roles say.

    `shared`: store and views lie in a database that processes of other machines reach too.
    """

    roles: frozenset[str]
    recording: Lease
    shared: bool
    registry: Registry
    bus: CommandBus
    log: JetStreamLog
    store: SqlStore
    views: SqlViews
    recorder: Recorder
    projector: Projector
    relay: Relay
    scheduler: Scheduler
    watch: AlertWatch
    care: LogCare
    heads: Heads
    trimmer: Trimmer
    follower: PositionFollower
    host: AgentHost | None
    host_door: HostDoor
    dispatcher: Dispatcher
    calls: Calls
    agent_tasks: AgentTasks
    documents: Documents
    rpc: Rpc
    feed: Feed
    streams: EventStreams
    sockets: Sockets
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
        loops: list[Coroutine[Any, Any, None]] = [
            self.disk.run(),
            self.log.watch(),
            self.care.run(self.recorder.drained, lambda: picture_of(self.bus, self.scheduler, self.recorder)),
            self.trimmer.run(),
            self.scheduler.run(),
            self.watch.run(),
            self._refusals(),
        ]
        if RECORDER in self.roles:
            loops.append(self._record())
        if API in self.roles:
            loops += [self.feed.run(), self.sockets.run()]
        if self.shared or RECORDER not in self.roles:
            loops.append(self.follower.run())
        return loops

    async def _record(self) -> None:
        """Record and project whenever the role is ours. Files belong to this machine, and so must the role."""
        within_s = None if self.shared else SOLE_S
        while True:
            try:
                await hold(self.recording, self._write, within_s=within_s)
            except TimeoutError:
                raise StartRefused(
                    "Another recorder writes the store of this broker, on another machine or in another directory.",
                    code="already_running",
                    remedy="With SQLite there is one: stop that one, or start this process there with other roles.",
                ) from None
            within_s = None

    async def _write(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.recorder.run())
            group.create_task(self.heads.run())
            group.create_task(self.projector.run())
            group.create_task(self.relay.run())

    async def _refusals(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            await self.bus.refusals.flush()


@asynccontextmanager
async def joined(
    settings: Settings, broker: Broker, version: str, halted: Callable[[], bool] = lambda: False
) -> AsyncIterator[Program]:
    """Open everything on a running broker, in the order of dependence; close it in the other order.

    The caller holds the roles' locks in the data directory. Raises Stopped when views have to be rebuilt first, and
    `halted()` while they are.
    """
    async with AsyncExitStack() as stack:
        ground = await opened(stack, settings, broker, halted)
        program = _join(settings, version, ground)
        if AGENTS in settings.role_set:
            machine = await Host.open(settings.data_dir, ground.blobs, ground.secrets)
            stack.push_async_callback(machine.close)
            host = await hosted(stack, settings, ground, machine, program)
            program = replace(program, host=host)
        await linked(stack, broker, ground.client, program)
        yield program


async def verify(root: Path, progress: Callable[[int, int], None]) -> Report:
    """Refold the store of a data directory and compare all views, beside a running program or without one."""
    codec, verifier = Codec(make_registry()), Verifier.open(root)
    return await asyncio.to_thread(verify_views, *places(load(), root), VIEWS, codec, progress, verifier)


def _join(settings: Settings, version: str, ground: Ground) -> Program:
    log, store, views, clock = ground.log, ground.store, ground.views, ground.clock
    root = settings.data_dir
    registry = make_registry(QUERIES)
    codec = Codec(registry)
    recorded, applied, recent = PositionGate(), PositionGate(), Recent()
    bus = CommandBus(
        log, registry, codec, clock, store, cache_max=settings.cache_aggregates, cache_ttl_s=settings.cache_ttl_s
    )
    scheduler = Scheduler(
        log,
        bus,
        codec,
        clock,
        ground.gateway,
        FileSnapshots(root / "scheduler.image"),
        version=fold_version(),
        lease_s=settings.lease_s,
        role=_role(ground.leases, SCHEDULER) if SCHEDULER in settings.role_set else None,
        trimmed_to=store.care.trimmed_to,
        on_folded=bus.heard if settings.beside_others else None,
        tasks_max=settings.live_tasks_max,
    )
    host_door = HostDoor(bus, registry)
    fingerprint_key = bytes.fromhex(kept(root / "fingerprint.key", lambda: secrets.token_hex(32)))
    door = Door(
        load_key(admin_key_file(root)),
        host_key=load_key(host_key_file(root)),
        hosts=settings.host_names,
    )

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
        ground.channel,
        # Never urgent: what cannot wait is dropped, and whoever misses it can read it.
        pace=Pace(clock, share=RELAY_SHARE, commands=executed, urgent=lambda: False),
        on_published=lambda count: EVENTS_PUBLISHED.add(count=count),
        on_dropped=lambda count: EVENTS_DROPPED.add(count=count),
    )
    dispatcher = Dispatcher(
        bus,
        registry,
        views,
        store,
        Vault(ground.blobs, fingerprint_key),
        ground.secrets,
        clock,
        applied,
        pick=pick,
        live_tasks=lambda: len(scheduler.fleet.tasks),
        live_tasks_max=settings.live_tasks_max,
        refuse=disk.refuse,
    )
    looked_up = bool(address_of(settings)) or RECORDER not in settings.role_set
    feed = Feed(store, codec, recorded, clock, **({"wait_s": LOOK_UP_S} if looked_up else {}))

    def recorded_here(commits: Sequence[tuple[Entry, Body]]) -> None:
        recorded_metrics.count(commits)
        relay.offer(commits)
        feed.offer(commits)

    heads = Heads(store, store.care, FileSigner.open(root), recorded, clock)
    trimmer = trimmer_of(root, ground.upkeep, store, heads, codec, registry, clock, scheduler, log, bus)
    principal = Principal(f"nats:{settings.nats_client_user or CLIENT_USER}")
    vitals = Vitals(version=version, started_ms=clock.now_ms(), slots=settings.slots)

    def not_ready() -> str | None:
        # Where roles are not shared, this process leads or nobody does.
        waits = (
            not scheduler.leading if SCHEDULER in settings.role_set and ground.leases is None else not scheduler.folding
        )
        return "No scheduler leads yet." if waits else None

    async def positions() -> tuple[int, int]:
        async with views.reader(at=None, now_ms=clock.now_ms()) as reader:
            applied_to = reader.position
        return (await store.checkpoint()).position, applied_to

    system = System(vitals, log, views, clock, recorded, applied, scheduler, door, disk, not_ready, ground.care)
    calls = Calls(
        (
            *actions_of(registry, dispatcher),
            event_list(store, codec, recorded, lambda: vitals.draining),
            *system.actions(),
        )
    )
    agent_tasks = AgentTasks(bus, dispatcher)
    # Older names are for JSON-RPC alone: elsewhere they would be a second tool for the same thing.
    named = Calls((*calls.actions.values(), *older_actions(calls, agent_tasks)))
    documents = Documents(calls, named, registry, version)
    rpc = Rpc(named, {**methods(named, version), **discovery(documents)})
    messages = LogMessages()
    logging.getLogger("hivebus").addHandler(messages)
    metrics = Metrics(system.status, views, clock)
    watching = Watching(feed, codec, Notifications(lambda: scheduler.fleet), metrics, messages)
    sockets = Sockets(rpc, feed, watching, connections_max=settings.sockets_max)
    if API in settings.role_set:
        vitals.sockets = sockets.as_document
    program = Program(
        roles=settings.role_set,
        recording=_role(ground.leases, RECORDER),
        shared=bool(address_of(settings)),
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
            on_commits=recorded_here,
            recent=recent,
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
            recent,
            pace=Pace(
                clock,
                share=PROJECTOR_SHARE,
                commands=executed,
                urgent=lambda: urgent(recorded.position - applied.position),
            ),
        ),
        relay=relay,
        scheduler=scheduler,
        watch=watch_of(settings, ground, bus, scheduler, disk, recorded, applied, vitals),
        care=ground.care,
        heads=heads,
        trimmer=trimmer,
        host=None,
        follower=PositionFollower(positions, recorded, applied, clock),
        host_door=host_door,
        dispatcher=dispatcher,
        calls=calls,
        agent_tasks=agent_tasks,
        documents=documents,
        rpc=rpc,
        feed=feed,
        streams=EventStreams(feed),
        sockets=sockets,
        commands=Commands(ground.channel, registry, dispatcher, clock, principal, version=version),
        door=door,
        system=system,
        vitals=vitals,
        blobs=ground.blobs,
        codec=codec,
        disk=disk,
        recorded=recorded,
        applied=applied,
    )
    vitals.waits = lambda: program.recorder.trouble or program.projector.trouble
    return program


def _role(leases: JetStreamLeases | None, name: str) -> Lease:
    """A lease where several processes may have a role; else the lock in the data directory is enough."""
    return Kept() if leases is None else leases.lease(name)
