"""The embedded broker of another process on the same data directory."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec

from adapters.jetstream.broker import Access
from adapters.jetstream.broker_files import Passwords
from adapters.jetstream.server import server_name
from core.kernel.errors import StartRefused
from core.kernel.subjects import CLIENT_USER

JOIN_S_MAX = 30.0
STEP_S = 0.02


class JoinedServer:
    """A broker that another process of this data directory starts and ends (see adapters.jetstream.broker.Broker).

    It keeps its port over restarts, so connections come back by themselves.
    """

    replicas = 1

    def __init__(self, data_dir: Path, *, deadline_s: float = JOIN_S_MAX) -> None:
        self._home = data_dir.absolute() / "broker"
        self._deadline_s = deadline_s
        self._port = 0
        self._passwords = Passwords()

    @property
    def access(self) -> Access:
        """The program's account."""
        return Access(urls=(self._url,), user="hivebus", password=self._passwords.hivebus)

    @property
    def system_access(self) -> Access:
        """The system account."""
        return Access(urls=(self._url,), user="system", password=self._passwords.system)

    @property
    def client_access(self) -> Access:
        """The user of programs outside."""
        return Access(urls=(self._url,), user=CLIENT_USER, password=self._passwords.client)

    @property
    def _url(self) -> str:
        return f"nats://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Wait until it serves. Raises StartRefused when it does not within half a minute."""
        deadline = time.monotonic() + self._deadline_s
        while not await self._serves():
            if time.monotonic() > deadline:
                raise StartRefused(
                    f"The broker of {self._home.parent} did not answer within {self._deadline_s:g} s.",
                    remedy="The process that holds broker.lock there starts it: look at what that one says.",
                )
            await asyncio.sleep(STEP_S)

    async def stop(self, *, grace_s: float) -> None:
        """Nothing: it is not ours."""

    async def wait(self) -> int:
        """For ever."""
        never: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        return await never

    def again(self) -> JoinedServer:
        """Itself."""
        return self

    async def _serves(self) -> bool:
        try:
            self._port = int((self._home / "port").read_text())
            self._passwords = msgspec.json.decode((self._home / "passwords.json").read_bytes(), type=Passwords)
        except (OSError, ValueError):
            return False
        return await server_name(self._port) is not None
