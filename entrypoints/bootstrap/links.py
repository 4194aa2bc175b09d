"""How scheduler, bus and hosts reach each other: by calls inside the process, by messages beyond it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from adapters.executors.host import Host
from adapters.jetstream import hosts
from adapters.jetstream.advisories import watch_disconnects
from adapters.jetstream.broker import Broker
from adapters.jetstream.connection import connect_to
from adapters.jetstream.hosts import NatsControl
from adapters.jetstream.wire import WireClient
from adapters.memory.hosts import LocalControl
from core.services.agent_host import AgentHost
from core.services.link import Beat, BeatAnswer
from entrypoints.bootstrap.agents import make_host
from entrypoints.bootstrap.opened import Ground
from entrypoints.roles import SCHEDULER
from entrypoints.settings import Settings

if TYPE_CHECKING:
    from entrypoints.bootstrap.program import Program


async def hosted(
    stack: AsyncExitStack, settings: Settings, ground: Ground, machine: Host, program: Program
) -> AgentHost:
    """The host of this process. It speaks to the bus by calls, and to a scheduler elsewhere by messages."""
    scheduler = program.scheduler
    beat = scheduler.beat
    if settings.nats_url or SCHEDULER not in settings.role_set:
        far = NatsControl(ground.client, program.registry, ground.identity.id)
        await far.start()
        stack.callback(far.close)

        async def beat(beat: Beat) -> BeatAnswer:
            return await (scheduler.beat(beat) if scheduler.leading else far.beat(beat))

    control = LocalControl(program.host_door, beat, ground.identity.id)
    suffix = f"@{ground.identity.name}" if settings.nats_url else ""
    host = make_host(settings, ground.identity, machine, control, ground.clock, suffix=suffix)
    ground.gateway.add(host)
    await hosts.listen(ground.client, host)
    return host


async def linked(stack: AsyncExitStack, broker: Broker, client: WireClient, program: Program) -> None:
    """Let hosts elsewhere reach the bus and the scheduler, and the broker tell of those that are gone."""
    scheduler = program.scheduler
    for responder in (
        hosts.commands(client, program.host_door, program.registry),
        hosts.beats(client, scheduler.beat, lambda: scheduler.leading),
    ):
        await responder.start()
        stack.push_async_callback(responder.close)
    if broker.system_access is not None and SCHEDULER in program.roles:
        system = await connect_to(broker.system_access, name="hivebus-system")
        stack.push_async_callback(system.close)
        await watch_disconnects(system, scheduler.suspect)
