"""No-op tasks through us and through the other queues, by `make bench-peers`. What falls short is said."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.accept.script import Figures, Options, expect, main

ROOT = Path(__file__).resolve().parents[2]
BENCH_S_MAX = 1200


def run(options: Options) -> Figures:
    """The table of `make bench-peers`; it needs redis-server and Postgres, and makes an environment for each peer."""
    command = ["make", "--no-print-directory", "bench-peers", *(["FAST=1"] if options.fast else [])]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=BENCH_S_MAX, check=False)
    lines = done.stdout.strip().splitlines()
    expect(lines and lines[-1].startswith("{"), f"make bench-peers ended with {done.returncode} and without figures")
    result = json.loads(lines[-1])
    expect(result["ok"], result["figures"].get("failed"))
    figures: Figures = result["figures"]
    return figures


if __name__ == "__main__":
    main("bench-peers", run)
