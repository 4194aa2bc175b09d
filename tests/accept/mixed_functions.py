"""Task functions of the Show `mixed`, registered as a package of a user would: under the group hivebus.tasks."""

from __future__ import annotations

from pathlib import Path

from adapters.executors.python_child import Task

_METADATA = "Metadata-Version: 2.1\nName: mixed-tasks\nVersion: 1\n"
_ENTRIES = "[hivebus.tasks]\nflaky = tests.accept.mixed_functions:flaky\nsum = tests.accept.mixed_functions:total\n"


async def flaky(fails: int, task: Task) -> int:
    """Fail in the first attempts of a task, then return the attempt's number."""
    if task.attempt <= fails:
        raise RuntimeError(f"attempt {task.attempt} fails, as the first {fails} do")
    return task.attempt


async def total(**numbers: int) -> dict[str, int]:
    """The sum of the arguments, as `n`."""
    return {"n": sum(numbers.values())}


def install(folder: Path) -> None:
    """Write what makes the functions known to whoever has the folder on its PYTHONPATH."""
    info = folder / "mixed_tasks-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(_METADATA)
    (info / "entry_points.txt").write_text(_ENTRIES)
