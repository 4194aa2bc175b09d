"""Scheduler and hosts in one process: messages are calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import Struct

from core.services.agent_host import AgentHost
from core.services.host_door import HostDoor
from core.services.link import Beat, BeatAnswer, Cancel, Gateway, Run


class LocalGateway:
    """The scheduler's way to hosts of its own process; to all others through `beyond`, if there is one."""

    def __init__(self, beyond: Gateway | None = None) -> None:
        self._hosts: dict[str, AgentHost] = {}
        self._beyond = beyond

    def add(self, host: AgentHost) -> None:
        """Make a host reachable."""
        self._hosts[host.host_id] = host

    def run(self, host_id: str, run: Run) -> None:
        """Hand over an attempt."""
        host = self._hosts.get(host_id)
        if host is not None:
            host.run_attempt(run)
        elif self._beyond is not None:
            self._beyond.run(host_id, run)

    def cancel(self, host_id: str, cancel: Cancel) -> None:
        """Hand over a cancellation."""
        host = self._hosts.get(host_id)
        if host is not None:
            host.cancel_attempt(cancel)
        elif self._beyond is not None:
            self._beyond.cancel(host_id, cancel)


class LocalControl:
    """A host's way to the bus of its own process (see core.services.link.Control); `beat` is the scheduler's."""

    def __init__(self, door: HostDoor, beat: Callable[[Beat], Awaitable[BeatAnswer]], host_id: str) -> None:
        self._door = door
        self._beat = beat
        self._host_id = host_id

    async def execute(
        self, command: Struct, *, correlation_id: str, cause: int = 0, command_id: str | None = None
    ) -> int:
        """Straight to the bus."""
        return await self._door.execute(
            self._host_id, command, correlation_id=correlation_id, cause=cause, command_id=command_id
        )

    async def beat(self, beat: Beat) -> BeatAnswer:
        """Straight to the scheduler."""
        return await self._beat(beat)
