"""Who works in a data directory: locks that the kernel gives back, however the program ends."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from core.kernel.errors import StartRefused

# Whoever asks for so many roles wants a program of its own, not a part beside another.
ALONE = 3
TRIES = 5
TRY_S = 0.02


class DataDirectory:
    """A data directory of this process: whole (`take`), or shared with the processes of other roles (`join`)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: list[int] = []

    def take(self) -> None:
        """Create it if need be, and hold it alone. Raises StartRefused where it cannot be written or is in use."""
        file = self._open("lock")
        if not _locked(file, fcntl.LOCK_EX):
            raise self._in_use(file, "")
        _sign(file)

    def join(self, roles: frozenset[str], *, alone: Callable[[], None], beside: Callable[[], None]) -> None:
        """Create it if need be, and hold these roles in it. Raises StartRefused, too, where another holds one.

        `alone` runs while nobody else works in the directory, `beside` where others do already.
        """
        start = self._open("start.lock")
        fcntl.flock(start, fcntl.LOCK_EX)
        try:
            file = self._open("lock")
            first = _locked(file, fcntl.LOCK_EX)
            if not first and not _locked(file, fcntl.LOCK_SH):
                raise self._in_use(file, "")
            for role in sorted(roles):
                lock = self._open(f"{role}.lock")
                if not _locked(lock, fcntl.LOCK_EX):
                    raise self._in_use(lock, role if len(roles) < ALONE else "")
                _sign(lock)
            (alone if first else beside)()
            _locked(file, fcntl.LOCK_SH)
            _sign(file)
        finally:
            if start in self._files:
                self._files.remove(start)
                os.close(start)

    def win(self, role: str) -> bool:
        """Hold a role if nobody does; whether it is ours now."""
        lock = self._open(f"{role}.lock")
        if not _locked(lock, fcntl.LOCK_EX):
            return False
        _sign(lock)
        return True

    def has(self, role: str) -> bool:
        """Whether another process holds a role here now."""
        file = self._open(f"{role}.lock")
        self._files.remove(file)
        try:
            return not _locked(file, fcntl.LOCK_SH)
        finally:
            os.close(file)

    @asynccontextmanager
    async def one_at_a_time(self) -> AsyncIterator[None]:
        """Processes of one directory make its keys and databases one after the other."""
        file = self._open("start.lock")
        await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)

    def release(self) -> None:
        """Give everything back."""
        for file in self._files:
            os.close(file)
        self._files = []

    def _open(self, name: str) -> int:
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = os.open(self.root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartRefused(
                f"The data directory {self.root} cannot be written: {error.strerror}.",
                remedy="Give this user the right to write there, or choose another: HIVEBUS_DATA_DIR=/path hivebus up",
            ) from None
        self._files.append(file)
        return file

    def _in_use(self, file: int, role: str) -> StartRefused:
        holder = os.pread(file, 32, 0).decode().strip() or "unknown"
        self.release()
        what = f"has the role {role} in" if role else "runs on"
        return StartRefused(
            f"Another Hivebus (pid {holder}) {what} the data directory {self.root}.",
            code="already_running",
            remedy="Use that one, stop it, or choose another directory: HIVEBUS_DATA_DIR=/path hivebus up",
        )


def _locked(file: int, kind: int) -> bool:
    """Whether it is locked now. Who looks whether a lock is held (`has`) holds it for a moment: that is waited out."""
    for left in range(TRIES - 1, -1, -1):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if left and kind == fcntl.LOCK_EX:
                time.sleep(TRY_S)
        else:
            return True
    return False


def _sign(file: int) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
