"""A coding agent itself, connected as docs/how-to says and driven by a scripted model: where it is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.entrypoints.mcp_page import here, line_of, shared_settings
from tests.entrypoints.program import FINAL, RunningProgram
from tests.entrypoints.scripted_model import ScriptedModel

PREFIX = "mcp__hivebus__"
RUN_S = 100.0

pytestmark = [
    pytest.mark.peers,
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("claude") is None, reason="the coding agent is not on this machine"),
]


def run(home: Path, *command: str, **more: str) -> str:
    """What the agent prints, in a home of its own."""
    own = {"PATH": os.environ["PATH"], "HOME": str(home), "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
    given = {"env": own | more, "cwd": home, "stdin": subprocess.DEVNULL, "capture_output": True, "timeout": RUN_S}
    done = subprocess.run(command, text=True, check=False, **given)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_line_of_the_page_connects_it(program: RunningProgram, tmp_path: Path) -> None:
    run(tmp_path, *(here(program, word) for word in line_of("claude")))
    listed = run(tmp_path, "claude", "mcp", "list")
    assert re.search(rf"hivebus: {program.urls['tools']}/mcp \(HTTP\) - . Connected", listed), listed


def test_it_submits_waits_and_reads_with_the_tools_it_found(program: RunningProgram, tmp_path: Path) -> None:
    def step(said: list[str]) -> tuple[str, dict[str, Any]] | None:
        if not said:
            work = {"type": "greet", "executor": "command", "parameters": {"argv": ["echo", "from the agent"]}}
            return "task_submit", work | {"wait": "recorded"}
        task_id = json.loads(said[0])["task_id"]
        last = json.loads(said[-1])
        if last.get("status") in FINAL:
            return None
        if "events" in last:
            return "task_show", {"task_id": task_id, "min_position": last["next"]}
        return "event_list", {"id": task_id, "after": last["position"], "wait": 10}

    settings = tmp_path / "mcp.json"
    settings.write_text(here(program, json.dumps(shared_settings())))
    allowed = ",".join(PREFIX + name for name in ("task_submit", "event_list", "task_show"))
    with ScriptedModel(step, PREFIX) as model:
        given = ("-p", "greet", "--strict-mcp-config", "--mcp-config", str(settings), "--max-turns", "20")
        place = {"ANTHROPIC_BASE_URL": model.url, "ANTHROPIC_API_KEY": "scripted", "ENABLE_TOOL_SEARCH": "false"}
        printed = run(tmp_path, "claude", *given, "--allowedTools", allowed, **place)
    assert printed.strip() == "done"
    assert json.loads(model.said[-1])["result"]["stdout"] == "from the agent\n"
    assert len(model.tools) >= 13
