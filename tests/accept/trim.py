"""The log trimmed while commands come: the broker shrinks, what anybody reads stays, and nothing happens twice."""

from __future__ import annotations

import json
import sqlite3
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.accept.broker_log import broker_of, held, recorded
from tests.accept.program import Client, Program
from tests.accept.script import Figures, Options, expect, main, note

SETTLE_S_MAX = 900.0
# Go looks for garbage every two minutes at the latest, and gives it back some time after.
FALL_S_MAX = 300.0
BATCH = 100
# The broker gives disk back by whole blocks of 8 MiB: there must be several.
PAD = 4000


class Load(threading.Thread):
    """Submits small batches until it is told to stop."""

    def __init__(self, program: Program) -> None:
        super().__init__(daemon=True)
        self._client = program.client()
        self.stopping = threading.Event()
        self.accepted = 0
        self.worst_ms = 0.0
        self.failed: list[str] = []

    def run(self) -> None:
        while not self.stopping.is_set():
            began = time.monotonic()
            answer = self._client.request(
                "POST", "/api/tasks", [task("load", number) for number in range(5)], {"Idempotency-Key": f"{began}"}
            )
            self.worst_ms = max(self.worst_ms, (time.monotonic() - began) * 1000)
            if answer.status != 202:
                self.failed.append(f"{answer.status} {answer.raw[:200]!r}")
            else:
                self.accepted += 5
            time.sleep(0.1)


def task(word: str, number: int) -> dict[str, Any]:
    """A task that only echoes."""
    parameters = {"function": "echo", "arguments": {"number": number, "pad": "x" * PAD}}
    return {"type": word, "executor": "python", "parameters": parameters}


def run(options: Options) -> Figures:
    """Trimmed under load: memory and disk fall, old tasks answer, late duplicates make nothing, verify holds."""
    tasks = options.count(20_000, 5000)
    with tempfile.TemporaryDirectory() as folder:
        program = Program(Path(folder) / "data", HIVEBUS_PYTHON_SLOTS="16")
        program.start()
        client = program.client()
        first = _submit(client, tasks)
        _settle(client)
        cancelled = client.request("DELETE", f"/api/tasks/{first['task_id']}")
        figures: Figures = {"tasks": tasks, "cancel_before": cancelled.status}
        old = client.get(f"/api/tasks/{first['task_id']}")
        refused = _trim(program, "--older", "1s")
        expect(refused["code"] == "no_backup", f"it trimmed without a backup: {refused}")
        program.terminate()
        program.start()
        client = program.client()
        before = _measure(program)
        time.sleep(1.1)
        planned = _trim(program, "--older", "1s", "--without-backup", "--dry-run")
        expect(
            planned["commits"] > 0 and len(held(program)) == before["held"], f"a dry run changed something: {planned}"
        )
        load = Load(program)
        load.start()
        done = _trim(program, "--older", "1s", "--without-backup")
        note(f"trimmed: {done}")
        load.stopping.set()
        load.join()
        expect(done["subjects"] >= tasks - 1000, f"only {done['subjects']} subjects went")
        expect(not load.failed, f"commands failed while the log was trimmed: {load.failed[:3]}")
        figures |= {"trim_s": done["seconds"], "commits_gone": done["commits"], "load_accepted": load.accepted}
        figures["load_worst_ms"] = round(load.worst_ms)
        _settle(client)
        _still_answers(client, first, old)
        figures |= _shrunk(program, before)
        figures |= _after_restarts(program, first, old)
        verified = program.command("verify", "--json")
        report = json.loads(verified.stdout)
        expect(verified.returncode == 0 and report["heads"] > 0, f"verify: {report} {verified.stderr!r}")
        program.terminate()
        _forge(program)
        return figures | {"heads": report["heads"], "position": report["position"]}


def _submit(client: Client, tasks: int) -> dict[str, Any]:
    """All tasks; the first one under a key of its own."""
    answer = client.request("POST", "/api/tasks", task("first", 0), {"Idempotency-Key": "the-first"})
    expect(answer.status == 202, f"submit: {answer.status} {answer.raw[:300]!r}")
    first: dict[str, Any] = answer.json
    for start in range(1, tasks, BATCH):
        batch = [task("old", number) for number in range(start, min(tasks, start + BATCH))]
        sent = client.request("POST", "/api/tasks", batch, {"Idempotency-Key": f"old-{start}"})
        expect(sent.status == 202, f"submit: {sent.status} {sent.raw[:300]!r}")
    return first


def _settle(client: Client) -> None:
    deadline = time.monotonic() + SETTLE_S_MAX
    while client.get("/api/status")["metrics"]["live_tasks"]:
        expect(time.monotonic() < deadline, "the tasks did not end")
        time.sleep(0.1)


