"""A new command, made from the page that tells how: three files, and every way in and every document has it."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.accept.program import Client, Program
from tests.accept.recipe import ROOT, carry_out, copied, hand_written
from tests.accept.script import Figures, Options, expect, main, note
from tests.ways import Address, CommandLine, JsonRpc, Mcp, Nats, Place, Refusal, Rest, Way, WebSocket, command_line_in

PAGE = ROOT / "docs" / "how-to" / "add-a-command.md"
COMMAND, EVENT = "agent.rename", "hivebus.agent.renamed"
FILES = 3
TESTS = (
    "tests/core/test_agent.py",
    "tests/core/test_codec.py",
    "tests/core/test_disk.py",
    "tests/projections/test_agents.py",
    "tests/architecture",
    "tests/schemas",
    "tests/entrypoints/test_cli_help.py",
    "tests/entrypoints/test_every_transport.py",
)
ROUTES = {
    COMMAND: Place("POST", "/api/agents/{agent_id}/name"),
    "agent.show": Place("GET", "/api/agents/{agent_id}"),
    "agent.spawn": Place("POST", "/api/agents"),
}
STEP_S_MAX = 600


def run(options: Options) -> Figures:
    """Do what the page says on a copy, and use what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(Path(folder))
        carry_out(PAGE, copy)
        stat = hand_written(copy)
        note(f"\n{stat}")
        said = re.search(r"^```text\n(.*? changed, .*?)\n```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
        expect(said and said[1] == stat, f"the page says that this is the diffstat: {said and said[1]}")
        expect(f" {FILES} files changed" in stat, f"not {FILES} files")
        _python(copy, "-m", "tests.documents", "--write")
        expect(hand_written(copy) == stat, "writing the reference changed a page that is written by hand")
        _python(copy, "-m", "mypy")
        _python(copy, "-m", "pytest", "-q", *TESTS)
        with contextlib.chdir(copy), Program(Path(folder) / "data") as program, _http() as http:
            ways = _ways(Address.of(program.root), http, copy)
            for number, way in enumerate(ways):
                _renames(way, ways[0], number, program)
            for name, holds in DOCUMENTS.items():
                expect(holds(program, copy), f"{name} does not hold {COMMAND}")
    return {
        "files": FILES,
        "diffstat": stat.splitlines()[-1].strip(),
        "works over": [way.name for way in ways],
        "stands in": list(DOCUMENTS),
    }


def _python(copy: Path, *words: str) -> None:
    """A step that must succeed, on the copy."""
    note(f"python {' '.join(words)}")
    done = subprocess.run(
        [sys.executable, *words], cwd=copy, capture_output=True, text=True, timeout=STEP_S_MAX, check=False
    )
    expect(done.returncode == 0, f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr}")


# --- ways in ----------------------------------------------------------------------------------------------------------


def _ways(address: Address, http: httpx.Client, copy: Path) -> list[Way]:
    return [
        Rest(address, http, ROUTES),
        JsonRpc(address, http),
        WebSocket(address),
        Nats(address),
        Mcp(address, http),
        CommandLine(command_line_in(copy, address), {COMMAND: "agent_id"}),
    ]


def _http() -> httpx.Client:
    return httpx.Client(timeout=30.0, trust_env=False)


def _renames(way: Way, rest: Way, number: int, program: Program) -> None:
    """Through this way an agent is renamed: the view shows it, and one event tells of it."""
    spawned = _done(rest, "agent.spawn", type="shell", name=f"agent-{number}", capabilities=["nothing"])
    agent_id, name = spawned["agent_id"], f"renamed-over-{way.name}"
    answer = _done(way, COMMAND, agent_id=agent_id, name=name)
    shown = _done(rest, "agent.show", agent_id=agent_id, min_position=answer["position"])
    expect(shown["name"] == name, f"over {way.name} the agent became {shown['name']}")
    events = [event for event in program.client().events(id=agent_id) if event["type"] == EVENT]
    expect([event["data"] for event in events] == [{"name": name}], f"over {way.name} the events are {events}")
    refusal = way.call(COMMAND, {"agent_id": "no-such-agent", "name": name})
    expect(isinstance(refusal, Refusal) and refusal.code == "unknown_agent", f"over {way.name}: {refusal}")


def _done(way: Way, action: str, **arguments: Any) -> dict[str, Any]:
    answer = way.call(action, arguments)
    expect(not isinstance(answer, Refusal), f"{action} over {way.name}: {answer}")
    assert not isinstance(answer, Refusal)
    return answer


# --- documents --------------------------------------------------------------------------------------------------------


def _served(path: str, found: Callable[[Any], bool]) -> Callable[[Program, Path], bool]:
    """A JSON document at the tools listener, without a key."""

    def holds(program: Program, copy: Path) -> bool:
        del copy
        answer = Client(program.connection["tools_url"], None).request("GET", path)
        return answer.status == 200 and found(answer.json)

    return holds


def _page(name: str, word: str) -> Callable[[Program, Path], bool]:
    """A page of the reference, written on the copy."""
    return lambda program, copy: word in (copy / "docs" / "reference" / name).read_text("utf-8")


def _tools(program: Program, copy: Path) -> bool:
    del copy
    with _http() as http:
        return "agent_rename" in Mcp(Address.of(program.root), http).tools()


def _discovered(program: Program, copy: Path) -> bool:
    del copy
    with _http() as http:
        found = JsonRpc(Address.of(program.root), http).call("rpc.discover", {})
    return not isinstance(found, Refusal) and COMMAND in [method["name"] for method in found["methods"]]


def _help(program: Program, copy: Path) -> bool:
    _, text = command_line_in(copy, Address.of(program.root))(["agent", "--help"], None)
    return "rename" in text


DOCUMENTS: dict[str, Callable[[Program, Path], bool]] = {
    "reference/rest.md": _page("rest.md", "POST /api/agents/{agent_id}/name"),
    "reference/nats.md": _page("nats.md", f"hive.cmd.{COMMAND}"),
    "reference/events.md": _page("events.md", "agent.renamed"),
    "reference/cli.md": _page("cli.md", "hivebus agent rename"),
    "hivebus agent --help": _help,
    "MCP tools/list": _tools,
    "OpenAPI": _served("/openapi.json", lambda found: "/api/agents/{agent_id}/name" in found["paths"]),
    "OpenRPC": _served("/openrpc.json", lambda found: COMMAND in [method["name"] for method in found["methods"]]),
    "AsyncAPI": _served("/asyncapi.json", lambda found: f"hive.cmd.{COMMAND}" in json.dumps(found)),
    "rpc.discover": _discovered,
}


if __name__ == "__main__":
    main("add-command", run)
