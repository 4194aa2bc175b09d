"""What every long-running process of Hivebus does alike: how it logs, how its tasks end, and how it says why."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import resource
import sys
from collections.abc import Sequence

from core.kernel.errors import HivebusError

END_S = 0.5
DESCRIPTORS = 65_536
_M_TRIM_THRESHOLD, _M_ARENA_MAX = -1, -8  # malloc.h

logger = logging.getLogger("hivebus")


def begin_log(level: str) -> None:
    """To stderr, one line an entry."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s  %(message)s"
    )


def tune() -> None:
    """Settings of the interpreter that this program's shape asks for (docs/decisions/0006)."""
    # A batch in the store's thread would else keep the loop waiting 5 ms each time it asks for the interpreter.
    sys.setswitchinterval(0.0005)
    # A command leaves some fifty objects that die young and no cycles: the collector need not look so often.
    gc.set_threshold(50_000, 20, 50)
    # Each client is a descriptor; what a shell is given at first is often 1024.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < DESCRIPTORS:
        wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if sys.platform == "linux":
        # glibc would keep a heap for each thread that writes or reads a database, and give little of it back.
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:  # musl has none
            mallopt(_M_ARENA_MAX, 2)
            mallopt(_M_TRIM_THRESHOLD, 256 * 1024)


async def end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel services until they have ended."""
    for task in tasks:
        task.cancel()
    while (await asyncio.wait(tasks, timeout=END_S))[1]:
        # Python 3.11's asyncio.wait_for loses a cancellation that meets a result (gh-86296), and a task group never
        # repeats one: so it goes to whatever still runs, not to the services alone.
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()


def explain(error: BaseException) -> int:
    """Why it ends, a sentence and a remedy for each reason; tracebacks only at level debug. The exit code."""
    for leaf in _leaves(error):
        if isinstance(leaf, HivebusError):
            sentence, remedy = leaf.sentence, leaf.remedy
        else:
            first_line = next(iter(str(leaf).splitlines()), "")
            sentence = f"it cannot go on: {type(leaf).__name__}: {first_line}"
            remedy = "HIVEBUS_LOG_LEVEL=debug shows where this came from; please report it."
            logger.debug("", exc_info=leaf)
        print(f"hivebus: {sentence}" + (f"\n  {remedy}" if remedy else ""), file=sys.stderr)
    return 1


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [] if isinstance(error, asyncio.CancelledError) else [error]
