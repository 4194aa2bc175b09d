"""A backup taken under load, everything deleted, restored: equal at the backup's position, and at work again."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.accept.program import Client, Program
from tests.accept.script import Figures, Options, expect, main, note

SETTLE_S_MAX = 300.0
LARGE = "large " * 20_000


class Load(threading.Thread):
    """Submits its share under keys, as fast as it is acknowledged, until it is told to stop."""

    def __init__(self, program: Program, name: str) -> None:
        super().__init__(daemon=True)
        self._program = program
        self._name = name
        self.stop = threading.Event()
        self.acknowledged: dict[str, tuple[str, int]] = {}
        self.wrong: list[str] = []

    def run(self) -> None:
        client, number = self._program.client(), 0
        while not self.stop.is_set():
            key = f"{self._name}-{number}"
            try:
                answer = client.request("POST", "/api/tasks", task(key, number), {"Idempotency-Key": key})
            except (OSError, http.client.HTTPException):
                return  # it was killed, as it is meant to be
            if answer.status == 202:
                self.acknowledged[key] = (answer.json["task_id"], answer.json["position"])
                number += 1
            elif answer.status not in (429, 503, 504):
                self.wrong.append(answer.raw.decode()[:300])
            time.sleep(0.02)


def task(key: str, number: int) -> dict[str, Any]:
    """Most are small; some hold what lies in blobs: a large value, a private one, a large result."""
    arguments: dict[str, Any] = {"key": key}
    if number % 20 == 1:
        arguments["large"] = LARGE + key
    if number % 20 == 2:
        arguments["secret"] = {"private": f"only for {key}"}
    if number % 20 == 3:
        argv = ["sh", "-c", f"yes {key} | head -c 200000"]
        return {"type": "output", "executor": "command", "parameters": {"argv": argv}}
    parameters = {"function": "echo", "arguments": arguments}
    return {"type": "echo", "executor": "python", "parameters": parameters, "retry": {"max_crashes": 20}}


def run(options: Options) -> Figures:
    """Every event, every row as of the position, every blob and key; verify; unfinished work ends; keys still hold."""
    rng = random.Random(options.seed)
    warm_s = options.count(20, 5)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        program = Program(place / "data", HIVEBUS_GRACE_S="2")
        program.start()
        _secret(program, "TOKEN", "a value that the backup carries")
        loads = [Load(program, f"load{index}") for index in range(4)]
        for load in loads:
            load.start()
        time.sleep(warm_s + rng.uniform(0.0, 1.0))
        file = place / "hivebus.tar"
        taken = [_backup(program, file, *again) for again in ((), ("--force", "--gzip"), ("--force",))]
        said = taken[-1]
        position = said["position"]
        time.sleep(1.0)
        for load in loads:
            load.stop.set()
            load.join(60)
        wrong = [sentence for load in loads for sentence in load.wrong]
        expect(not wrong, f"under load: {wrong[:3]}")
        acknowledged = {key: ids for load in loads for key, ids in load.acknowledged.items()}
        expect(any(at > position for _, at in acknowledged.values()), "nothing was accepted after the backup")
        before = Picture(program, position)
        figures = {
            "position": position,
            "root": said["root"][:16],
            "backup_bytes": said["bytes"],
            "backups": len(taken),
        }
        program.kill()
        keys = {name: (program.root / name).read_bytes() for name in ("admin.key", "fingerprint.key", "host.id")}
        shutil.rmtree(program.root)
        _refuse_damaged(program, file, place)
        restored_s = _restore(program, file, position)
        expect(all((program.root / n).read_bytes() == k for n, k in keys.items()), "a key is not the one that it was")
        secret = program.root / "secrets" / "TOKEN"
        expect(secret.read_text() == "a value that the backup carries", "the secret is not restored")
        _refuse_used(program, file)
        ready_s = program.start()
        note(f"restored in {restored_s:.1f} s, ready after {ready_s:.1f} s")
        after = Picture(program, position)
        before.expect_equal(after)
        _verify(program)
        figures |= _works(program, acknowledged, position)
        _verify(program)
        after_all = Picture(program, position)
        before.expect_equal(after_all)
        program.terminate()
        return {
            **figures,
            "events": len(before.events),
            "tasks": len(before.tasks),
            "blobs": len(before.blobs),
            "backup_s": [round(one["seconds"], 2) for one in taken],
            "restore_s": round(restored_s, 2),
            "ready_s": round(ready_s, 2),
        }


class Picture:
    """What a running program tells as of a position: every event, every row through the queries, every blob."""

    def __init__(self, program: Program, position: int) -> None:
        client = program.client()
        _applied(client, position)
        self.events = [event for event in client.events() if int(event["sequence"]) <= position]
        at = f"at={position}"
        self.tasks = {row["id"]: client.get(f"/api/tasks/{row['id']}?{at}") for row in _pages(client, "tasks", at)}
        self.agents = {row["id"]: client.get(f"/api/agents/{row['id']}?{at}") for row in _pages(client, "agents", at)}
        self.listed = {name: _pages(client, name, at) for name in ("tasks", "agents")}
        self.queue = client.get(f"/api/queue?{at}")
        names = sorted(set(_blob_names([event["data"] for event in self.events])))
        self.blobs = {name: _blob(client, name) for name in names}

    def expect_equal(self, other: Picture) -> None:
        """Raise Failed with the first thing that differs."""
        expect(self.events and self.tasks and self.blobs, "there is nothing to compare")
        for name in ("events", "listed", "queue", "tasks", "agents", "blobs"):
            mine, theirs = getattr(self, name), getattr(other, name)
            expect(mine == theirs, f"{name} differ after the restore: {_first_difference(mine, theirs)}")


def _first_difference(mine: Any, theirs: Any) -> str:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in {**mine, **theirs}:
            if mine.get(key) != theirs.get(key):
                return f"{key}: {_first_difference(mine.get(key), theirs.get(key))}"
    if isinstance(mine, list) and isinstance(theirs, list):
        for index, (one, two) in enumerate(zip(mine, theirs, strict=False)):
            if one != two:
                return f"[{index}]: {_first_difference(one, two)}"
        return f"{len(mine)} and {len(theirs)} items"
    return f"{str(mine)[:200]} and {str(theirs)[:200]}"


def _pages(client: Client, noun: str, at: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    while True:
        more = f"&offset={len(rows)}" if rows else ""
        page = client.get(f"/api/{noun}?{at}&limit=1000{more}")
        rows += page[noun]
        if not page.get("pagination", {}).get("has_more"):
            return rows


def _blob_names(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["blob"]] if isinstance(value.get("blob"), str) else []
        return own + [name for item in value.values() for name in _blob_names(item)]
    return [name for item in value for name in _blob_names(item)] if isinstance(value, list) else []


def _blob(client: Client, name: str) -> int:
    answer = client.request("GET", f"/api/blobs/{name}")
    expect(answer.status == 200, f"blob {name}: {answer.status}")
    expect(hashlib.sha256(answer.raw).hexdigest() == name, f"blob {name} holds other bytes")
    return len(answer.raw)


def _applied(client: Client, position: int) -> None:
    deadline = time.monotonic() + 60
    while client.get("/api/status")["positions"]["applied"] < position:
        expect(time.monotonic() < deadline, f"the views did not reach {position}")
        time.sleep(0.05)


def _secret(program: Program, name: str, value: str) -> None:
    folder = program.root / "secrets"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = os.open(folder / name, os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(file, "w") as stream:
        stream.write(value)


def _backup(program: Program, file: Path, *more: str) -> dict[str, Any]:
    done = program.command("backup", str(file), "--json", *more)
    expect(done.returncode == 0, f"backup: {done.stdout!r} {done.stderr!r}")
    said: dict[str, Any] = json.loads(done.stdout)
    known = json.loads((program.root / "backup.json").read_text())
    expect(known["position"] == said["position"] and known["file"] == str(file), f"backup.json: {known}")
    expect(file.stat().st_mode & 0o077 == 0, "others can read the backup")
    note(f"backup of position {said['position']}, {said['bytes'] / 1e6:.1f} MB in {said['seconds']:.2f} s")
    return said


def _restore(program: Program, file: Path, position: int) -> float:
    started = time.monotonic()
    done = program.command("restore", str(file), "--json")
    expect(done.returncode == 0, f"restore: {done.stdout!r} {done.stderr!r}")
    expect(json.loads(done.stdout)["position"] == position, f"restored to another position: {done.stdout!r}")
    return time.monotonic() - started


def _refuse_damaged(program: Program, file: Path, place: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    for name, content in (("flipped.tar", bytes(data)), ("cut.tar", bytes(data[: len(data) // 2]))):
        (place / name).write_bytes(content)
        done = program.command("restore", str(place / name), "--json")
        code = json.loads(done.stdout)["code"]
        expect(done.returncode == 1 and code == "backup_damaged", f"{name}: {done.stdout!r} {done.stderr!r}")
        expect(not program.root.exists(), f"{name} was refused and left something")


def _refuse_used(program: Program, file: Path) -> None:
    done = program.command("restore", str(file), "--json")
    expect(done.returncode == 1 and json.loads(done.stdout)["code"] == "data_dir_used", f"over data: {done.stdout!r}")


def _verify(program: Program) -> None:
    done = program.command("verify", "--json")
    expect(done.returncode == 0, f"verify: {done.stdout!r} {done.stderr!r}")


def _works(program: Program, acknowledged: dict[str, tuple[str, int]], position: int) -> Figures:
    """A key of before answers its task, a key of after is free again, and all work ends."""
    client = program.client()
    kept = lost = 0
    for key, (task_id, at) in acknowledged.items():
        number = int(key.rpartition("-")[2])
        answer = client.request("POST", "/api/tasks", task(key, number), {"Idempotency-Key": key})
        expect(answer.status == 202, f"{key}: {answer.raw[:300]!r}")
        same = (answer.json["task_id"], answer.json["position"]) == (task_id, at)
        if at <= position:
            expect(same and answer.json.get("repeated"), f"{key} was acknowledged at {at} and is not known")
            kept += 1
        else:
            expect(answer.json["position"] > position, f"{key} got a position of before the backup")
            lost += 1
    deadline = time.monotonic() + SETTLE_S_MAX
    while live := client.get("/api/status")["metrics"]["live_tasks"]:
        expect(time.monotonic() < deadline, f"{live} tasks have not ended")
        time.sleep(0.1)
    newest = max(int(event["sequence"]) for event in client.events())
    _applied(client, newest)
    ended = {row["status"] for row in _pages(client, "tasks", f"at={newest}")}
    expect(ended <= {"completed", "failed"}, f"tasks are {ended}")
    return {"acknowledged": len(acknowledged), "known_again": kept, "accepted_anew": lost}


if __name__ == "__main__":
    main("backup", run)
