"""Every action through every way in: the same answer, and the same refusal for the same mistake."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner

from entrypoints.cli.app import cli
from tests.entrypoints.program import RunningProgram
from tests.entrypoints.samples import ACTIONS, BAD, COMMANDS, Bad, good, made
from tests.ways import Address, CannotSay, CommandLine, JsonRpc, Mcp, Nats, Outcome, Refusal, Rest, Way, WebSocket

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
# What differs from one call to the next, whichever way it comes.
MOVES = {"position", "next", "sequence"}
# Measured anew at each call: the same shape, other figures.
MEASURED = {"system.status"}
# The command line has its own words for these two (`hivebus status`, `hivebus log tail`), and none for the third.
NO_VERBS = {"system.status", "event.list", "system.info"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProgram]:
    """One that raises an alert as soon as anything waits."""
    with RunningProgram(tmp_path_factory.mktemp("hive") / "data", HIVEBUS_ALERT_QUEUE_AGE_S="0.1") as running:
        yield running


def command_line(address: Address) -> CommandLine:
    """In this process: a process each would take most of the test's time."""

    def run(words: Sequence[str], stdin: bytes | None) -> tuple[int, str]:
        environment = {
            "HIVEBUS_URL": address.urls["api"],
            "HIVEBUS_KEY": address.key,
            "HIVEBUS_DATA_DIR": str(address.data_dir),
        }
        done = CliRunner().invoke(cli, list(words), input=stdin, prog_name="hivebus", env=environment)
        return done.exit_code, done.stdout

    targets = {name: action.target for name, action in ACTIONS.items() if name not in NO_VERBS}
    # There is one queue, and no path names it: what is paused is the argument.
    return CommandLine(run, targets | {"queue.pause": "what", "queue.resume": "what"})


@pytest.fixture(scope="module")
def ways(program: RunningProgram) -> list[Way]:
    address = Address.of(program.root)
    places = {name: action.place for name, action in ACTIONS.items()}
    client = program.client
    return [
        Rest(address, client, places),
        JsonRpc(address, client),
        WebSocket(address),
        Nats(address),
        Mcp(address, client),
        command_line(address),
    ]


def speaking(ways: Sequence[Way], action: str) -> list[Way]:
    """The ways that have the action: commands of NATS only, and what the command line has a verb for."""
    silent = ({"nats"} if ACTIONS[action].reads else set()) | ({"cli"} if action in NO_VERBS else set())
    return [way for way in ways if way.name not in silent]


def answered(way: Way, action: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of a call that must succeed."""
    outcome = way.call(action, arguments)
    assert not isinstance(outcome, Refusal), (way.name, action, outcome)
    return outcome


def still(value: Any, key: str = "") -> Any:
    """An answer without what no two calls have in common."""
    if isinstance(value, dict):
        return {name: still(inner, name) for name, inner in sorted(value.items())}
    if isinstance(value, list):
        return [still(inner) for inner in value]
    if key in MOVES:
        return f"<{type(value).__name__}>"
    return _TIME.sub("<time>", _ID.sub("<id>", value)) if isinstance(value, str) else value


def shape(value: Any) -> Any:
    """The names in an answer, and what kind of value each has."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in sorted(value.items())}
    return "number" if isinstance(value, int | float) else type(value).__name__


def test_the_table_holds_every_action_that_the_program_offers(program: RunningProgram) -> None:
    offered = Mcp(Address.of(program.root), program.client).tools()
    assert sorted(offered) == sorted(name.replace(".", "_") for name in ACTIONS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_answered_alike_whichever_way_it_comes(
    program: RunningProgram, ways: list[Way], name: str
) -> None:
    answers = {way.name: still(answered(way, name, good(ACTIONS[name], program))) for way in speaking(ways, name)}
    assert len(answers) >= 4
    assert answers == dict.fromkeys(answers, answers["rest"])


@pytest.mark.parametrize("name", [name for name, action in ACTIONS.items() if action.reads])
def test_a_query_is_answered_alike_whichever_way_it_comes(program: RunningProgram, ways: list[Way], name: str) -> None:
    arguments = good(ACTIONS[name], program)
    if name not in NO_VERBS:
        # Of one position there is one answer, to the last figure.
        arguments["at"] = program.get("/api/queue")["position"]
    answers = {way.name: answered(way, name, arguments) for way in speaking(ways, name)}
    assert len(answers) >= 3
    if name in MEASURED:
        answers = {way: shape(answer) for way, answer in answers.items()}
    assert answers == dict.fromkeys(answers, answers["rest"])


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.id)
def test_a_mistake_is_refused_alike_whichever_way_it_comes(program: RunningProgram, ways: list[Way], bad: Bad) -> None:
    outcomes: dict[str, Outcome] = {}
    for way in speaking(ways, bad.action.name):
        arguments = bad.arguments(program)
        try:
            if bad.first is not None:
                arguments |= {"idempotency_key": str(uuid4())}
                answered(way, bad.action.name, bad.first(arguments))
            outcomes[way.name] = way.call(bad.action.name, arguments)
        except CannotSay:
            continue
    # What the command line cannot send it refuses by itself.
    if outcomes.get("cli") == Refusal("usage"):
        del outcomes["cli"]
    # These two have words for everything; a path and a query string do not.
    assert outcomes.keys() >= {"json-rpc", "websocket", "mcp"}
    assert outcomes == dict.fromkeys(outcomes, bad.refusal)


def test_an_action_that_there_is_none_of_is_no_success_anywhere(ways: list[Way]) -> None:
    codes = {way.name: way.call("task.destroy", {}) for way in ways if way.name != "cli"}
    assert codes == {
        "rest": Refusal("unknown_path"),
        "json-rpc": Refusal("unknown_action"),
        "websocket": Refusal("unknown_action"),
        "nats": Refusal("unknown_command"),
        "mcp": Refusal("unknown_action"),
    }


def test_a_key_is_one_command_whichever_way_its_owner_comes(program: RunningProgram, ways: list[Way]) -> None:
    arguments = good(ACTIONS["task.submit"], program) | {"idempotency_key": str(uuid4())}
    owners = [way for way in ways if way.name in ("rest", "json-rpc", "mcp", "websocket")]
    answers = [answered(way, "task.submit", arguments) for way in owners]
    assert len({answer["task_id"] for answer in answers}) == 1
    assert [answer.get("repeated", False) for answer in answers] == [False] + [True] * (len(owners) - 1)


def test_what_one_way_did_every_other_shows(program: RunningProgram, ways: list[Way]) -> None:
    for way in speaking(ways, "task.cancel"):
        task_id = made("task", program)
        position = answered(way, "task.cancel", {"task_id": task_id})["position"]
        # A task that nobody holds is cancelled with the command.
        for other in speaking(ways, "task.show"):
            seen = answered(other, "task.show", {"task_id": task_id, "at": position})
            assert seen["status"] == "cancelled", (way.name, other.name, json.dumps(seen))
