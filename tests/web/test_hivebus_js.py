"""hivebus.js in node: its own tests with node's runner, against the real program."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.entrypoints.program import RunningProgram

pytestmark = pytest.mark.peers

NODE = shutil.which("node")
WEB = Path(__file__).parent


def node() -> list[str]:
    """node with a WebSocket: 22 has one, 20 is asked for it."""
    assert NODE is not None, "these tests need node"
    version = subprocess.run([NODE, "--version"], capture_output=True, text=True, check=True).stdout
    return [NODE] if int(version.removeprefix("v").partition(".")[0]) >= 22 else [NODE, "--experimental-websocket"]


@pytest.mark.timeout(180)
def test_each_promise_of_the_module_holds_in_node(tmp_path: Path) -> None:
    with RunningProgram(tmp_path / "data") as program:
        done = subprocess.run(
            [*node(), "--no-warnings", "--test", "--test-reporter=tap", str(WEB / "hivebus.test.mjs")],
            env=os.environ | {"HIVEBUS_URL": program.urls["ui"], "HIVEBUS_KEY": program.key},
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert int(re.search(r"# pass (\d+)", done.stdout)[1]) >= 8  # type: ignore[index]
