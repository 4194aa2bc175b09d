"""The real tools that `make check` needs. A missing one fails with the line that installs it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

TOOLS = {
    **{"bwrap": "bubblewrap", "chromium": "chromium", "curl": "curl", "node": "nodejs", "npm": "npm"},
    "promtool": "prometheus",
}
POSTGRES = "postgresql"


def postgres_programs() -> Path | None:
    """The folder of initdb and postgres: Debian keeps them off the PATH, one folder a version."""
    found = shutil.which("initdb")
    if found is not None and (Path(found).resolve().parent / "postgres").exists():
        return Path(found).resolve().parent
    folders = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((folder.parent for folder in folders), key=lambda path: int(path.parent.name), default=None)


def main() -> int:
    missing = {program: package for program, package in TOOLS.items() if shutil.which(program) is None}
    if postgres_programs() is None:
        missing["postgres"] = POSTGRES
    for program, package in missing.items():
        print(f"{program} is missing: apt-get update && apt-get install -y {package}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
