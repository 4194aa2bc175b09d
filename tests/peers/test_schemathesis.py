"""schemathesis against the real program: no fault, no status and no answer that the document does not know."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.entrypoints.program import RunningProgram

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]

CONFIG = Path(__file__).with_name("schemathesis.toml")
RUN_S = 240.0
CASES_MIN = 500


def test_no_request_meets_what_the_document_does_not_say(tmp_path: Path) -> None:
    # Nothing is run: what it makes up is submitted, and nobody takes it.
    with RunningProgram(tmp_path / "data", HIVEBUS_ROLES="api,recorder,scheduler") as program:
        agent = program.request("POST", "/api/agents?wait=recorded", json={"type": "shell"}).json()["agent_id"]
        environment = {
            **os.environ,
            "HIVEBUS_API": program.url,
            "HIVEBUS_API_KEY": program.key,
            "HIVEBUS_AGENT": agent,
        }
        document = f"{program.urls['tools']}/openapi.json"
        # When
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                "--config-file",
                str(CONFIG),
                "run",
                document,
                "--no-color",
            ],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=False,
        )
        # Then
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
        generated = re.search(r"(\d+) generated", done.stdout)
        assert generated is not None
        assert int(generated[1]) >= CASES_MIN
        assert "Traceback" not in program.stderr
