"""The pid file of the broker: it says which process may be ended, and a recycled pid is never mistaken for it."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import msgspec
import psutil
from msgspec import Struct

from adapters.jetstream.broker_files import write_private
from core.kernel.errors import StartRefused

GRACE_S = 5.0
STEP_S = 0.01
# Start times are counted from the boot time, which moves a little when the clock is set right.
SAME_START_S = 2.0

_logger = logging.getLogger("hivebus.broker")


class Running(Struct, frozen=True):
    """A process, told from all others by its start time (Unix seconds)."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Running:
        """The process that has this pid now."""
        return cls(pid, psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """The process if it still runs."""
        try:
            process = psutil.Process(self.pid)
            alive = process.status() != psutil.STATUS_ZOMBIE
            same = abs(process.create_time() - self.started) <= SAME_START_S
        except psutil.NoSuchProcess:
            return None
        return process if alive and same else None


class _Record(Struct, frozen=True):
    broker: Running
    parent: Running


class PidFile:
    """Who runs the broker of a data directory."""

    def __init__(self, path: Path, *, config: Path) -> None:
        self._path = path
        self._config = config

    def write(self, pid: int) -> None:
        """Record a broker that this process started."""
        try:
            record = _Record(Running.of(pid), Running.of(os.getpid()))
        except psutil.NoSuchProcess:
            # It ended at once; whoever started it sees its exit code.
            return
        write_private(self._path, msgspec.json.encode(record).decode())

    def remove(self) -> None:
        """Forget the broker: it has ended."""
        self._path.unlink(missing_ok=True)

    async def end_left_over(self) -> None:
        """End a broker whose parent died. Raises StartRefused if its parent lives, or if it will not end."""
        record = self._read()
        if record is None:
            return
        broker = record.broker.process()
        if broker is None or not self._is_ours(broker):
            return
        if record.parent.process() is not None:
            raise StartRefused(
                f"Process {record.parent.pid} already runs the broker of this data directory.",
                remedy="Stop that process first, or start this one with another data directory.",
            )
        _logger.warning("Ending the broker %d that a dead process %d left behind.", broker.pid, record.parent.pid)
        for end in (broker.terminate, broker.kill):
            end()
            if await _gone(record.broker):
                return
        raise StartRefused(
            f"The left-over broker {broker.pid} could not be ended.", remedy=f"End process {broker.pid} by hand."
        )

    def _read(self) -> _Record | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Record)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            _logger.warning("The broker's pid file cannot be read (%s); taking it that none is left over.", error)
            return None

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return str(self._config) in process.cmdline()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False


async def _gone(running: Running) -> bool:
    try:
        async with asyncio.timeout(GRACE_S):
            while running.process() is not None:  # noqa: ASYNC110 - no event tells of a foreign process
                await asyncio.sleep(STEP_S)
    except TimeoutError:
        return False
    return True
