"""The broker's store replaced: by an older copy, which comes back by itself, and by a foreign one, which is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.accept.broker_log import held, recorded, replace_running, replace_store
from tests.accept.program import Client, Program
from tests.accept.script import Figures, Options, expect, main, note

SETTLE_S_MAX = 300.0


def run(options: Options) -> Figures:
    """Stopped and running, every position is what it was; another history stops the appends and shows both sides."""
    tasks = options.count(2000, 150)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        program = Program(root / "data")
        program.start()
        work(program.client(), tasks, "first")
        program.terminate()
        older = Path(shutil.copytree(program.root / "nats", root / "older"))
        shutil.copytree(program.root, root / "other")
        program.start()
        work(program.client(), tasks, "second")
        program.terminate()
        figures = {"tasks": 2 * tasks}
        figures |= _stopped(program, older)
        figures |= _running(program, older)
        figures |= _gone(program, root)
        branch = _branch(root)
        figures |= _foreign_running(program, branch)
        figures |= _foreign_stopped(program, branch)
        verified = program.command("verify", "--json")
        expect(verified.returncode == 0, f"verify: {verified.stdout!r} {verified.stderr!r}")
        return figures


def work(client: Client, tasks: int, word: str) -> None:
    """Submit tasks that do nothing, and wait until the store and the views have all of it."""
    for start in range(0, tasks, 500):
        batch = [
            {"type": word, "executor": "python", "parameters": {"function": "echo", "arguments": {"number": number}}}
            for number in range(start, min(tasks, start + 500))
        ]
        answer = client.request("POST", "/api/tasks", batch, {"Idempotency-Key": f"{word}-{start}"})
        expect(answer.status in (200, 202, 207), f"submit: {answer.status} {answer.raw[:300]!r}")
    until(lambda: client.get("/api/status")["metrics"]["live_tasks"] == 0, "the tasks did not end")


def until(holds: Callable[[], Any], otherwise: str) -> float:
    """Wait for a condition; the seconds that it took."""
    began = time.monotonic()
    while not holds():
        expect(time.monotonic() - began < SETTLE_S_MAX, otherwise)
        time.sleep(0.05)
    return time.monotonic() - began


def _answer(client: Client, path: str) -> tuple[int, Any]:
    try:
        answer = client.request("GET", path)
    except OSError:
        return 0, {}
    return answer.status, answer.json


def _expect_whole(program: Program, before: dict[int, str]) -> None:
    """Store and broker hold what the store held before, position by position."""
    log, store = held(program), recorded(program)
    expect(all(store.get(p) == leaf for p, leaf in before.items()), "the store changed a position")
    wrong = [position for position, leaf in before.items() if log.get(position) != leaf]
    expect(not wrong, f"the log holds something else at {wrong[:5]} and {len(wrong)} positions in all")


def _stopped(program: Program, older: Path) -> Figures:
    before = recorded(program)
    replace_store(program.root, older)
    took_s = program.start()
    _expect_whole(program, before)
    state = program.client().get("/api/status")["log"]
    expect(state["state"] == "equal" and state["restored"] > 0, f"status says {state}")
    note(f"stopped: {state['restored']} commits are back, ready after {took_s:.2f} s")
    work(program.client(), 20, "third")
    return {"restored_at_start": state["restored"], "start_s": round(took_s, 2)}


def _running(program: Program, older: Path) -> Figures:
    client = program.client()
    before = recorded(program)
    replace_running(program, older)
    took_s = until(lambda: _restored(client), "the log did not come back while the program ran")
    _expect_whole(program, before)
    state = client.get("/api/status")["log"]
    note(f"running: {state['restored']} commits are back after {took_s:.2f} s")
    work(client, 20, "fourth")
    return {"restored_running": state["restored"], "running_s": round(took_s, 2)}


def _restored(client: Client) -> bool:
    status, body = _answer(client, "/api/status")
    return status == 200 and body["log"]["state"] == "equal" and body["services"]["broker"] == "healthy"


def _gone(program: Program, root: Path) -> Figures:
    """The broker's whole store is gone: all of it comes back."""
    before = recorded(program)
    empty = root / "empty"
    empty.mkdir()
    replace_running(program, empty)
    until(lambda: _restored(program.client()), "an empty log did not come back")
    _expect_whole(program, before)
    return {"restored_from_nothing": len(before)}


def _branch(root: Path) -> Path:
    """The older copy, continued by another program: the same positions, other commits."""
    other = Program(root / "other")
    other.start()
    work(other.client(), 50, "elsewhere")
    other.terminate()
    return other.root / "nats"


def _foreign_running(program: Program, branch: Path) -> Figures:
    client = program.client()
    before = recorded(program)
    kept = program.root.parent / "kept"
    shutil.copytree(program.root / "nats", kept)
    replace_running(program, branch)
    until(lambda: _answer(client, "/api/status")[1].get("log", {}).get("state") == "diverged", "nobody noticed")
    status, ready = _answer(client, "/health/ready")
    expect(status == 503 and "different commits at position" in ready["detail"], f"readiness says {ready}")
    refused = client.request("POST", "/api/tasks", {"type": "no", "executor": "python", "parameters": {}})
    expect(refused.status in (422, 503), f"a submit was answered {refused.status}")
    one = {"type": "no", "executor": "python", "parameters": {"function": "echo", "arguments": {}}}
    refused = client.request("POST", "/api/tasks", one)
    expect(refused.status == 503, f"a submit was answered {refused.status} {refused.raw!r}")
    expect(_answer(client, "/api/tasks?limit=1")[0] == 200, "reads do not work any more")
    shown = _diverge(program.command("log", "diverge", "--json"))
    expect(recorded(program) == before, "the store took something from a foreign log")
    note(f"running on a foreign store: stopped and red; {shown['sentence']}")
    replace_running(program, kept)
    until(lambda: _restored(client), "the right store was not taken again")
    _expect_whole(program, before)
    program.terminate()
    return {"parted_after": shown["parted_after"]}


def _diverge(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    expect(done.returncode == 1, f"log diverge ended with {done.returncode}: {done.stderr!r}")
    shown: dict[str, Any] = json.loads(done.stdout)
    expect(shown["verdict"] == "diverged", f"log diverge says {shown['verdict']}")
    for side in ("log", "store"):
        missing = {"head", "commit_id", "subject", "occurred_at", "leaf"} - shown[side].keys()
        expect(not missing, f"log diverge does not show the {side}'s {missing}")
    return shown


def _foreign_stopped(program: Program, branch: Path) -> Figures:
    before = recorded(program)
    newest = Path(shutil.copytree(program.root / "nats", program.root.parent / "newest"))
    replace_store(program.root, branch)
    refused = program.command("up")
    said = refused.stderr.decode()
    expect(refused.returncode == 1, f"it started on a foreign store: {said}")
    expect("Log (to" in said and "Store (to" in said and "log diverge" in said, f"both sides are not shown: {said}")
    shown = _diverge(program.command("log", "diverge", "--json"))
    expect(shown["parted_after"] > 0, "the common part was not found")
    replace_store(program.root, newest)
    program.start()
    _expect_whole(program, before)
    equal = program.command("log", "diverge")
    expect(equal.returncode == 0, f"one history is shown as two: {equal.stdout!r}")
    program.terminate()
    return {"refused_at_start": True}


if __name__ == "__main__":
    main("lost-tail", run)
