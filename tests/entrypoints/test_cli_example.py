from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from core.execution import parameters_of
from core.task import SubmitTask

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "stdlib_tasks.py"


def tasks(*args: str) -> list[dict[str, Any]]:
    done = subprocess.run([sys.executable, str(EXAMPLE), *args], capture_output=True, text=True, check=True, timeout=30)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_example_prints_over_a_thousand_tasks_that_the_server_takes() -> None:
    found = [msgspec.convert(task, SubmitTask) for task in tasks()]
    for task in found:
        parameters_of(task.executor or "", task.parameters)
    assert len(found) > 1000
    assert [task.name for task in found[-4:]] == ["fails", "outlives its timeout", "prints 10 MB", "needs a gpu"]


def test_without_trouble_each_task_counts_one_real_file() -> None:
    found = tasks("--no-trouble")
    assert {task["type"] for task in found} == {"hash-and-count"}
    argv = found[0]["parameters"]["argv"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    content = Path(argv[-1]).read_bytes()
    assert said[1:] == [str(content.count(b"\n")), "lines", str(len(content)), "bytes"]
    assert "site-packages" not in "".join(task["name"] for task in found)
