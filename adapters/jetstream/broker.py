"""What the program needs of a broker, and the broker that somebody else runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

from msgspec import Struct


class Access(Struct, frozen=True, kw_only=True):
    """Where a broker is and how to log in there. The addresses hold no user; its text shows no secret."""

    urls: tuple[str, ...]
    user: str = ""
    password: str = ""
    credentials: Path | None = None
    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @property
    def shown(self) -> str:
        """The addresses, for people."""
        return ", ".join(self.urls)

    def __repr__(self) -> str:
        return f"Access({self.shown})"


class Broker(Protocol):
    """A NATS server or a cluster of them, seen from the program's life."""

    @property
    def access(self) -> Access:
        """The account that holds the log; known once `start` has returned."""
        ...

    @property
    def system_access(self) -> Access | None:
        """The system account, where disconnects are told; None where nobody gave it to us."""
        ...

    @property
    def client_access(self) -> Access | None:
        """What programs outside log in with, to send commands and hear events; None where nobody told us."""
        ...

    @property
    def replicas(self) -> int:
        """Copies of the log that are wanted; 0 leaves it to the broker: 3 in a cluster, else 1."""
        ...

    async def start(self) -> None:
        """Make it serve, or raise StartRefused."""
        ...

    async def stop(self, *, grace_s: float) -> None:
        """End what `start` started. A repeat is harmless."""
        ...

    async def wait(self) -> int:
        """Its exit code once it has ended; never returns for one that is not ours."""
        ...

    def again(self) -> Broker:
        """One to start in the place of one that ended: same address, same data."""
        ...


class ExternalBroker:
    """A broker that runs without us: nothing is started, nothing is stopped, connections come back by themselves."""

    def __init__(
        self,
        access: Access,
        *,
        system_access: Access | None = None,
        client_access: Access | None = None,
        replicas: int = 0,
    ) -> None:
        self.access = access
        self.system_access = system_access
        self.client_access = client_access
        self.replicas = replicas

    async def start(self) -> None:
        """Nothing: whether it answers is found by whoever connects."""

    async def stop(self, *, grace_s: float = 0.0) -> None:
        """Nothing."""

    async def wait(self) -> int:
        """For ever."""
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        return await ended

    def again(self) -> ExternalBroker:
        """Itself."""
        return self
