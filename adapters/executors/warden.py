"""No child survives the program: this side of the warden, and the ties that a child gets between fork and exec.

Three ties hold a task's processes. PR_SET_PDEATHSIG kills the direct child when the program dies (Linux). The warden, a
process of its own, kills the whole group, and on Linux whatever left the group. The start-time sweep of the workspaces
(workspace.py) finds what survived even that, for instance when the machine killed the warden too.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from adapters.executors import warden_child

if sys.platform != "win32":
    import resource

log = logging.getLogger(__name__)

WORKSPACE_VARIABLE = "HIVEBUS_WORKSPACE"
CLOSE_S = 2.0
_PR_SET_PDEATHSIG = 1

# Loaded before any fork: the dynamic loader's locks are not for a child that has not reached exec.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


class Warden:
    """Holds process groups that must not outlive this program, whatever ends it. One for each agent host.

    A group is held from before its program's first instruction until `release`. A warden that was killed is started
    again at the next `reserve`, with all groups that are held.
    """

    def __init__(self, data_dir: Path) -> None:
        self._marker = f"{WORKSPACE_VARIABLE}={data_dir.resolve()}/workspaces/"
        self._tokens = itertools.count(1)
        self._groups: dict[int, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._fd = -1

    @property
    def pid(self) -> int | None:
        """The warden's process, None before `start` and after `close`."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the process. What is registered from here on is held."""
        self._launch()

    def _launch(self) -> None:
        read_end, self._fd = os.pipe()
        try:
            # Isolated (-I) and without site (-S): nothing of the environment decides what it runs; 9 MB, 15 ms.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", warden_child.__file__, self._marker],
                stdin=read_end,
                stdout=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except OSError:
            os.close(self._fd)
            self._fd = -1
            raise
        finally:
            os.close(read_end)
        # A full pipe must raise, not stop the loop; 64 KiB are 4,000 lines that nobody read.
        os.set_blocking(self._fd, False)

    def reserve(self) -> int:
        """A token for a group that is about to be made. OSError when no warden can be started."""
        if self._process is None:
            raise RuntimeError("the warden is not started")
        if self._process.poll() is not None:
            log.error("the warden ended with %s and is started again", self._process.returncode)
            if self._fd >= 0:
                os.close(self._fd)
            self._launch()
            for token, pgid in self._groups.items():
                self._write(b"+%d %d\n" % (token, pgid))
        return next(self._tokens)

    def enrol(self, token: int) -> None:
        """For the child, between fork and exec: register its own pid, the group it is about to lead.

        The child holds the pipe until its exec, so the warden sees no end of file before the group exists.
        """
        self._write(b"+%d %d\n" % (token, os.getpid()))

    def confirm(self, token: int, pgid: int) -> None:
        """For the parent: the enrolled group's id, so that a restarted warden learns of it."""
        self._groups[token] = pgid

    def register(self, pgid: int) -> int:
        """Hold a group that exists already; the token that releases it."""
        token = self.reserve()
        self._write(b"+%d %d\n" % (token, pgid))
        self._groups[token] = pgid
        return token

    def release(self, token: int) -> None:
        """Let go of a group, harmless twice and after a start that failed. Its id may belong to others from now on."""
        self._groups.pop(token, None)
        try:
            self._write(b"-%d\n" % token)
        except OSError as error:  # dead: the next one starts without this group; stuck: said here, for nothing else can
            log.error("the warden did not hear that group %d is released: %s", token, error)

    def _write(self, line: bytes) -> None:
        os.write(self._fd, line)  # shorter than PIPE_BUF: never torn

    async def close(self) -> None:
        """End the warden, and with it every group that is still held."""
        if self._process is None:
            return
        os.close(self._fd)
        process, self._process, self._fd = self._process, None, -1
        try:
            await asyncio.to_thread(process.wait, CLOSE_S)
        except subprocess.TimeoutExpired:
            log.error("the warden %d did not end within %s s and is killed", process.pid, CLOSE_S)
            process.kill()
            await asyncio.to_thread(process.wait)
        self._groups.clear()


def ties(warden: Warden, token: int, memory_max_mb: int | None) -> Callable[[], None]:
    """What a child does between fork and exec: die with its parent, enrol with the warden, accept its limits.

    Only calls that were prepared here run there. The fork must happen in the loop's thread, which lives as long as the
    program: PR_SET_PDEATHSIG fires when the forking thread ends.
    """
    parent = os.getpid()
    limits = [(resource.RLIMIT_CORE, (0, 0))]
    if memory_max_mb is not None and sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = memory_max_mb * 1024 * 1024
        bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        limits.append((resource.RLIMIT_AS, (bound, bound)))

    def in_child() -> None:
        if _prctl is not None:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it died before the call above: no signal will come
                os._exit(1)
        warden.enrol(token)
        for limit, values in limits:
            resource.setrlimit(limit, values)

    return in_child
