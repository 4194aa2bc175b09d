"""What takes care of the log: compared with the store before anything is appended, and trimmed."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from adapters.backup_note import backed_up
from adapters.jetstream.broker import Broker
from adapters.jetstream.connection import ensure_stream
from adapters.jetstream.log import JetStreamLog
from adapters.jetstream.upkeep import JetStreamUpkeep
from adapters.jetstream.wire import WireClient
from adapters.sql.store import SqlStore
from core.kernel.codec import Codec
from core.kernel.command_bus import CommandBus
from core.kernel.ports import Clock
from core.kernel.registry import Registry
from core.services.heads import Heads
from core.services.log_care import LogCare, Picture
from core.services.recorder import Recorder
from core.services.scheduler import Scheduler
from core.services.trim import Trimmer


async def compared(
    stack: AsyncExitStack,
    client: WireClient,
    broker: Broker,
    replicas: int,
    log: JetStreamLog,
    store: SqlStore,
    clock: Clock,
) -> tuple[JetStreamUpkeep, LogCare]:
    """The care of a log that is whole now: the gate is open. Raises StartRefused for two histories."""
    upkeep = await JetStreamUpkeep.open(
        client, lambda: ensure_stream(client, replicas=broker.replicas), replicas=replicas
    )
    stack.callback(upkeep.close)
    care = LogCare(upkeep, log.gate, store, store.care, clock)
    await care.start()
    return upkeep, care


def picture_of(bus: CommandBus, scheduler: Scheduler, recorder: Recorder) -> Picture:
    """What this process knows of the log."""
    return Picture(max(bus.newest, scheduler.fleet.position, recorder.position), scheduler.last)


def trimmer_of(
    root: Path,
    upkeep: JetStreamUpkeep,
    store: SqlStore,
    heads: Heads,
    codec: Codec,
    registry: Registry,
    clock: Clock,
    scheduler: Scheduler,
    log: JetStreamLog,
    bus: CommandBus,
) -> Trimmer:
    """What trims the log of this process."""
    return Trimmer(
        upkeep,
        store,
        store.care,
        heads,
        codec,
        registry,
        clock,
        folded=lambda: scheduler.fleet.position,
        budgets=lambda: scheduler.fleet.budgets.known_to(scheduler.fleet.position),
        backed_up=lambda: backed_up(root),
        whole=log.gate.opened.is_set,
        on_purged=bus.forget,
    )
