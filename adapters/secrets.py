"""Secrets as files of the data directory, or as variables of the program's environment."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from core.kernel.errors import Unprocessable
from core.secrets import KNOWN_MIN_CHARS, SECRET_NAME

log = logging.getLogger(__name__)

ENV_PREFIX = "HIVEBUS_SECRET_"
VALUE_MAX_BYTES = 64 * 1024
VALUES_AGE_S = 2.0


class FileSecrets:
    """`<data_dir>/secrets/NAME`, mode 0600, one trailing newline ignored; else the variable HIVEBUS_SECRET_NAME."""

    def __init__(self, data_dir: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._folder = data_dir / "secrets"
        self._monotonic = monotonic
        self._values: dict[str, str] = {}
        self._read_at: float | None = None

    def get(self, name: str) -> str | None:
        """The value as it is now, None where there is none. A file that others can read is refused."""
        if not SECRET_NAME.match(name):
            return None
        path = self._folder / name
        if not path.is_file():
            return os.environ.get(ENV_PREFIX + name)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise Unprocessable(
                f"The secret {name} can be read by others and is not used.",
                code="secret_exposed",
                remedy=f"chmod 600 {path}, and consider the value known.",
            )
        return _read(path)

    def names(self) -> list[str]:
        """All names, sorted."""
        files = [path.name for path in self._folder.iterdir()] if self._folder.is_dir() else []
        variables = [name.removeprefix(ENV_PREFIX) for name in os.environ if name.startswith(ENV_PREFIX)]
        return sorted(name for name in {*files, *variables} if SECRET_NAME.match(name))

    def values(self) -> Mapping[str, str]:
        """Value to name, of those long enough to be recognised, exposed ones too. At most two seconds old."""
        now = self._monotonic()
        if self._read_at is None or now - self._read_at >= VALUES_AGE_S:
            self._values = dict(self._known())
            self._read_at = now
        return self._values

    def _known(self) -> list[tuple[str, str]]:
        known = []
        for name in self.names():
            path = self._folder / name
            try:
                value = _read(path) if path.is_file() else os.environ.get(ENV_PREFIX + name, "")
            except (OSError, Unprocessable) as error:
                log.error("the secret %s cannot be read, so it cannot be recognised either: %s", name, error)
                continue
            if len(value) >= KNOWN_MIN_CHARS:
                known.append((value, name))
        return known


def _read(path: Path) -> str:
    data = path.read_bytes()
    try:
        if len(data) > VALUE_MAX_BYTES:
            raise ValueError(f"over {VALUE_MAX_BYTES} bytes")
        return data.decode().removesuffix("\n")
    except ValueError as error:
        sentence = f"The secret {path.name} is no text of at most {VALUE_MAX_BYTES} bytes."
        raise Unprocessable(sentence, code="secret_unreadable") from error
