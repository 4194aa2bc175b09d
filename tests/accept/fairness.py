"""One key floods; others that ask for little wait little: beside a fluid weighted fair queue with the same slots."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.accept.program import Client, Program
from tests.accept.script import Figures, Options, expect, main, note

SLOTS = 8
TASK_S = 0.05
SMALL_KEYS, EACH = 10, 10
REACH = 2.0
BATCH = 500
STEP_S = 0.0005
SETTLE_S_MAX = 600


def run(options: Options) -> Figures:
    """A flood of 50 ms tasks under one key, ten others with ten each, eight slots."""
    flood = options.count(10_000, 1_000)
    with tempfile.TemporaryDirectory() as folder, Program(Path(folder) / "data", **_only_python()) as program:
        client = program.client()
        _flood(client, flood)
        for key in range(SMALL_KEYS):
            _submit(client, [_task(f"small-{key}")] * EACH)
        total = flood + SMALL_KEYS * EACH
        _wait(lambda: _completed(client) >= total, f"{total} tasks to complete")
        tasks = _story(client)
        ours = _waits(tasks)
        ideal = _fluid(tasks)
        figures = {
            "slots": SLOTS,
            "flood": flood,
            "small_tasks": len(ours),
            "wait_p95_s": round(_p95(ours), 3),
            "fluid_p95_s": round(_p95(ideal), 3),
            "ratio": round(_p95(ours) / _p95(ideal), 2),
            "flood_wait_p95_s": round(_p95([t["waited"] for t in tasks.values() if t["key"] == "flood"]), 1),
            "slot_time_mean_ms": round(1000 * statistics.mean(t["took"] for t in tasks.values()), 1),
        }
        note(
            f"p95 wait of the small keys {figures['wait_p95_s']} s, fluid {figures['fluid_p95_s']} s, "
            f"a slot is held for {figures['slot_time_mean_ms']} ms"
        )
        expect(len(ours) == SMALL_KEYS * EACH, f"{len(ours)} small tasks ran")
        # Time is printed and never asserted: what falls short of its reach is said, and shown as such in the evidence.
        short = [f"{figures['ratio']} times the fluid queue's wait >= {REACH}"] if figures["ratio"] >= REACH else []
        return figures | {"falls_short": short}


def _only_python() -> dict[str, str]:
    return {"HIVEBUS_PYTHON_SLOTS": str(SLOTS), "HIVEBUS_SLOTS": str(SLOTS), "HIVEBUS_PROFILE": "fast"}


def _task(key: str) -> dict[str, Any]:
    parameters = {"function": "sleep", "arguments": {"seconds": TASK_S}}
    return {"type": "nap", "executor": "python", "parameters": parameters, "fairness_key": key}


def _flood(client: Client, count: int) -> None:
    for _ in range(count // BATCH):
        _submit(client, [_task("flood")] * BATCH)


def _submit(client: Client, items: list[dict[str, Any]]) -> None:
    answer = client.request("POST", "/api/tasks", items)
    expect(answer.status == 202 and answer.json["refused"] == 0, f"refused: {answer.status} {answer.raw[:300]!r}")


def _completed(client: Client) -> int:
    return int(client.get("/api/tasks?status=completed&limit=1")["pagination"]["total"])


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SETTLE_S_MAX
    while not condition():
        expect(time.monotonic() < deadline, f"waited {SETTLE_S_MAX} s in vain for {what}")
        time.sleep(0.05)


def _story(client: Client) -> dict[str, dict[str, Any]]:
    """From the log: each task's key, when it came, how long it waited and held its slot, in seconds."""
    tasks: dict[str, dict[str, Any]] = {}
    for event in client.events(noun="task"):
        kind, time_s = event["type"], _seconds(event["time"])
        task = tasks.setdefault(event["subject"], {})
        if kind == "hivebus.task.submitted":
            task |= {"key": event["data"]["fairness_key"], "came": time_s}
        elif kind == "hivebus.task.assigned":
            task |= {"waited": time_s - task["came"], "assigned": time_s}
        elif kind == "hivebus.task.completed":
            task["took"] = time_s - task["assigned"]
    return tasks


def _seconds(text: str) -> float:
    hours, minutes, seconds = text[11:-1].split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _waits(tasks: dict[str, dict[str, Any]]) -> list[float]:
    return [task["waited"] for task in tasks.values() if task["key"] != "flood"]


def _fluid(tasks: dict[str, dict[str, Any]]) -> list[float]:
    """The same arrivals served by a fluid that all keys with work share equally, never more than a slot per task."""
    arrivals: dict[str, list[float]] = {}
    for task in tasks.values():
        arrivals.setdefault(task["key"], []).append(task["came"])
    for times in arrivals.values():
        times.sort()
    now = min(times[0] for times in arrivals.values())
    served = dict.fromkeys(arrivals, 0.0)
    started: dict[str, list[float]] = {key: [] for key in arrivals}
    small = [key for key in arrivals if key != "flood"]
    while any(len(started[key]) < len(arrivals[key]) for key in small):
        backlog = {
            key: sum(came <= now for came in times) * TASK_S - served[key]
            for key, times in arrivals.items()
            if key != "flood"
        }
        backlog["flood"] = float("inf") if now >= arrivals["flood"][0] else 0.0
        active = [key for key, left in backlog.items() if left > 1e-9]
        for key in small:
            done = served[key] / TASK_S
            while len(started[key]) < len(arrivals[key]) and len(started[key]) <= done + 1e-6:
                if arrivals[key][len(started[key])] > now:
                    break
                started[key].append(now)
        for key in active:
            served[key] += min(backlog[key], STEP_S * SLOTS / len(active))
        now += STEP_S
    return [at - came for key in small for at, came in zip(started[key], arrivals[key], strict=True)]


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


if __name__ == "__main__":
    main("fairness", run)
