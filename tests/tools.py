"""The real tools that `make check` needs. A missing one fails with the line that installs it."""

from __future__ import annotations

import shutil
import sys

TOOLS = {"bwrap": "bubblewrap", "chromium": "chromium", "node": "nodejs", "npm": "npm"}


def main() -> int:
    missing = {program: package for program, package in TOOLS.items() if shutil.which(program) is None}
    for program, package in missing.items():
        print(f"{program} is missing: apt-get update && apt-get install -y {package}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
