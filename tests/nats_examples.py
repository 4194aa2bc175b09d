"""The NATS examples as a user runs them: with what `hivebus env` prints in their environment, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"
PACKAGE = "@nats-io/transport-node@3.4.0"
RUN_S = 60.0
INSTALL_S = 300.0


def printed(data_dir: Path) -> dict[str, str]:
    """What `hivebus env` prints for the program on a data directory."""
    own = _plain() | {"HIVEBUS_DATA_DIR": str(data_dir)}
    command = [sys.executable, "-m", "entrypoints", "env", "--json"]
    done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=RUN_S, check=True)
    values: dict[str, str] = json.loads(done.stdout)
    return values


def python_example() -> list[str]:
    """The command that runs the Python example."""
    return [sys.executable, str(EXAMPLES / "nats_submit.py")]


def node_example(folder: Path) -> list[str]:
    """The command that runs the Node example, with its package installed into a folder."""
    shutil.copy(EXAMPLES / "nats_submit.mjs", folder)
    npm = ["npm", "install", "--no-audit", "--no-fund", "--no-save", "--prefix", str(folder), PACKAGE]
    done = subprocess.run(npm, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    assert done.returncode == 0, f"npm install {PACKAGE} failed:\n{done.stderr[-2000:]}"
    return ["node", str(folder / "nats_submit.mjs")]


def submit(command: list[str], values: dict[str, str], *argv: str) -> str:
    """Run an example for a task; the line that it printed."""
    done = subprocess.run(
        [*command, *argv], env=_plain() | values, capture_output=True, text=True, timeout=RUN_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-2000:]
    return done.stdout.strip()


def _plain() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("HIVEBUS_", "NATS_"))}
