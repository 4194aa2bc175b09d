from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from entrypoints.cli.output import cell, clean
from tests.entrypoints.cli_run import KEY, Cli, hivebus
from tests.entrypoints.test_cli_submit import when

__all__ = ["hivebus"]

SECOND_TASK = "task-0001"


@pytest.fixture
def filled(hivebus: Cli) -> Cli:
    for kind in ("good", "bad", "slow"):
        hivebus.hive.submit({"type": kind, "executor": "command", "name": f"the {kind} one"}, "c1", (kind, 0))
    hivebus.hive.seen.clear()
    return hivebus


def test_a_list_is_plain_columns_with_whole_ids_when_piped(filled: Cli) -> None:
    result = filled("task", "list", "--correlation-id", "c1", "--limit", "2")
    rows = [row.split() for row in result.stdout.splitlines()]
    assert [row[0] for row in rows] == ["ID", "task-0002", "task-0001"]
    assert result.stderr == "2 of 3; go on with --offset 2\n"
    assert filled.hive.seen[0].query == {"correlation_id": "c1", "limit": "2"}


def test_json_is_the_answer_as_it_came(filled: Cli) -> None:
    assert json.loads(filled("task", "list", "--json").stdout)["pagination"]["total"] == 3


def test_a_document_is_keys_and_values_with_tables_below(filled: Cli) -> None:
    page = filled("task", "show", SECOND_TASK).stdout
    pairs = dict(line.split(maxsplit=1) for line in page.partition("\n\n")[0].splitlines())
    assert (pairs["status"], pairs["result.exit_code"]) == ("failed", "3")
    assert page.partition("\n\n")[2].splitlines()[:2] == [
        "history",
        "POSITION  TIME                      TYPE            ACTOR",
    ]


def test_an_unknown_value_says_why_it_is_unknown(hivebus: Cli) -> None:
    assert "unknown: nothing is queued" in hivebus("queue").stdout
    assert json.loads(hivebus("queue", "--json").stdout)["depth"] == 0
    assert hivebus("queue", "show").stdout == hivebus("queue").stdout


def test_at_is_passed_on(hivebus: Cli) -> None:
    hivebus("queue", "--at", "7")
    assert hivebus.hive.seen[0].query == {"at": "7"}


def test_control_characters_of_others_never_reach_the_terminal(hivebus: Cli) -> None:
    assert "a\\x1b[31mb" in hivebus("agent", "list").stdout
    assert clean("a\x07\u202eb") == "a\\x07\\u202eb"
    assert cell("two\nlines") == "two\\nlines"


@pytest.mark.parametrize(("status", "code"), [("healthy", 0), ("degraded", 1), ("unhealthy", 1)])
def test_status_is_0_only_when_healthy(hivebus: Cli, status: str, code: int) -> None:
    hivebus.hive.status = status
    result = hivebus("status")
    assert result.exit_code == code
    assert status in result.stdout


def test_commands_of_the_registry_are_sent_to_their_routes(filled: Cli) -> None:
    assert filled("task", "cancel", SECOND_TASK, "--reason", "no need").exit_code == 0
    assert filled("agent", "spawn", "--type", "shell", "--capability", "gpu", "--slots", "2").exit_code == 0
    cancel, spawn = filled.hive.seen
    assert (cancel.method, cancel.path, cancel.query) == ("DELETE", f"/api/tasks/{SECOND_TASK}", {"reason": "no need"})
    assert json.loads(spawn.body) == {"type": "shell", "capabilities": ["gpu"], "slots": 2}
    assert spawn.headers["idempotency-key"] != cancel.headers["idempotency-key"]


@pytest.mark.parametrize("task_id", ["", ".", ".."])
def test_an_id_that_would_lead_elsewhere_is_a_usage_error(hivebus: Cli, task_id: str) -> None:
    assert hivebus("task", "show", task_id).exit_code == 2
    assert hivebus.hive.seen == []


def test_an_id_cannot_add_a_segment_to_the_path(hivebus: Cli) -> None:
    assert hivebus("task", "show", "a/../b?c").exit_code == 1
    assert hivebus.hive.seen[0].path == "/api/tasks/a%2F..%2Fb%3Fc"


