"""The peers that are written for node, pinned by package-lock.json, installed once into the virtual environment."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FILES = ("package.json", "package-lock.json")
INSTALL_S = 300.0
RUN_S = 60.0


def installed() -> Path:
    """The folder whose node_modules has them."""
    for tool, package in (("npm", "npm"), ("node", "nodejs")):
        assert shutil.which(tool), f"{tool} is missing: apt-get update && apt-get install -y {package}"
    lock = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in FILES)).hexdigest()[:16]
    folder = Path(sys.prefix) / "peers" / lock
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in FILES:
            shutil.copy(HERE / name, folder)
        done = subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
            check=False,
        )
        assert done.returncode == 0, f"npm ci in {folder} failed:\n{done.stderr[-2000:]}"
        (folder / "done").touch()
    return folder


def node(script: str, *argv: str) -> str:
    """What a script prints, an ES module that may `require` the peers. Its errors are the test's."""
    folder = installed()
    preamble = 'import { createRequire } from "node:module"; const require = createRequire(process.cwd() + "/");\n'
    done = subprocess.run(
        ["node", "--input-type=module", "-e", preamble + script, *argv],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
