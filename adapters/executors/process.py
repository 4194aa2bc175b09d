"""One program from start to end: its group, its limits, its output, and the certainty that nothing of it stays."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from msgspec import Struct

from adapters.executors.process_table import kill_marked, terminate_inside
from adapters.executors.warden import WORKSPACE_VARIABLE, Warden, ties
from adapters.executors.warden_child import kill_group
from core.execution import CancelToken

log = logging.getLogger(__name__)

READ_BYTES = 64 * 1024
REAP_S = 5.0
DRAIN_S = 1.0
CONTROL_VARIABLE = "HIVEBUS_CONTROL_FD"

Verdict = Literal["exited", "timed_out", "cancelled", "output_limit"]


class Program(Struct, frozen=True, kw_only=True):
    """What to start. `control` receives what the program writes to the pipe that CONTROL_VARIABLE names.

    `pass_fds` stay open in the program under their numbers; the caller closes them. `sandboxed`: argv is a wrapper with
    a process namespace of its own, and a gentle signal is for the processes inside.
    """

    argv: list[str]
    env: dict[str, str]
    workspace: Path
    timeout_s: float
    output_max_bytes: int
    memory_max_mb: int | None = None
    stdin: bytes | None = None
    control: Callable[[bytes], None] | None = None
    pass_fds: tuple[int, ...] = ()
    sandboxed: bool = False
    started: Callable[[int], None] | None = None
    heard: Callable[[], None] = lambda: None


class Ended(Struct, frozen=True):
    """How it ended. `exit_code` is the shell's number, 128 + n after signal n; None: it could not be reaped."""

    verdict: Verdict
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    duration_s: float


class NotStarted(Exception):
    """The program could not be started; `lasting` when another try would meet the same."""

    def __init__(self, sentence: str, *, lasting: bool, exit_code: int | None = None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.lasting = lasting
        self.exit_code = exit_code


class _Pipe:
    """A pipe whose read end the loop drains into a sink. Ours rather than asyncio's: waiting for the exit must not
    wait for a stray that still holds the write end."""

    def __init__(self, sink: Callable[[bytes], None]) -> None:
        self._read_fd, self.write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._read_fd, self._ready)
        self.ended = asyncio.Event()

    def _ready(self) -> None:
        try:
            chunk = os.read(self._read_fd, READ_BYTES)
        except BlockingIOError:
            return
        if chunk:
            self._sink(chunk)
        else:
            self.close()

    def close_write(self) -> None:
        """Our copy of the write end: while it is open there is no end of file."""
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def close(self) -> None:
        if not self.ended.is_set():
            self.ended.set()
            self._loop.remove_reader(self._read_fd)
            os.close(self._read_fd)


class _Output:
    """stdout and stderr under one bound; what is over it is dropped, and said once."""

    def __init__(self, max_bytes: int, over: Callable[[], None]) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.exceeded = False
        self._left = max_bytes
        self._over = over

    def take(self, into: bytearray, chunk: bytes) -> None:
        into += chunk[: self._left]
        if len(chunk) > self._left:
            self.exceeded = True
            self._over()
        self._left = max(0, self._left - len(chunk))


