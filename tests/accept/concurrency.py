"""Many clients at once lose nothing; one aggregate gives one order; a retried key gives the same task."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.accept.program import Client, Program
from tests.accept.script import Figures, Options, expect, main, note

CONTENDERS = 64


def task(number: int) -> dict[str, Any]:
    return {
        "type": "concurrent",
        "executor": "python",
        "parameters": {"function": "noop"},
        "name": f"task {number}",
    }


def run(options: Options) -> Figures:
    """50 clients create 200 tasks each; 64 commands meet on one aggregate; a key is used again."""
    clients, each = 50, options.count(200, 20)
    with tempfile.TemporaryDirectory() as folder, Program(Path(folder) / "data") as program:
        created, seconds = _create(program, clients, each)
        note(f"{len(created)} created in {seconds:.1f} s")
        client = program.client()
        _settle(client, clients * each)
        figures = _check(client, created, clients * each)
        outcomes = _contend(program)
        figures |= _retry(client)
        return {
            "clients": clients,
            "created": len(created),
            "created_per_s": round(len(created) / seconds),
            **figures,
            "contenders": outcomes,
        }


def _create(program: Program, clients: int, each: int) -> tuple[list[tuple[str, int]], float]:
    barrier = threading.Barrier(clients)

    def one(index: int) -> list[tuple[str, int]]:
        client = program.client()
        barrier.wait()
        answers = [client.request("POST", "/api/tasks", task(index * each + n)) for n in range(each)]
        expect(
            all(answer.status == 202 for answer in answers),
            f"refused: {[a.raw for a in answers if a.status != 202][:1]}",
        )
        return [(answer.json["task_id"], answer.json["position"]) for answer in answers]

    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        created = [pair for pairs in pool.map(one, range(clients)) for pair in pairs]
    return created, time.monotonic() - began


def _settle(client: Client, tasks: int) -> None:
    deadline = time.monotonic() + 300
    while client.get("/api/tasks?status=completed&limit=1")["pagination"]["total"] < tasks:
        expect(time.monotonic() < deadline, "the tasks did not complete within 300 s")
        time.sleep(0.2)


def _check(client: Client, created: list[tuple[str, int]], tasks: int) -> Figures:
    events = client.events()
    submitted = {(e["subject"], int(e["sequence"])) for e in events if e["type"] == "hivebus.task.submitted"}
    expect(submitted == {(f"task/{task_id}", position) for task_id, position in created}, "created and recorded differ")
    positions = sorted({int(event["sequence"]) for event in events})
    expect(positions == list(range(1, len(positions) + 1)), "the positions are not dense")
    total = client.get("/api/tasks?limit=1")["pagination"]["total"]
    expect(total == tasks, f"the view shows {total} of {tasks}")
    return {"recorded": len(submitted), "positions_dense_to": positions[-1]}


def _contend(program: Program) -> dict[str, int]:
    """64 cancels at once on one task: one cancels, the others find it cancelled; one order on the log."""
    client = program.client()
    waiting = {"type": "waiting", "executor": "command", "parameters": {"argv": ["true"]}, "requires": ["nobody"]}
    task_id = client.request("POST", "/api/tasks", waiting).json["task_id"]
    barrier = threading.Barrier(CONTENDERS)

    def cancel(_: int) -> tuple[int, int, str]:
        own = program.client()
        barrier.wait()
        answer = own.request("DELETE", f"/api/tasks/{task_id}")
        return answer.status, answer.json.get("position", 0), answer.json.get("previous_status", "")

    with ThreadPoolExecutor(CONTENDERS) as pool:
        answers = list(pool.map(cancel, range(CONTENDERS)))
    expect(all(status == 202 for status, _, _ in answers), f"{Counter(status for status, _, _ in answers)}")
    expect(len({position for _, position, _ in answers}) == CONTENDERS, "two commands share a position")
    client.get(f"/api/tasks/{task_id}?min_position={max(position for _, position, _ in answers)}")
    kinds = Counter(event["type"].removeprefix("hivebus.") for event in client.events(id=task_id))
    expect(kinds["task.cancelled"] == 1, f"{kinds}")
    expect(kinds["command.unchanged"] == CONTENDERS - 1, f"{kinds}")
    return {"cancelled": kinds["task.cancelled"], "unchanged": kinds["command.unchanged"]}


def _retry(client: Client) -> Figures:
    key = {"Idempotency-Key": "the same key"}
    first = client.request("POST", "/api/tasks", task(1), key)
    again = client.request("POST", "/api/tasks", task(1), key)
    other = client.request("POST", "/api/tasks", task(2), key)
    expect(first.status == again.status == 202, f"{first.status} {again.status}")
    expect(first.json["task_id"] == again.json["task_id"], "a retried key made another task")
    expect(first.json["position"] == again.json["position"], "a retried key made another commit")
    expect(other.status == 409 and other.json["code"] == "idempotency_key_reused", f"{other.status} {other.raw!r}")
    return {"retried_key": "same task", "other_body": other.status}


if __name__ == "__main__":
    main("concurrency", run)
