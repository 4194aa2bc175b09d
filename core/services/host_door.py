"""Where hosts' commands come in, whichever way they came: their own scope only, each host under its own name."""

from __future__ import annotations

from uuid import UUID

from msgspec import Struct

from core.agent import SpawnAgent
from core.host import FirstAgent, LeaveHost, RegisterHost
from core.kernel.command_bus import Caller, CommandBus
from core.kernel.commit import cause_of
from core.kernel.errors import Forbidden
from core.kernel.ids import derive, from_key
from core.kernel.registry import Registry, Scope

SETUP = "system:setup"


class HostDoor:
    """Executes what hosts say, and spawns the agents that a host brings along."""

    def __init__(self, bus: CommandBus, registry: Registry) -> None:
        self._bus = bus
        self._registry = registry

    async def execute(
        self, host_id: str, command: Struct, *, correlation_id: str, cause: int = 0, command_id: str | None = None
    ) -> int:
        """The position of the command's commit (see core.services.link.Control)."""
        spec = self._registry.command_of(command)
        if spec.scope is not Scope.HOST:
            raise Forbidden(f"A host may not issue {spec.name}.", remedy="Send it as a client, with a key.")
        if isinstance(command, RegisterHost | LeaveHost) and command.host_id != host_id:
            raise Forbidden(f"Host {host_id} may not speak for host {command.host_id}.")
        caller = Caller(
            actor=f"host:{host_id}",
            command_id=UUID(command_id) if command_id else None,
            correlation_id=correlation_id,
            causation_id=cause_of(cause),
        )
        accepted = await self._bus.execute(command, caller)
        if isinstance(command, RegisterHost):
            for agent in command.agents:
                await self._spawn_once(host_id, agent)
        return accepted.position

    async def _spawn_once(self, host_id: str, agent: FirstAgent) -> None:
        """Whoever retires one keeps it retired: its id is the same at every session."""
        key = f"first agent {agent.name}" + ("" if agent.name == agent.type else f" of {host_id}")
        command_id = from_key(SETUP, key)
        if not await self._bus.position_of("agent", str(derive(command_id, "agent"))):
            command = SpawnAgent(type=agent.type, name=agent.name, slots=agent.slots)
            await self._bus.execute(command, Caller(actor=SETUP, command_id=command_id))