class _Run:
    """One program while it runs. The first of exit, timeout, cancellation and overflow is its verdict."""

    def __init__(self, program: Program, token: CancelToken, warden: Warden) -> None:
        self._program = program
        self._token = token
        self._warden = warden
        self._loop = asyncio.get_running_loop()
        self._verdict: asyncio.Future[Verdict] = self._loop.create_future()
        self._output = _Output(program.output_max_bytes, lambda: self._settle("output_limit"))
        self._pipes = [
            _Pipe(lambda chunk: self._take(self._output.stdout, chunk)),
            _Pipe(lambda chunk: self._take(self._output.stderr, chunk)),
        ]
        if program.control is not None:
            self._pipes.append(_Pipe(program.control))

    def _take(self, into: bytearray, chunk: bytes) -> None:
        self._output.take(into, chunk)
        self._program.heard()

    def _settle(self, verdict: Verdict) -> None:
        if not self._verdict.done():
            self._verdict.set_result(verdict)

    async def run(self) -> Ended:
        try:
            began = time.monotonic()  # uvloop's own clock counts whole milliseconds
            held = self._warden.reserve()
            try:
                process = await self._start(held)
                exited = asyncio.create_task(process.wait())
                try:
                    verdict = await self._watch(process, exited)
                finally:
                    await self._end(process, exited)
            finally:
                self._warden.release(held)
            duration_s = time.monotonic() - began
            await self._drain()
        finally:
            for pipe in self._pipes:
                pipe.close_write()
                pipe.close()
        output = self._output
        if verdict == "exited" and output.exceeded:  # seen only in what was still in the pipe at the exit
            verdict = "output_limit"
        return Ended(verdict, _exit_code(process), bytes(output.stdout), bytes(output.stderr), duration_s)

    async def _start(self, held: int) -> asyncio.subprocess.Process:
        program = self._program
        env = program.env
        pass_fds = program.pass_fds
        if program.control is not None:
            control_fd = self._pipes[2].write_fd
            env = env | {CONTROL_VARIABLE: str(control_fd)}
            pass_fds += (control_fd,)
        stdin = asyncio.subprocess.DEVNULL if program.stdin is None else sealed(program.stdin)
        try:
            process = await asyncio.create_subprocess_exec(
                *program.argv,
                stdin=stdin,
                stdout=self._pipes[0].write_fd,
                stderr=self._pipes[1].write_fd,
                env=env,
                cwd=program.workspace,
                start_new_session=True,
                pass_fds=pass_fds,
                preexec_fn=ties(self._warden, held, program.memory_max_mb),
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise _not_started(error, program.argv[0]) from error
        finally:
            if program.stdin is not None:
                os.close(stdin)
            for pipe in self._pipes:
                pipe.close_write()
        self._warden.confirm(held, process.pid)
        if program.started is not None:
            program.started(process.pid)
        return process

    async def _watch(self, process: asyncio.subprocess.Process, exited: asyncio.Task[int]) -> Verdict:
        """Wait for the verdict; unless it is the exit itself, ask the program to stop and grant the grace."""
        exited.add_done_callback(lambda _: self._settle("exited"))
        timer = self._loop.call_later(self._program.timeout_s, self._settle, "timed_out")
        unsubscribe = self._token.subscribe(lambda: self._settle("cancelled"))
        try:
            verdict = await self._verdict
        finally:
            timer.cancel()
            unsubscribe()
        if verdict != "exited":
            await self._ask_to_stop(process)
            await asyncio.wait({exited}, timeout=self._token.grace_s)
        return verdict

    async def _ask_to_stop(self, process: asyncio.subprocess.Process) -> None:
        if self._program.sandboxed:
            await asyncio.to_thread(terminate_inside, process.pid)
            return
        try:
            os.killpg(process.pid, signal.SIGTERM)
        except (ProcessLookupError, PermissionError) as error:
            log.debug("group %d is gone before SIGTERM: %s", process.pid, error)

    async def _end(self, process: asyncio.subprocess.Process, exited: asyncio.Task[int]) -> None:
        """Kill what is left, in the group and outside it, and reap."""
        kill_group(process.pid)
        await asyncio.wait({exited}, timeout=REAP_S)
        if not exited.done():
            log.error("process %d does not end after SIGKILL: it is stuck in the kernel", process.pid)
            exited.cancel()
        if not self._program.sandboxed:
            # A process may have left the group. Its environment still names the workspace.
            workspace = str(self._program.workspace)
            strays = await asyncio.to_thread(kill_marked, WORKSPACE_VARIABLE, workspace, exact=True)
            if strays:
                log.warning("killed %d processes that had left the group of %s", strays, self._program.workspace)

    async def _drain(self) -> None:
        """Read what is still in the pipes. All writers are dead, so this ends; the bound is for one that hid."""
        waits = [asyncio.create_task(pipe.ended.wait()) for pipe in self._pipes if not pipe.ended.is_set()]
        if waits:
            _, late = await asyncio.wait(waits, timeout=DRAIN_S)
            for wait in late:
                wait.cancel()
            if late:
                log.warning("a process outside the group of %s holds its output open", self._program.workspace)


async def run_program(program: Program, token: CancelToken, warden: Warden) -> Ended:
    """Run a program to its end, at most `timeout_s` and the token's grace. No process of it is left on return.

    Raises NotStarted. Cancelling the caller kills the program.
    """
    return await _Run(program, token, warden).run()


def sealed(data: bytes) -> int:
    """A descriptor that reads `data` from its start: memory on Linux, a nameless file elsewhere. The caller closes it.

    No pipe: nobody has to write while the program reads, and a secret is on no disk (Linux).
    """
    if sys.platform == "linux":
        fd = os.memfd_create("hivebus")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    with os.fdopen(os.dup(fd), "wb") as out:
        out.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _exit_code(process: asyncio.subprocess.Process) -> int | None:
    code = process.returncode
    return 128 - code if code is not None and code < 0 else code


def _not_started(error: Exception, program: str) -> NotStarted:
    if isinstance(error, FileNotFoundError):
        return NotStarted(
            f"There is no program {program!r}, or its interpreter is missing.", lasting=True, exit_code=127
        )
    if isinstance(error, PermissionError):
        return NotStarted(f"{program!r} may not be executed.", lasting=True, exit_code=126)
    if isinstance(error, OSError) and error.errno == errno.ENOEXEC:
        return NotStarted(f"{program!r} is no program: a script begins with #!.", lasting=True, exit_code=126)
    passing = isinstance(error, subprocess.SubprocessError) or (
        isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
    )
    return NotStarted(f"{program!r} could not be started: {error}.", lasting=not passing)
