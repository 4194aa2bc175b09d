"""Prints a task for each file of Python's standard library: hash it, and count its lines and bytes.

    python docs/examples/stdlib_tasks.py | hivebus task submit --file - --wait

Real work on over a thousand real files, the same on Linux and macOS, without any package or key: each task is one
program in one process that reads one file. Beside them stand four tasks that do not go well, so that you see what
Hivebus says about such; `--no-trouble` leaves them out. The submit therefore ends with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

LEFT_OUT = {"site-packages", "dist-packages", "__pycache__"}

# -I -S: nothing but the standard library is looked for, which halves the interpreter's start.
COUNT = """\
import hashlib, sys
data = open(sys.argv[1], "rb").read()
print(hashlib.sha256(data).hexdigest(), data.count(b"\\n"), "lines", len(data), "bytes")
"""
FLOOD = """\
import sys
for _ in range(10):
    sys.stdout.write(("x" * 1023 + "\\n") * 1024)
"""


def program(source: str, *arguments: str) -> list[str]:
    """An argv that runs a tiny program with this very interpreter."""
    return [sys.executable, "-I", "-S", "-c", source, *arguments]


def files() -> Iterator[tuple[str, Path]]:
    """Each source file of the standard library with its relative name, in order."""
    root = Path(sysconfig.get_path("stdlib"))
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT)
        for name in sorted(names):
            path = Path(folder, name)
            if path.suffix == ".py" and path.is_file():
                yield path.relative_to(root).as_posix(), path


def work() -> Iterator[dict[str, Any]]:
    """One task per file."""
    for name, path in files():
        yield {
            "type": "hash-and-count",
            "name": name[-200:],
            "executor": "command",
            "parameters": {"argv": program(COUNT, str(path))},
            "retry": {"max_attempts": 2, "initial_interval_ms": 100},
        }


def trouble() -> Iterator[dict[str, Any]]:
    """What goes wrong in real life: a failure, a hang, a flood of output, and a wish that nobody can fulfil."""
    command = {"executor": "command", "retry": {"max_attempts": 2, "initial_interval_ms": 100}}
    yield {
        **command,
        "type": "trouble",
        "name": "fails",
        "parameters": {"argv": program("import sys; sys.exit('this task fails on purpose')")},
    }
    yield {
        **command,
        "type": "trouble",
        "name": "outlives its timeout",
        "parameters": {"argv": ["sleep", "30"]},
        "timeout_s": 1,
        "retry": {"max_attempts": 1},
    }
    yield {**command, "type": "trouble", "name": "prints 10 MB", "parameters": {"argv": program(FLOOD)}}
    yield {
        **command,
        "type": "trouble",
        "name": "needs a gpu",
        "parameters": {"argv": ["echo", "never printed"]},
        "requires": ["gpu"],
    }


def main() -> None:
    """Print the tasks, one JSON object a line."""
    parser = argparse.ArgumentParser(description="A task per file of the standard library, as JSON lines.")
    parser.add_argument(
        "--with-trouble",
        action="store_true",
        default=True,
        help="add four tasks that do not go well (this is the default)",
    )
    parser.add_argument("--no-trouble", dest="with_trouble", action="store_false", help="leave them out")
    options = parser.parse_args()
    try:
        for task in chain(work(), trouble() if options.with_trouble else ()):
            print(json.dumps(task))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has enough: `| head -100`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
