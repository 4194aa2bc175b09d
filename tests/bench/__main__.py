"""`make bench`: each bench as a process of its own, one after the other."""

from __future__ import annotations

import subprocess
import sys

BENCHES = ("append", "recorder", "rebuild", "post", "frames")


def main() -> int:
    worst = 0
    for name in BENCHES:
        print(f"== {name}", flush=True)
        done = subprocess.run([sys.executable, "-m", f"tests.bench.bench_{name}", *sys.argv[1:]], check=False)
        worst = max(worst, done.returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
