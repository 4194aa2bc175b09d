"""Scheduler and hosts in one process: messages are calls."""

from __future__ import annotations

from uuid import UUID

from msgspec import Struct

from core.kernel.command_bus import Accepted, Caller, CommandBus
from core.kernel.commit import cause_of
from core.services.agent_host import AgentHost
from core.services.link import Beat, BeatAnswer, Cancel, Run
from core.services.scheduler import Scheduler


class LocalGateway:
    """The scheduler's way to hosts of its own process (see core.services.link.Gateway)."""

    def __init__(self) -> None:
        self._hosts: dict[str, AgentHost] = {}

    def add(self, host: AgentHost) -> None:
        """Make a host reachable."""
        self._hosts[host.host_id] = host

    def run(self, host_id: str, run: Run) -> None:
        """Hand over an attempt."""
        host = self._hosts.get(host_id)
        if host is not None:
            host.run_attempt(run)

    def cancel(self, host_id: str, cancel: Cancel) -> None:
        """Hand over a cancellation."""
        host = self._hosts.get(host_id)
        if host is not None:
            host.cancel_attempt(cancel)


class LocalControl:
    """A host's way to the bus of its own process (see core.services.link.Control)."""

    def __init__(self, bus: CommandBus, scheduler: Scheduler, actor: str) -> None:
        self._bus = bus
        self._scheduler = scheduler
        self._actor = actor

    async def execute(
        self, command: Struct, *, correlation_id: str, cause: int = 0, command_id: str | None = None
    ) -> Accepted:
        """Straight to the bus."""
        caller = Caller(
            actor=self._actor,
            command_id=UUID(command_id) if command_id else None,
            correlation_id=correlation_id,
            causation_id=cause_of(cause),
        )
        return await self._bus.execute(command, caller)

    async def beat(self, beat: Beat) -> BeatAnswer:
        """Straight to the scheduler."""
        return await self._scheduler.beat(beat)
