"""What log and store of a stopped program hold, side by side."""

from __future__ import annotations

from contextlib import AsyncExitStack

from adapters.jetstream.broker import Broker
from adapters.jetstream.connection import connect_to
from adapters.jetstream.upkeep import JetStreamUpkeep
from adapters.sql.store import SqlStore
from core.services.comparison import ComparisonDocument, as_document, compare
from entrypoints.database import places
from entrypoints.settings import Settings

BROKER_STOP_S = 3.0


async def diverge(settings: Settings, broker: Broker) -> ComparisonDocument:
    """Compare log and store of a stopped program: its broker is started for the look. It changes nothing."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(broker.stop, grace_s=BROKER_STOP_S)
        await broker.start()
        client = await connect_to(broker.access, name="hivebus-diverge")
        stack.push_async_callback(client.close)
        upkeep = await JetStreamUpkeep.open(client, None, replicas=broker.replicas or 1)
        stack.callback(upkeep.close)
        store = await SqlStore.open(places(settings, settings.data_dir)[0])
        stack.push_async_callback(store.close)
        return as_document(await compare(upkeep, store))
