"""What the executors of one agent host share, opened once at start and closed once at the end."""

from __future__ import annotations

import asyncio
from pathlib import Path

from msgspec import Struct

from adapters.executors.sandbox import Sandbox
from adapters.executors.warden import Warden
from adapters.executors.workspace import Workspaces
from core.kernel.ports import Blobs
from core.secrets import Secrets


class Host(Struct, frozen=True):
    """The machine as an executor sees it."""

    workspaces: Workspaces
    warden: Warden
    sandbox: Sandbox | None
    blobs: Blobs
    secrets: Secrets

    @classmethod
    async def open(cls, data_dir: Path, blobs: Blobs, secrets: Secrets, *, hidden: Path | None = None) -> Host:
        """Sweep what an earlier program left, start the warden, try the sandbox, which hides `hidden`.

        `hidden` is a directory that holds `data_dir`, if more than that is nothing for programs to see.
        The caller holds the data directory's lock for the role `agents`: a sweep kills what runs in its workspaces.
        """
        workspaces = Workspaces(data_dir)
        await asyncio.to_thread(workspaces.sweep)
        warden = Warden(data_dir)
        await warden.start()
        try:
            sandbox = await Sandbox.probe(hidden or data_dir)
        except BaseException:
            await warden.close()
            raise
        return cls(workspaces, warden, sandbox, blobs, secrets)

    async def close(self) -> None:
        """End the warden, and every process that is still held."""
        await self.warden.close()