def _trim(program: Program, *words: str) -> dict[str, Any]:
    done = program.command("log", "trim", *words, "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    expect(done.returncode == (0 if "state" in found else 1), f"log trim: {found} {done.stderr!r}")
    return found


def _measure(program: Program) -> dict[str, int]:
    """What the broker takes, and how many positions it holds."""
    return {"rss": broker_of(program).memory_info().rss, "disk": _disk(program), "held": len(held(program))}


def _disk(program: Program) -> int:
    return sum(file.stat().st_size for file in (program.root / "nats").rglob("*") if file.is_file())


def _still_answers(client: Client, first: dict[str, Any], old: dict[str, Any]) -> None:
    """The oldest task as it was; created again it is the same one, another body is refused, a command is too late."""
    path = f"/api/tasks/{first['task_id']}"
    now = client.get(path)
    expect({**now, "position": 0} == {**old, "position": 0}, f"the old task is another: {now} before {old}")
    head = client.get("/api/status")["positions"]["recorded"]
    again = client.request("POST", "/api/tasks", task("first", 0), {"Idempotency-Key": "the-first"})
    expect(
        again.status == 202 and again.json["position"] == first["position"], f"a repeat made something: {again.raw!r}"
    )
    other = client.request("POST", "/api/tasks", task("other", 0), {"Idempotency-Key": "the-first"})
    expect(other.status == 409 and other.json["code"] == "idempotency_key_reused", f"another body: {other.raw!r}")
    late = client.request("DELETE", path)
    expect(late.status == 410 and late.json["code"] == "trimmed_task", f"a late command: {late.status} {late.raw!r}")
    events = [event for event in client.events(head) if event["subject"] == f"task/{first['task_id']}"]
    expect(not events, f"the trimmed task got new events: {events}")
    story = [event["type"] for event in client.events(noun="task", id=first["task_id"])]
    expect(story[0] == "hivebus.task.submitted" and len(story) > 2, f"the history of the task is cut: {story}")


def _shrunk(program: Program, before: dict[str, int]) -> Figures:
    """The broker as soon as its memory is below what it was, and after a restart: Go gives memory back late."""
    began = time.monotonic()
    while broker_of(program).memory_info().rss >= before["rss"] and time.monotonic() - began < FALL_S_MAX:
        time.sleep(0.5)
    waited_s = round(time.monotonic() - began, 1)
    fell_s = waited_s if broker_of(program).memory_info().rss < before["rss"] else "not while it ran"
    now = {"rss": broker_of(program).memory_info().rss, "disk": _disk(program)}
    program.terminate()
    program.start()
    after = _measure(program)
    expect(after["held"] < before["held"] / 2, f"the log holds {after['held']} of {before['held']}")
    expect(after["disk"] < before["disk"] / 2, f"disk fell from {before['disk']} to {after['disk']}")
    expect(after["rss"] < before["rss"], f"memory did not fall: {before['rss']} to {after['rss']}")
    mib = 1024 * 1024
    figures: Figures = {"memory_fell_after_s": fell_s}
    if fell_s == "not while it ran":
        figures["falls_short"] = ["the broker's memory fell only with its next start"]
    for name, sizes in (("before", before), ("running", now), ("restarted", after)):
        figures[f"broker_{name}"] = f"{sizes['rss'] / mib:.1f} MiB, disk {sizes['disk'] / mib:.1f} MiB"
    return figures


def _after_restarts(program: Program, first: dict[str, Any], old: dict[str, Any]) -> Figures:
    """Killed, without the image of the fold: the log's start is missing, and the scheduler knows why."""
    _still_answers(program.client(), first, old)
    program.kill()
    (program.root / "scheduler.image").unlink(missing_ok=True)
    took_s = program.start()
    _still_answers(program.client(), first, old)
    log, store = held(program), recorded(program)
    wrong = [position for position, leaf in log.items() if store.get(position, leaf) != leaf]
    expect(not wrong, f"the log changed what it kept: {wrong[:5]}")
    return {"start_after_trim_s": round(took_s, 2)}


def _forge(program: Program) -> None:
    """A changed root, and a changed signature, are found."""
    for column in ("root", "signature"):
        store = sqlite3.connect(program.root / "store.db")
        size, value = store.execute(f"SELECT size, {column} FROM heads ORDER BY size LIMIT 1").fetchone()
        store.execute(f"UPDATE heads SET {column} = ? WHERE size = ?", (bytes([value[0] ^ 1]) + value[1:], size))
        store.commit()
        found = program.command("verify", "--json")
        report = json.loads(found.stdout)
        expect(found.returncode == 1 and report["difference"]["column"] == column, f"a forged {column}: {report}")
        store.execute(f"UPDATE heads SET {column} = ? WHERE size = ?", (value, size))
        store.commit()
        store.close()


if __name__ == "__main__":
    main("trim", run)
