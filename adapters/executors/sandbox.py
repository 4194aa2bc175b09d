"""bubblewrap around a program: it reads the machine, writes its workspace, and sees neither other processes nor the
data directory. Where bubblewrap is missing or not permitted, programs run plainly and their results say so."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from adapters.executors.process import sealed

log = logging.getLogger(__name__)

PROBE_S = 5.0
# Control sockets of container engines are as good as root on the machine; a read-only bind does not close them.
_SOCKETS = ("/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock")


_TMP = "/tmp"  # noqa: S108 - the sandbox's own, empty and gone with it


class Wrapped(Struct, frozen=True):
    """A program inside the sandbox: what to start instead, with which environment, and the descriptors it reads."""

    argv: list[str]
    env: dict[str, str]
    pass_fds: tuple[int, ...]


class Sandbox:
    """bubblewrap, found and tried once."""

    name = "bubblewrap"

    def __init__(self, bwrap: str, data_dir: Path) -> None:
        self._bwrap = bwrap
        self._data_dir = str(data_dir.resolve())

    @classmethod
    async def probe(cls, data_dir: Path) -> Sandbox | None:
        """The sandbox if a program really runs in it here, else None. Ask once, at start: it costs a process or two."""
        bwrap = shutil.which("bwrap")
        true = shutil.which("true")
        if bwrap is None or true is None:
            log.warning("bubblewrap is not installed: commands run without a sandbox")
            return None
        sandbox = cls(bwrap, data_dir)
        with sandbox.wrap([true], {}, Path(sandbox._data_dir), network=False) as wrapped:
            process = await asyncio.create_subprocess_exec(
                *wrapped.argv,
                env=wrapped.env,
                pass_fds=wrapped.pass_fds,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                async with asyncio.timeout(PROBE_S):
                    _, stderr = await process.communicate()
            except TimeoutError:
                process.kill()
                await process.wait()
                stderr = b"no answer"
        if process.returncode == 0:
            return sandbox
        log.warning("bubblewrap does not work here, commands run without: %s", stderr.decode(errors="replace").strip())
        return None

    @contextmanager
    def wrap(self, argv: list[str], env: dict[str, str], workspace: Path, *, network: bool) -> Iterator[Wrapped]:
        """The program wrapped; start it inside the block.

        All options go through a descriptor: on the command line every user could read the secrets of `env`, and in
        bubblewrap's own environment an LD_PRELOAD of the task would run outside the sandbox.
        """
        mounts = self._mounts(str(workspace), _named_in_tmp(argv))
        options = [*self._namespaces(network), *mounts, "--chdir", str(workspace), "--clearenv"]
        for name, value in env.items():
            options += ["--setenv", name, value]
        fd = sealed(b"".join(os.fsencode(option) + b"\0" for option in options))
        try:
            yield Wrapped([self._bwrap, "--args", str(fd), "--", *argv], {"PATH": os.defpath}, (fd,))
        finally:
            os.close(fd)

    @staticmethod
    def _namespaces(network: bool) -> list[str]:
        options = ["--die-with-parent", "--new-session", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
        # As root bubblewrap would keep every capability, and with one of them the read-only bind is no wall.
        options += ["--cap-drop", "ALL"]
        return options if network else [*options, "--unshare-net"]

    def _mounts(self, workspace: str, readable: set[str]) -> list[str]:
        options = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", _TMP]
        for entry in sorted(readable):
            options += ["--ro-bind", entry, entry]
        for socket in _SOCKETS:
            if os.path.exists(socket):
                options += ["--ro-bind", "/dev/null", socket]
        return [*options, "--tmpfs", self._data_dir, "--bind", workspace, workspace]


def _named_in_tmp(argv: list[str]) -> set[str]:
    """The entries of the machine's /tmp that the program's words lead into: what is named stays readable.

    So a program or a file under /tmp can be run and read as anywhere else, and the rest of /tmp stays out of sight.
    """
    entries = set()
    for word in argv:
        if word.startswith(_TMP + "/"):
            entry = f"{_TMP}/{word.split('/')[2]}"
            if entry != f"{_TMP}/" and os.path.exists(entry):
                entries.add(entry)
    return entries
