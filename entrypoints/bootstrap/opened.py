"""What the program stands on: connections, log, store, views and files, opened once and closed in the other order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from msgspec import Struct

from adapters.blobs.files import FileBlobs
from adapters.clock import SystemClock
from adapters.jetstream.broker import Broker
from adapters.jetstream.channel import ClientChannel
from adapters.jetstream.connection import connect_to, ensure_stream
from adapters.jetstream.hosts import NatsGateway
from adapters.jetstream.lease import JetStreamLeases
from adapters.jetstream.log import JetStreamLog
from adapters.jetstream.upkeep import JetStreamUpkeep
from adapters.jetstream.wire import WireClient
from adapters.memory.hosts import LocalGateway
from adapters.secrets import FileSecrets
from adapters.sql.store import SqlStore
from adapters.sql.views import SqlViews
from core.services.log_care import LogCare
from entrypoints.bootstrap.agents import Identity
from entrypoints.bootstrap.keeping import compared
from entrypoints.database import places
from entrypoints.settings import Settings
from entrypoints.views import renew as renew_views
from projections.catalogue import VIEWS


class Ground(Struct, frozen=True, kw_only=True):
    """Everything that is open. `leases` where several processes may have a role: on a broker of its own."""

    clock: SystemClock
    identity: Identity
    client: WireClient
    channel: ClientChannel
    log: JetStreamLog
    upkeep: JetStreamUpkeep
    care: LogCare
    store: SqlStore
    views: SqlViews
    blobs: FileBlobs
    secrets: FileSecrets
    leases: JetStreamLeases | None
    gateway: LocalGateway


async def opened(stack: AsyncExitStack, settings: Settings, broker: Broker, halted: Callable[[], bool]) -> Ground:
    """Open it in the order of dependence; log and store are compared before anything may be appended."""
    root, clock = settings.data_dir, SystemClock()
    identity = Identity.of(root, settings, clock)
    client = await connect_to(broker.access, name=identity.connection)
    stack.push_async_callback(client.close)
    replicas = await ensure_stream(client, replicas=broker.replicas)
    # Brokers that copy the log group its commits themselves.
    grouped = settings.profile == "durable" and replicas == 1
    log = await JetStreamLog.open(client, replicas=replicas, grouped=grouped, guarded=True)
    clients = await connect_to(broker.access, name="hivebus-clients")
    stack.push_async_callback(clients.close)
    stack.push_async_callback(log.close)
    recorded_in, shown_in = places(settings, root)
    store = await SqlStore.open(recorded_in, readers=settings.readers)
    stack.push_async_callback(store.close)
    upkeep, care = await compared(stack, client, broker, replicas, log, store, clock)
    if isinstance(shown_in, Path) and (await store.checkpoint()).position:
        await asyncio.to_thread(renew_views, root, halted)
    views = await SqlViews.open(shown_in, VIEWS, readers=settings.readers)
    stack.push_async_callback(views.close)
    leases = await JetStreamLeases.open(client, replicas=replicas) if settings.nats_url else None
    if leases is not None:
        stack.callback(leases.close)
    return Ground(
        clock=clock,
        identity=identity,
        client=client,
        channel=ClientChannel(clients),
        log=log,
        upkeep=upkeep,
        care=care,
        store=store,
        views=views,
        blobs=FileBlobs(root),
        secrets=FileSecrets(root),
        leases=leases,
        gateway=LocalGateway(beyond=NatsGateway(client)),
    )