def test_no_server_is_3_with_the_line_that_starts_one(hivebus: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HIVEBUS_URL")
    result = hivebus("task", "list", "--json")
    assert result.exit_code == 3
    assert result.stderr.endswith("start it: hivebus up (or make run)\n")
    assert json.loads(result.stdout)["code"] == "unreachable"


def test_a_missing_key_is_the_servers_refusal(hivebus: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HIVEBUS_KEY")
    assert hivebus("task", "list").exit_code == 1
    assert hivebus("status").exit_code == 0


def test_an_unexpected_error_is_a_sentence_and_a_traceback_only_on_demand(
    hivebus: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entrypoints.cli.derived.show", lambda *args: 1 // 0)
    result = hivebus("queue", "show")
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert "HIVEBUS_DEBUG=1" in result.stderr
    monkeypatch.setenv("HIVEBUS_DEBUG", "1")
    assert "ZeroDivisionError" in hivebus("queue", "show").stderr


# --- events -----------------------------------------------------------------------------------------------------------


def test_watch_prints_the_history_from_the_start_and_ends_as_the_task_did(filled: Cli) -> None:
    result = filled("task", "watch", "task-0000")
    assert [line.split()[2] for line in result.stdout.splitlines()] == [
        "task.submitted",
        "task.assigned",
        "task.completed",
    ]
    assert result.exit_code == 0
    assert filled("task", "watch", SECOND_TASK).exit_code == 1
    assert filled("task", "watch", "task-0002", "--timeout", "0.05").exit_code == 4


def test_watch_goes_on_live_until_the_end(filled: Cli) -> None:
    watching = lambda: any(seen.path == "/api/events" for seen in filled.hive.seen)  # noqa: E731 - said once
    thread = when(filled, watching, lambda: filled.hive.end("task-0002", True))
    result = filled("task", "watch", "task-0002", "--json")
    thread.join()
    assert json.loads(result.stdout.splitlines()[-1])["type"] == "hivebus.task.completed"


def test_watch_says_why_a_task_waits(hivebus: Cli) -> None:
    hivebus.hive.submit({"type": "stuck"}, "c", ("k", 0))
    result = hivebus("task", "watch", "task-0000", "--timeout", "0.2")
    assert result.exit_code == 4
    assert result.stderr.splitlines()[0] == "It waits: no agent has capability gpu."


def test_tail_prints_the_last_events_and_ends(filled: Cli) -> None:
    result = filled("log", "tail", "--last", "2")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["7", "8"]


def test_tail_finds_the_last_matches_however_far_back(filled: Cli) -> None:
    for number in range(40):
        filled.hive.submit({"type": "stuck"}, "c2", ("stuck", number))
    result = filled("log", "tail", "--last", "1", "--type", "task.failed", "--json")
    assert json.loads(result.stdout)["subject"] == f"task/{SECOND_TASK}"


def test_tail_after_a_position_prints_all_that_follows(filled: Cli) -> None:
    result = filled("log", "tail", "--after", "5", "--noun", "task", "--json")
    assert [json.loads(line)["sequence"] for line in result.stdout.splitlines()] == ["6", "7", "8"]


# --- a terminal -------------------------------------------------------------------------------------------------------


def on_a_terminal(cli: Cli, *args: str, **environment: str) -> str:
    """What a program prints when its stdout is a terminal."""
    master, slave = pty.openpty()
    env = dict(os.environ) | {"HIVEBUS_KEY": KEY, "TERM": "xterm-256color", "COLUMNS": "200"} | environment
    with subprocess.Popen([sys.executable, "-m", "entrypoints", *args], stdout=slave, env=env, cwd=Path.cwd()) as child:
        os.close(slave)
        output = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # Linux: the other end is closed
                break
            if not piece:
                break
            output += piece
        child.wait(30)
    os.close(master)
    return output.decode()


def test_a_terminal_gets_colours_unless_its_user_wants_none(filled: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for args, word in ((("task", "list"), "task-0000"), (("status",), "healthy"), (("log", "tail"), "task.failed")):
        coloured, plain = on_a_terminal(filled, *args), on_a_terminal(filled, *args, NO_COLOR="1")
        assert word in coloured
        assert word in plain
        assert "\x1b[3" in coloured
        assert "\x1b[3" not in plain
