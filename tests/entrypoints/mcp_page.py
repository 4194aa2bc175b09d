"""The ways to connect that docs/how-to/connect-a-coding-agent.md prints, as a reader would type them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from tests.entrypoints.program import RunningProgram

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "connect-a-coding-agent.md"
PRINTED = "http://127.0.0.1:8080"
WAYS = ("claude", ".mcp.json", "codex")


def line_of(program_name: str) -> list[str]:
    """The one command of the page that calls a program, split as a shell would."""
    commands = [shlex.split(line) for block in _blocks("sh") for line in block.splitlines()]
    [found] = [command for command in commands if command[0] == program_name]
    return found


def shared_settings() -> dict[str, Any]:
    """The settings that a repository shares."""
    [block] = _blocks("json")
    settings: dict[str, Any] = json.loads(block)
    return settings


def here(program: RunningProgram, text: str) -> str:
    """A text of the page with this program's address and key in it."""
    address = text.replace(PRINTED, program.urls["tools"])
    return address.replace("${HIVEBUS_KEY}", program.key).replace("$HIVEBUS_KEY", program.key)


def said(program: RunningProgram, way: str) -> tuple[str, dict[str, str]]:
    """The address and the headers of a way to connect."""
    if way == "claude":
        line = line_of("claude")
        name, _, value = line[line.index("--header") + 1].partition(": ")
        url, headers = line[line.index("hivebus") + 1], {name: value}
    elif way == "codex":
        line = line_of("codex")
        variable = line[line.index("--bearer-token-env-var") + 1]
        url, headers = line[line.index("--url") + 1], {"Authorization": f"Bearer ${variable}"}
    else:
        server = shared_settings()["mcpServers"]["hivebus"]
        url, headers = server["url"], server["headers"]
    return here(program, url), {name: here(program, value) for name, value in headers.items()}


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
