"""What every acceptance script shares: its options, its figures, its last line."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Figures = dict[str, Any]


class Failed(Exception):
    """What the Show says does not hold."""


@dataclass(frozen=True)
class Options:
    """How a script runs: `fast` reduces counts, `seed` fixes every random choice."""

    fast: bool
    seed: int

    def count(self, full: int, fast: int) -> int:
        """A count, reduced and said so under FAST."""
        return fast if self.fast else full


def expect(condition: object, sentence: str) -> None:
    """Raise Failed with the sentence unless the condition holds."""
    if not condition:
        raise Failed(sentence)


def note(text: str) -> None:
    """Progress for people."""
    print(f"  {text}", file=sys.stderr, flush=True)


def bench_of(name: str, options: Options) -> Any:
    """The figures of a bench, run as `make bench` runs it."""
    command = [sys.executable, "-m", f"tests.bench.bench_{name}", *(["--fast"] if options.fast else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=600, check=False)
    expect(done.returncode == 0, f"the bench {name} ended with {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])[name]


def main(name: str, run: Callable[[Options], Figures]) -> None:
    """Run a script from the command line; exit 0 if its Show holds, 1 if not."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.accept.{name.replace('-', '_')}", description=run.__doc__)
    parser.add_argument("--fast", action="store_true", help="smaller counts, printed")
    parser.add_argument("--seed", type=int, default=20261122, help="fixes every random choice")
    arguments = parser.parse_args()
    started = time.monotonic()
    figures: Figures = {}
    try:
        figures = run(Options(arguments.fast, arguments.seed))
        ok = True
    except Failed as failure:
        figures, ok = {"failed": str(failure)}, False
    figures |= {"seed": arguments.seed, "fast": arguments.fast, "seconds": round(time.monotonic() - started, 1)}
    print(json.dumps({"name": name, "ok": ok, "figures": figures}))
    sys.exit(0 if ok else 1)
