"""Functions that the tests of the python executor register."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from typing import Any

from adapters.executors.python_child import Task


def add(a: int, b: int = 1) -> int:
    print("adding")
    return a + b


def fail(message: str) -> None:
    raise ValueError(message)


def leave() -> None:
    sys.exit(3)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def spin(pid_file: str) -> None:
    child = subprocess.Popen(["sleep", "300"])
    with open(pid_file + ".new", "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    os.rename(pid_file + ".new", pid_file)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(0.05)


def big(size: int) -> str:
    return "x" * size


def unjsonable() -> Any:
    return object()


def look_around(task: Task) -> dict[str, Any]:
    task.report(0.5, current_step="looking")
    (task.workspace / "made.txt").write_text("made")
    return {"id": task.task_id, "attempt": task.attempt, "cwd": os.getcwd() == str(task.workspace)}


async def look_around_async(task: Task) -> str:
    task.report(0.25, steps_completed=1, total_steps=4)
    (task.workspace / "made.txt").write_text("made")
    return task.task_id


async def fail_async(message: str) -> None:
    raise ValueError(message)


async def leave_async() -> None:
    sys.exit(3)


async def stubborn() -> None:
    while True:
        try:
            await asyncio.sleep(0.2)
        except asyncio.CancelledError:
            return


def paint(task: Task) -> str:
    try:
        return f"painted {task.ask('Which colour?', choices=['red', 'blue'])}"
    except Exception:
        return "a question is no failure"


async def paint_async(task: Task, key: str = "") -> str:
    return f"painted {task.ask(f'Which colour?{key}')}"


not_callable = 1


def buy(task: Task) -> dict[str, Any]:
    task.spend(tokens=5)
    task.spend(tokens=2, cost=0.25)
    return {"tokens_left": task.tokens_left, "cost_left": task.cost_left}


async def buy_async(task: Task) -> dict[str, Any]:
    return buy(task)


def cheat(task: Task, tokens: Any) -> None:
    task.spend(tokens=tokens)
