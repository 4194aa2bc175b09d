"""What docs/how-to/talk-a2a.md shows is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.entrypoints.program import RunningProgram

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "how-to" / "talk-a2a.md").read_text("utf-8")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProgram]:
    with RunningProgram(tmp_path_factory.mktemp("hive") / "data") as running:
        yield running


def test_the_call_on_the_page_is_answered_as_the_page_says(program: RunningProgram) -> None:
    sent = re.search(r"curl -s http://127.0.0.1:8080(/a2a) (.*?)-d '(.*?)'\n", PAGE, re.DOTALL)
    assert sent is not None
    path, flags, body = sent.groups()
    headers = dict(re.findall(r"-H '([^:']+): ([^']+)'", flags))
    response = program.request("POST", program.urls["tools"] + path, content=body, headers=headers)
    task = response.json()["result"]["task"]
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    [artifact] = task["artifacts"]
    data, text = artifact["parts"]
    assert data["data"]["exit_code"] == 0
    assert text == {"text": "hello\n", "mediaType": "text/plain", "metadata": {"name": "stdout"}}


@pytest.mark.peers
def test_the_example_prints_what_the_program_wrote_and_says_how_it_ended(program: RunningProgram) -> None:
    environment = os.environ | {"HIVEBUS_TOOLS_URL": program.urls["tools"], "HIVEBUS_KEY": program.key}

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", str(DOCS / "examples" / "a2a_task.py"), *argv]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=False)

    good, bad = run("echo", "good day"), run("/no/such/program")
    assert (good.returncode, good.stdout) == (0, "good day\n")
    assert good.stderr.splitlines()[-1] == "TASK_STATE_COMPLETED"
    assert (bad.returncode, bad.stderr.splitlines()[-1]) == (1, "TASK_STATE_FAILED")
