"""1,000 clients at /ws are told every event once while they come and go; one that stops reading harms nobody."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from tests.accept.program import Program
from tests.accept.script import Figures, Options, expect, main, note

EVENTS_PER_S = 40
EVENTS_OF_A_TASK = 2
CUTS_PER_S = 50
RATES = (200, 500, 1000, 2000, 4000)
HELD_P99_MS = 1000
TASK = {"type": "told", "executor": "command", "parameters": {"argv": ["true"]}, "requires": ["nobody"]}


class Watched:
    """The process of the clients, spoken to line by line."""

    def __init__(self, program: Program, seed: int, mode: str = "record") -> None:
        connection = program.connection
        place = urlsplit(connection["ui_url"]).netloc
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.accept.socket_clients",
                connection["url"],
                place,
                program.key,
                str(seed),
                mode,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline() or '{"gone": true}')
        expect(not answer.get("gone"), f"the clients' process ended at {line!r}")
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)


class Producer(threading.Thread):
    """Submits tasks at a rate, a few at once where it is high; `position` is the newest that was acknowledged."""

    def __init__(self, program: Program) -> None:
        super().__init__(daemon=True)
        self._client = program.client()
        self.events_per_s = float(EVENTS_PER_S)
        self.position = 0
        self.submitted = 0
        self.error: str | None = None
        self._halt = threading.Event()

    def run(self) -> None:
        due = time.monotonic()
        while not self._halt.is_set():
            tasks_per_s = self.events_per_s / EVENTS_OF_A_TASK
            batch = max(1, round(tasks_per_s / 10)) if tasks_per_s > EVENTS_PER_S else 1
            due = max(due + batch / tasks_per_s, time.monotonic() - 1)
            answer = self._client.request("POST", "/api/tasks", [TASK] * batch if batch > 1 else TASK)
            if answer.status != 202:
                self.error = f"{answer.status}: {answer.raw[:200]!r}"
                return
            self.submitted += batch
            answers = answer.json["items"] if batch > 1 else [answer.json]
            self.position = max(self.position, *(one["position"] for one in answers)) if answers else self.position
            self._halt.wait(max(0, due - time.monotonic()))

    def stop(self) -> None:
        self._halt.set()
        self.join(20)


def run(options: Options) -> Figures:
    """40 events/s for 60 s to 1,000 clients, 50 cut a second; a stalled client; then the highest rate that is held."""
    clients, seconds = options.count(1000, 100), options.count(60, 16)
    with tempfile.TemporaryDirectory() as folder, Program(Path(folder) / "data") as program:
        watched, producer = Watched(program, options.seed), Producer(program)
        try:
            watched.say(f"connect {clients}")
            note(f"{clients} clients are subscribed")
            producer.start()
            time.sleep(2)
            figures = _alone_and_beside(program, watched, seconds)
            figures["highest_events_per_s"] = _highest(watched, producer, options)
            producer.stop()
            expect(producer.error is None, f"a submit was refused: {producer.error}")
            figures |= _compared(watched, producer)
            return {"clients": clients, "events_per_s": EVENTS_PER_S, "for_s": seconds, **figures}
        finally:
            producer.stop()
            watched.close()


def _alone_and_beside(program: Program, watched: Watched, seconds: int) -> Figures:
    """Half the time without, half the time with a client that stops reading; all the time clients come and go."""
    client, process = program.client(), psutil.Process(program.pid)
    watched.say(f"churn {CUTS_PER_S}")
    watched.say("phase alone")
    before = process.memory_info().rss
    time.sleep(seconds / 2)
    alone_rss = process.memory_info().rss
    watched.say("stall")
    watched.say("phase stalled")
    began = time.monotonic()
    peak = alone_rss
    while client.get("/api/status")["websocket"]["drops"] == 0:
        expect(time.monotonic() - began < 120, "the stalled client was not dropped within 120 s")
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.5)
    dropped_s = time.monotonic() - began
    note(f"the stalled client was dropped after {dropped_s:.1f} s")
    woken = watched.say("wake")
    resume = json.loads(woken["reason"] or "{}").get("resume", {})
    expect(woken["code"] == 1013, f"the stalled client was closed with {woken}")
    expect(list(resume.values()) == [woken["position"]], f"its resume position is another than its last: {woken}")
    time.sleep(max(0.0, seconds / 2 - (time.monotonic() - began)))
    report = watched.say("report")
    alone, beside = report["alone"], report["stalled"]
    ratio = beside["p99"] / alone["p99"]
    growth = (peak - alone_rss) / 1e6
    expect(growth < 32, f"the program grew by {growth:.0f} MB while a client stood still")
    return {
        "p50_ms": alone["p50"],
        "p99_ms": alone["p99"],
        "p99_beside_stalled_ms": beside["p99"],
        "p99_ratio": round(ratio, 2),
        "stalled_dropped_after_s": round(dropped_s, 1),
        "stalled_code": woken["code"],
        "rss_mb": [round(rss / 1e6) for rss in (before, alone_rss, peak)],
        # Time is printed and never asserted: what falls short is said, and shown as such in the evidence.
        "falls_short": [f"p99 beside a stalled client {ratio:.2f} >= 2"] if ratio >= 2 else [],
    }


def _highest(watched: Watched, producer: Producer, options: Options) -> int:
    """The highest of some rates at which the p99 stays under a second, clients still coming and going."""
    highest = EVENTS_PER_S
    for rate in RATES[: options.count(len(RATES), 2)]:
        producer.events_per_s = rate
        time.sleep(1)
        before = producer.submitted
        watched.say(f"phase rate-{rate}")
        time.sleep(5)
        watched.say("phase between")
        made = (producer.submitted - before) * EVENTS_OF_A_TASK / 5
        p99 = watched.say("report")[f"rate-{rate}"].get("p99", float("inf"))
        note(f"{rate} events/s asked, {made:.0f} made: p99 {p99} ms")
        if p99 > HELD_P99_MS or made < 0.9 * rate:
            break
        highest = rate
    producer.events_per_s = EVENTS_PER_S
    return highest


def _compared(watched: Watched, producer: Producer) -> Figures:
    outcome = watched.say(f"end {producer.position}")
    expect(not outcome["failed"], f"clients failed: {outcome['failed']}")
    expect(
        outcome["equal"] == outcome["clients"], f"{outcome['equal']} of {outcome['clients']} records equal the store's"
    )
    return {
        "records_equal": outcome["equal"],
        "events_each": outcome["events_of_the_store"],
        "events_told": outcome["events_told"],
        "resumes": outcome["resumes"],
    }


if __name__ == "__main__":
    main("fan-out", run)
