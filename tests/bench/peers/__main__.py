"""`make bench-peers`: one system after the other, a table, and one line of JSON last.

Full it takes some minutes, with --fast a minute and a half. What a killed worker's task takes to come back is measured
for all peers at once at the end: it is waiting, half a minute and more of it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench.peers.run import Driver, Row, measured, redelivered
from tests.bench.peers.servers import REDIS, Missing, redis_program
from tests.bench.peers.systems import SYSTEMS, Ours, OursDurable, OursDurableTwice, OursTwice, System, Taskiq
from tests.bench.peers.systems import FastStream as Stream
from tests.postgres import NoPostgres
from tests.tools import POSTGRES, postgres_programs

INSTALL = "is missing: apt-get update && apt-get install -y --no-install-recommends"
FAST_SHARE = 10
ONES, ONES_FAST = 500, 100
# With --fast nobody waits for a broker's 30 s.
AGAIN_S, AGAIN_S_FAST = 120.0, 12.0
BROKEN = (RuntimeError, OSError, ValueError, subprocess.SubprocessError)

LEGEND = (
    "durability: of an accepted task; tasks/s: from the first submit until results, and our views, have everything",
    "p50, p99: from the submit's call to the task's first line, one after the other; CPU, RSS: servers and workers",
    "lag: from the last end on the log into the views; again: from kill -9 until the task runs in a new worker",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-peers", description=__doc__)
    parser.add_argument("--fast", action="store_true", help="a tenth of the tasks")
    parser.add_argument("--only", default="", help="the systems whose names have this in them")
    arguments = parser.parse_args()
    # Whoever ends this run ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = [system for system in SYSTEMS if arguments.only.lower() in system.name.lower()]
    if not chosen:
        print(f"There is no {arguments.only!r} in {', '.join(system.name for system in SYSTEMS)}.", file=sys.stderr)
        return 2
    began = time.monotonic()
    try:
        _there(chosen)
        rows, broken = _measure(chosen, fast=arguments.fast)
    except (Missing, NoPostgres) as missing:
        print(missing, file=sys.stderr)
        return _say(ok=False, figures={"failed": str(missing)})
    print(_table(chosen, rows), file=sys.stderr)
    short = _short(rows)
    for sentence in short:
        print(f"  falls short: {sentence}", file=sys.stderr)
    broken += [f"{row.name}: {row.ended} of {row.tasks} ended" for row in rows if row.ended < row.tasks]
    figures = {
        "rows": {row.name: _figures(row) for row in rows},
        "ratios": _ratios(rows),
        "falls_short": short,
        **({"failed": "; ".join(broken)} if broken else {}),
        "fast": arguments.fast,
        "seconds": round(time.monotonic() - began, 1),
    }
    return _say(ok=not broken, figures=figures)


def _there(chosen: list[type[System]]) -> None:
    """Raises Missing with the line that installs it."""
    if redis_program() is None:
        raise Missing(f"{REDIS} {INSTALL} {REDIS}")
    if postgres_programs() is None:
        raise Missing(f"postgres {INSTALL} {POSTGRES}")
    for system in chosen:
        if not system.ours and not system.interpreter().exists():
            raise Missing(f"the virtual environment of {system.venv} is missing: make bench-peers makes it")


def _measure(chosen: list[type[System]], *, fast: bool) -> tuple[list[Row], list[str]]:
    """The rows, and what went wrong: a system that breaks is tried once more, and does not end the others."""
    rows: dict[type[System], Row] = {}
    broken = []
    for system in chosen:
        for last in (False, True):
            try:
                rows[system] = _row(system, fast=fast)
                break
            except BROKEN as error:
                print(f"{system.name} broke: {error}", file=sys.stderr, flush=True)
                if last:
                    broken.append(f"{system.name}: {str(error).splitlines()[-1]}")
    peers = [system for system in rows if not system.ours]
    if peers:
        within_s = AGAIN_S_FAST if fast else AGAIN_S
        print(f"== a worker of each peer killed, {within_s:g} s at most", file=sys.stderr, flush=True)
        with ThreadPoolExecutor(len(peers)) as pool:
            again = {system: pool.submit(_again, system, within_s) for system in peers}
        for system, coming in again.items():
            try:
                rows[system].redelivered_s = coming.result()
            except BROKEN as error:
                broken.append(f"{system.name}, killed: {str(error).splitlines()[-1]}")
    return list(rows.values()), broken


def _row(system: type[System], *, fast: bool) -> Row:
    tasks = system.tasks // (FAST_SHARE if fast else 1)
    print(f"== {system.name}: {tasks:,} tasks", file=sys.stderr, flush=True)
    with _running(system) as (started, driver):
        row = measured(started, driver, tasks, ONES_FAST if fast else ONES)
        row.redelivery_s_max = AGAIN_S_FAST if fast else AGAIN_S
        if system.ours:
            row.redelivered_s = redelivered(started, driver, row.redelivery_s_max)
    return row


def _again(system: type[System], within_s: float) -> float | None:
    with _running(system) as (started, driver):
        return redelivered(started, driver, within_s)


@contextmanager
def _running(system: type[System]) -> Iterator[tuple[System, Driver]]:
    """A system and its driver, with a folder of its own that others than root may look into: Postgres runs as one."""
    with tempfile.TemporaryDirectory(prefix="hivebus-peers-") as folder:
        os.chmod(folder, 0o755)
        started = system(Path(folder))
        try:
            started.start()
            with Driver(started) as driver:
                yield started, driver
        finally:
            started.end()


def _ratios(rows: list[Row]) -> dict[str, float]:
    """What the Show asks for, and the same in processor time, which says more on a machine that is shared."""
    found = {row.name: row for row in rows}

    def ratio(above: type[System], below: type[System], value: Callable[[Row], float]) -> float | None:
        if above.name not in found or below.name not in found or not value(found[below.name]):
            return None
        return round(value(found[above.name]) / value(found[below.name]), 2)

    asked = {
        "two_processes_of_taskiq": ratio(OursTwice, Taskiq, lambda row: row.per_s),
        "one_process_of_taskiq": ratio(Ours, Taskiq, lambda row: row.per_s),
        "durable_of_fast": ratio(OursDurable, Ours, lambda row: row.per_s),
        "durable_of_fast_two_processes": ratio(OursDurableTwice, OursTwice, lambda row: row.per_s),
        "p50_of_faststream": ratio(Ours, Stream, lambda row: row.p50_ms),
        "p50_of_faststream_two_processes": ratio(OursTwice, Stream, lambda row: row.p50_ms),
        "cpu_of_taskiq": ratio(Ours, Taskiq, lambda row: row.cpu_ms),
        "cpu_of_taskiq_two_processes": ratio(OursTwice, Taskiq, lambda row: row.cpu_ms),
    }
    return {name: value for name, value in asked.items() if value is not None}


def _short(rows: list[Row]) -> list[str]:
    """Which reach is not met. Latency below FastStream's, in fast: in one process or in two."""
    ratios = _ratios(rows)
    floors = {"two_processes_of_taskiq": 2.0, "one_process_of_taskiq": 1.0, "durable_of_fast": 0.7}
    short = [f"{name} {ratios[name]} < {floor}" for name, floor in floors.items() if ratios.get(name, floor) < floor]
    latency = [ratios[name] for name in ("p50_of_faststream", "p50_of_faststream_two_processes") if name in ratios]
    if latency and min(latency) >= 1:
        short.append(f"p50_of_faststream {min(latency)} >= 1")
    return short


