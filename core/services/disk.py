"""The disk's high-water marks: what is still accepted while it fills, and the way back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import IntEnum
from typing import Literal, NoReturn, Protocol, TypedDict, cast

from msgspec import Struct

from core.kernel.errors import LogFull
from core.kernel.ports import Clock
from core.kernel.registry import CommandSpec, Scope

logger = logging.getLogger("hivebus.disk")

EVERY_S = 1.0
# Kept for what is under way when everything else is refused: batches in flight, SQLite's WAL, the views.
RESERVE_BYTES = 32 * 1024 * 1024
RESERVE_PERCENT = 2

REMEDY = "Free space on the file system of the data directory: {path}. It recovers by itself within seconds."


class Level(IntEnum):
    """How full the disk is. Each includes what the lower ones refuse."""

    OK = 0
    # Said in the log and in GET /api/status.
    WARN = 1
    # Only what ends work is accepted.
    FULL = 2
    # Nothing is appended: a write would fail in the middle.
    EXHAUSTED = 3


class Space(Struct, frozen=True):
    """A file system as its user sees it, in bytes; `free` is what this user may still write."""

    total: int
    free: int

    @property
    def used_percent(self) -> float:
        """0 to 100."""
        return 100.0 * (self.total - self.free) / self.total if self.total else 0.0


class DiskSpace(TypedDict):
    """The file system of the data directory for GET /api/status; null until it was measured once."""

    level: Literal["ok", "warn", "full", "exhausted"]
    used_percent: float | None
    free_bytes: int | None
    total_bytes: int | None


class Marks(Struct, frozen=True, kw_only=True):
    """When a disk counts as full: a share of it is used AND little is left in bytes.

    A share alone would stop a laptop whose terabyte is 91 % full and has 90 GB free; bytes alone would never warn on a
    small volume. `enough_bytes` free is no warning and half of it not full, whatever the share.
    """

    warn_percent: float = 80.0
    full_percent: float = 90.0
    enough_bytes: int = 10 * 1024**3


class Disk(Protocol):
    """The file system of the data directory."""

    @property
    def path(self) -> str:
        """What to name in a sentence."""
        ...

    async def measure(self) -> Space:
        """As it is now. Raises OSError."""
        ...


def level_of(space: Space, marks: Marks) -> Level:
    """The level of a file system under the marks."""
    if space.free < min(RESERVE_BYTES, space.total * RESERVE_PERCENT // 100):
        return Level.EXHAUSTED
    used = space.used_percent
    if used >= marks.full_percent and space.free < marks.enough_bytes // 2:
        return Level.FULL
    if used >= marks.warn_percent and space.free < marks.enough_bytes:
        return Level.WARN
    return Level.OK


class DiskGuard:
    """Measures once a second and says what may still be written."""

    def __init__(
        self, disk: Disk, marks: Marks, clock: Clock, on_exhausted: Callable[[bool], None] = lambda _: None
    ) -> None:
        """`on_exhausted` hears True when nothing may be appended any more, and False when it may again."""
        self._disk = disk
        self._marks = marks
        self._clock = clock
        self._on_exhausted = on_exhausted
        self.level = Level.OK
        self.space: Space | None = None

    async def run(self) -> NoReturn:
        """Measure for ever."""
        while True:
            await self.look()
            await self._clock.sleep(EVERY_S)

    async def look(self) -> Level:
        """Measure now. A file system that cannot be asked keeps its level."""
        try:
            space = await self._disk.measure()
        except OSError as error:
            logger.warning("The space of %s cannot be measured: %s", self._disk.path, error)
            return self.level
        old, self.level, self.space = self.level, level_of(space, self._marks), space
        if self.level is not old:
            self._say(old, space)
            if Level.EXHAUSTED in (old, self.level):
                self._on_exhausted(self.level is Level.EXHAUSTED)
        return self.level

    async def until_writable(self) -> None:
        """Wait until something may be written again."""
        while await self.look() is Level.EXHAUSTED:
            await self._clock.sleep(EVERY_S)

    def refuse_growth(self) -> None:
        """Raise LogFull (`disk_full`) where only finishing work is accepted."""
        if self.level >= Level.FULL:
            raise self.full()

    def refuse(self, spec: CommandSpec) -> None:
        """Raise LogFull for a caller's command that begins something, where only finishing work is accepted."""
        if self.level >= Level.FULL and spec.scope is Scope.CLIENT and not spec.finishes:
            raise self.full()

    def full(self) -> LogFull:
        """The error that every transport gives."""
        space = self.space or Space(0, 0)
        what = "nothing can be written" if self.level is Level.EXHAUSTED else "only what ends work is accepted"
        return LogFull(
            f"The disk is {space.used_percent:.0f} % full, {space.free // 1_000_000} MB are free: {what}.",
            code="disk_full",
            remedy=REMEDY.format(path=self._disk.path),
            retry_after_s=5,
        )

    def as_document(self) -> DiskSpace:
        """For GET /api/status."""
        space = self.space
        return {
            "level": cast("Literal['ok', 'warn', 'full', 'exhausted']", self.level.name.lower()),
            "used_percent": round(space.used_percent, 1) if space else None,
            "free_bytes": space.free if space else None,
            "total_bytes": space.total if space else None,
        }

    def _say(self, old: Level, space: Space) -> None:
        said = f"The disk is {space.used_percent:.0f} % full, {space.free // 1_000_000} MB are free"
        match self.level:
            case Level.OK:
                logger.warning("%s: everything is accepted.", said)
            case Level.WARN:
                after = "everything is accepted again" if old > Level.WARN else "soon only what ends work is accepted"
                logger.warning("%s: %s. %s", said, after, self._disk.path)
            case Level.FULL:
                logger.error("%s: only what ends work is accepted. %s", said, REMEDY.format(path=self._disk.path))
            case Level.EXHAUSTED:
                logger.error("%s: nothing is appended. %s", said, REMEDY.format(path=self._disk.path))
