"""The file in which a program says, as often as it likes, what it used so far: {"tokens": 1234, "cost": 0.05}.

Its path is in HIVEBUS_USAGE_FILE. It lies in the workspace's TMPDIR, so it is no file of the result. While the program
runs it is looked at once a second, and again at the end; what cannot be read then is said in the result.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from adapters.executors.workspace import TEMPORARY
from core.execution import Attempt, Progress, Usage

USAGE_FILE_MAX_BYTES = 4096
LOOK_EVERY_S = 1.0


class Unreadable(Exception):
    """What stands there is no usage; the sentence says why."""


def environment(attempt: Attempt, workspace: Path) -> dict[str, str]:
    """Where a program says what it used, and what is left to it where its task has a budget."""
    found = {"HIVEBUS_USAGE_FILE": str(path_in(workspace))}
    if attempt.left.tokens is not None:
        found["HIVEBUS_TASK_TOKENS_LEFT"] = str(attempt.left.tokens)
    if attempt.left.cost is not None:
        found["HIVEBUS_TASK_COST_LEFT"] = f"{attempt.left.cost:.9f}"
    return found


def path_in(workspace: Path) -> Path:
    """Where the file lies."""
    return workspace / TEMPORARY / "usage.json"


def usage_in(workspace: Path) -> Usage | None:
    """What the program says; None where it says nothing. Raises Unreadable."""
    try:
        # The program may have put anything there: a link would lead elsewhere, and a pipe would wait for ever.
        fd = os.open(path_in(workspace), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreadable(f"its usage file cannot be read: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Unreadable("its usage file is no plain file")
        data = os.read(fd, USAGE_FILE_MAX_BYTES + 1)
    finally:
        os.close(fd)
    if len(data) > USAGE_FILE_MAX_BYTES:
        raise Unreadable(f"its usage file has more than {USAGE_FILE_MAX_BYTES} bytes")
    try:
        return msgspec.json.decode(data, type=Usage)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Unreadable(f"its usage file is no {{tokens, cost}}: {error}") from error


@asynccontextmanager
async def watched(workspace: Path, report: Callable[[Progress], None]) -> AsyncIterator[None]:
    """Inside the block, report what the program says whenever it says something else."""
    watch = asyncio.create_task(_watch(workspace, report))
    try:
        yield
    finally:
        watch.cancel()


async def _watch(workspace: Path, report: Callable[[Progress], None]) -> None:
    reported: Usage | None = None
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        # Half a line may be written yet: what is wrong at the end is wrong.
        with contextlib.suppress(Unreadable, OSError):
            usage = usage_in(workspace)
            if usage is not None and usage != reported:
                reported = usage
                report(Progress(usage=usage))
