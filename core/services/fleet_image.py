"""The image of the fleet that a start begins with, and whether it still speaks of this log."""

from __future__ import annotations

import gc
import logging
from collections.abc import Awaitable, Callable

import msgspec

from core.kernel.commit import Entry
from core.kernel.merkle import leaf_hash
from core.kernel.ports import EventLog
from core.scheduling.fleet import Fleet
from core.scheduling.images import fleet_of, image_of

logger = logging.getLogger("hivebus.scheduler")


class _Image(msgspec.Struct):
    version: str
    leaf: bytes
    fleet: bytes


def written(version: str, last: Entry, fleet: Fleet) -> bytes:
    """The fleet as folded by this version of the program up to an entry of the log."""
    leaf = leaf_hash(last.position, last.subject, last.body)
    return msgspec.msgpack.encode(_Image(version, leaf, image_of(fleet)))


async def restored(raw: bytes, version: str, log: EventLog, trimmed_to: Callable[[], Awaitable[int]]) -> Fleet | None:
    """The fleet; None where another version wrote it, or of another log, or the log was trimmed beyond it."""
    try:
        image = msgspec.msgpack.decode(raw, type=_Image)
        fleet = _read(image.fleet)
    except msgspec.MsgspecError:
        logger.info("The scheduler's image does not fit this program; the log is folded from its start.")
        return None
    entry = await log.entry(fleet.position)
    if image.version != version or entry is None:
        return None
    if fleet.position < await trimmed_to():
        # It may know of a task as running whose end the log was trimmed of.
        logger.info("The log was trimmed beyond the scheduler's image; the log is folded from its start.")
        return None
    return fleet if leaf_hash(entry.position, entry.subject, entry.body) == image.leaf else None


def _read(image: bytes) -> Fleet:
    """All of it stays, and the collector would look at it again and again for half the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return fleet_of(image)
    finally:
        if collects:
            gc.enable()
