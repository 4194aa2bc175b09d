"""A new user's first hour: the README's two lines, a thousand real files, and four kinds of trouble told apart."""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.accept.program import Program
from tests.accept.script import Figures, Options, expect, main, note

ROOT = Path(__file__).parent.parent.parent
TROUBLE = {"fails", "outlives its timeout", "prints 10 MB", "needs a gpu"}


def run(options: Options) -> Figures:
    """docs/examples/stdlib_tasks.py | hivebus task submit --file - --wait, checked against the files themselves."""
    lines = _example()
    expect(len(lines) > 1000, f"the example prints only {len(lines)} tasks")
    if options.fast:
        trouble = [line for line in lines if json.loads(line).get("name") in TROUBLE]
        lines = random.Random(options.seed).sample(lines[: -len(trouble)], 120) + trouble
    with tempfile.TemporaryDirectory() as folder, Program(Path(folder) / "data") as program:
        note(f"{len(lines)} tasks")
        done = program.command("task", "submit", "--file", "-", "--wait", "--json", stdin=b"\n".join(lines))
        expect(done.returncode == 1, f"exit {done.returncode} where some tasks fail: {done.stderr[-800:]!r}")
        tasks = {task["name"]: task for task in json.loads(done.stdout)["tasks"]}
        expect(len(tasks) == len(lines), f"{len(tasks)} of {len(lines)} tasks came back")
        checked = sum(_check(json.loads(line), tasks) for line in lines)
        kinds = _trouble(tasks)
        table = program.command("task", "submit", "--type", "hello", "--wait", "--", "echo", "hello")
        expect(table.returncode == 0 and b"hello" in table.stdout, f"{table.stdout!r} {table.stderr!r}")
        expect(b"\x1b" not in table.stdout, "a piped table has escape codes")
        exits = _exit_codes(program)
    seconds = sorted(task["result"]["duration_s"] for task in tasks.values() if task["status"] == "completed")
    return {
        "tasks": len(tasks),
        "results_equal_to_the_files": checked,
        "p50_s": round(seconds[len(seconds) // 2], 3),
        **kinds,
        "exit_codes": exits,
    }


def _example() -> list[bytes]:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "examples" / "stdlib_tasks.py"], capture_output=True, check=True, timeout=60
    )
    return done.stdout.splitlines()


def _check(line: dict[str, Any], tasks: dict[str, Any]) -> int:
    """1 if the result is what the file says, 0 for a line about trouble."""
    if line["name"] in TROUBLE:
        return 0
    task = tasks[line["name"]]
    expect(task["status"] == "completed", f"{task['name']}: {task['status']} {task['error']}")
    expect(task["executor"] == "command" and task["agent_id"], f"{task['name']} does not say who ran it")
    path = Path(line["parameters"]["argv"][-1])
    body = path.read_bytes()
    stdout = task["result"]["stdout"]
    expect(hashlib.sha256(body).hexdigest() in stdout, f"{path}: {stdout!r} has another hash")
    expect(str(len(body)) in re.findall(r"\d+", stdout), f"{path}: {stdout!r} has another size")
    return 1


def _trouble(tasks: dict[str, Any]) -> Figures:
    fails, timeout, loud, gpu = (
        tasks[name] for name in ("fails", "outlives its timeout", "prints 10 MB", "needs a gpu")
    )
    expect(fails["status"] == "failed" and fails["result"]["exit_code"] not in (0, None), f"{fails}")
    expect(timeout["status"] == "failed" and timeout["outcome"] == "timed_out", f"{timeout}")
    expect(loud["status"] == "completed" and loud["result"]["stdout_bytes"] >= 10_000_000, f"{loud['result']}")
    expect(loud["result"]["stdout_blob"]["size"] >= 10_000_000, "10 MB of output are not kept")
    expect(gpu["status"] == "queued" and "gpu" in gpu["unassignable"], f"{gpu}")
    return {
        "fails": f"exit {fails['result']['exit_code']}",
        "timeout": timeout["outcome"],
        "loud_bytes": loud["result"]["stdout_bytes"],
        "gpu": gpu["unassignable"],
    }


def _exit_codes(program: Program) -> dict[str, int]:
    """0 all completed, 1 some not, 2 usage, 3 unreachable, 4 still waiting."""
    submit = ("task", "submit", "--type", "exit", "--wait")
    codes = {
        "completed": program.command(*submit, "--", "true").returncode,
        "failed": program.command("task", "submit", "--file", "-", "--wait", stdin=_failing()).returncode,
        "usage": program.command("task", "submit", "--no-such-option").returncode,
        "waiting": program.command(*submit, "--timeout", "1", "--", "sleep", "20").returncode,
    }
    program.terminate()
    codes["unreachable"] = program.command("task", "list").returncode
    expected = {"completed": 0, "failed": 1, "usage": 2, "waiting": 4, "unreachable": 3}
    expect(codes == expected, f"exit codes {codes}")
    return codes


def _failing() -> bytes:
    task = {"type": "exit", "executor": "command", "parameters": {"argv": ["false"]}, "retry": {"max_attempts": 1}}
    return json.dumps(task).encode()


if __name__ == "__main__":
    main("first-hour", run)
