"""One program per data directory: a lock that the kernel gives back, however the program ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from core.kernel.errors import StartRefused


class DataDirectory:
    """The data directory of this program, held by it alone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._file: int | None = None

    def take(self) -> None:
        """Create it if need be, and lock it. Raises StartRefused where it cannot be written or is in use."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartRefused(
                f"The data directory {self.root} cannot be written: {error.strerror}.",
                remedy="Give this user the right to write there, or choose another: HIVEBUS_DATA_DIR=/path hivebus up",
            ) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 32).decode().strip() or "unknown"
            os.close(file)
            raise StartRefused(
                f"Another Hivebus (pid {holder}) runs on the data directory {self.root}.",
                code="already_running",
                remedy="Use that one, stop it, or choose another directory: HIVEBUS_DATA_DIR=/path hivebus up",
            ) from None
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        self._file = file

    def release(self) -> None:
        """Give it back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