def _table(chosen: list[type[System]], rows: list[Row]) -> str:
    head = (
        "system",
        "durability",
        "results",
        "tasks/s",
        "enqueue/s",
        "p50 ms",
        "p99 ms",
        "CPU ms",
        "RSS MB",
        "lag ms",
        "again s",
    )
    lines = [head]
    for row in rows:
        lag = "-" if row.lag_ms is None else f"{row.lag_ms:.0f}"
        again = f"> {row.redelivery_s_max:g}" if row.redelivered_s is None else f"{row.redelivered_s:.1f}"
        times = (f"{row.p50_ms:.2f}", f"{row.p99_ms:.1f}", f"{row.cpu_ms:.2f}", f"{row.rss_mb:.0f}")
        rates = (f"{row.per_s:,.0f}", f"{row.enqueue_per_s:,.0f}")
        lines.append((row.name, row.durability, row.results, *rates, *times, lag, again))
    wide = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(line, wide, strict=True)) for line in lines]
    return "\n".join([*text, "", *LEGEND, *(f"{system.name}: {system.tuned}" for system in chosen)])


def _figures(row: Row) -> dict[str, Any]:
    return {
        name: value if isinstance(value, int | str) or value is None else round(value, 2)
        for name, value in asdict(row).items()
        if name not in ("name", "ended")
    }


def _say(*, ok: bool, figures: dict[str, Any]) -> int:
    print(json.dumps({"name": "bench-peers", "ok": ok, "figures": figures}), flush=True)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
