from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from entrypoints.cli import http
from entrypoints.cli.failures import BadInput
from entrypoints.cli.progress import Lines
from entrypoints.cli.submission import Submitter
from entrypoints.cli.task_files import CHUNK_MAX_BYTES, CHUNK_MAX_LINES, BadLine, Line, chunks, parse, read_tasks
from entrypoints.cli.waiting import Watchlist
from tests.entrypoints.cli_run import Cli, hivebus
from tests.entrypoints.cli_server import Server, dies

__all__ = ["hivebus"]


def lines(*kinds: str) -> str:
    return "".join(json.dumps({"type": kind, "executor": "command", "parameters": {}}) + "\n" for kind in kinds)


def when(hivebus: Cli, happened: Callable[[], Any], then: Callable[[], None]) -> threading.Thread:
    """Do something in the server's world as soon as something has happened there."""

    def run() -> None:
        with hivebus.hive.changed:
            assert hivebus.hive.changed.wait_for(happened, 10)
        then()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


# --- one task ---------------------------------------------------------------------------------------------------------


def test_a_program_behind_the_dashes_is_a_command_task(hivebus: Cli) -> None:
    result = hivebus("task", "submit", "--type", "good", "--retry", "max_attempts=1", "--", "wc", "-l", "README.md")
    assert result.exit_code == 0
    assert result.stdout == "task-0000\n"
    assert "hivebus task watch task-0000" in result.stderr
    assert json.loads(hivebus.hive.seen[0].body) == {
        "type": "good",
        "executor": "command",
        "parameters": {"argv": ["wc", "-l", "README.md"]},
        "retry": {"max_attempts": 1},
    }


def test_parameters_are_json_or_text(hivebus: Cli) -> None:
    args = ["--executor", "python", "--param", "function=echo", "--param", 'arguments={"n": 1}', "--priority", "7"]
    assert hivebus("task", "submit", "--type", "good", *args).exit_code == 0
    assert json.loads(hivebus.hive.seen[0].body) == {
        "type": "good",
        "executor": "python",
        "parameters": {"function": "echo", "arguments": {"n": 1}},
        "priority": 7,
    }


def test_json_is_the_answer_of_the_server_as_it_came(hivebus: Cli) -> None:
    result = hivebus("task", "submit", "--type", "good", "--json", "--correlation-id", "mine")
    assert json.loads(result.stdout)["correlation_id"] == "mine"


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--type", "good", "--file", "-"],
        ["--type", "good", "--keep-going"],
        ["--type", "good", "--timeout", "1"],
        ["--type", "good", "--all"],
        ["--type", "good", "--correlation-id", "no spaces"],
        ["--type", "good", "--param", "argv=1", "--", "ls"],
        ["--type", "good", "--param", "nothing"],
        ["--nonsense"],
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_a_usage_error_and_nothing_is_sent(hivebus: Cli, args: list[str]) -> None:
    assert hivebus("task", "submit", *args).exit_code == 2
    assert hivebus.hive.seen == []


def test_a_refusal_is_a_sentence_and_a_remedy_and_with_json_the_problem(hivebus: Cli) -> None:
    result = hivebus("task", "submit", "--type", "no")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: This task is refused.\nSend another.\n"
    assert json.loads(hivebus("task", "submit", "--type", "no", "--json").stdout)["code"] == "invalid_field"


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_waiting_ends_with_0_when_all_completed(hivebus: Cli) -> None:
    result = hivebus("task", "submit", "--type", "good", "--name", "mine", "--wait", "--", "true")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "TASK  TYPE  STATUS     EXIT  EXECUTOR  AGENT    SECONDS  RESULT",
        "mine  good  completed  0     command   agent-1  1.5      first line",
    ]


def test_waiting_ends_with_1_when_one_failed_or_was_refused_or_nobody_can_do_it(hivebus: Cli) -> None:
    result = hivebus("task", "submit", "--file", "-", "--wait", input=lines("good", "bad", "stuck", "no"))
    assert result.exit_code == 1
    rows = [row.split("  ")[-1] for row in result.stdout.splitlines()[1:]]
    assert rows == ["first line", "it exited with code 3.", "no agent has capability gpu"]
    assert "line 4: This task is refused. Send another." in result.stderr
    assert result.stderr.splitlines()[-1] == "1 completed, 1 failed, 1 unassignable."


def test_waiting_ends_with_4_when_the_timeout_comes_first(hivebus: Cli) -> None:
    result = hivebus("task", "submit", "--type", "slow", "--wait", "--timeout", "0.1")
    assert result.exit_code == 4
    assert "Stopped waiting after 0.1 s: 1 running." in result.stderr


def test_waiting_ends_with_3_when_the_server_stays_away(hivebus: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entrypoints.cli.verb.Client", lambda note: http.Client(note=note, patience_s=0.2))
    hivebus.hive.script.extend([lambda seen: None, *[dies] * 20])
    result = hivebus("task", "submit", "--type", "slow", "--wait")
    assert result.exit_code == 3
    assert "The server does not answer" in result.stderr
    assert "start it: hivebus up (or make run)" in result.stderr


def test_a_restart_in_the_middle_does_not_end_the_wait(hivebus: Cli) -> None:
    def restart() -> None:
        hivebus.server.stop()
        hivebus.hive.script.extend([dies, dies, dies])
        hivebus.server = Server(hivebus.hive, hivebus.server.port)
        hivebus.hive.end("task-0000", True)

    thread = when(hivebus, lambda: len(hivebus.hive.events) == 2, restart)
    result = hivebus("task", "submit", "--type", "slow", "--wait")
    thread.join()
    assert result.exit_code == 0
    assert "The server answers again." in result.stderr


# What a shell starts in the background inherits a Ctrl-C that is ignored; whoever presses one is in front.
IN_FRONT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from entrypoints.__main__ import main
main()
"""


def test_ctrl_c_ends_with_130_and_says_what_goes_on(hivebus: Cli) -> None:
    args = ["task", "submit", "--type", "slow", "--wait", "--correlation-id", "c1"]
    program = [sys.executable, "-c", IN_FRONT, *args]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(program, **streams, text=True) as child:
        waiting = lambda: any(seen.path == "/api/events" for seen in hivebus.hive.seen)  # noqa: E731 - said once
        when(hivebus, waiting, lambda: child.send_signal(signal.SIGINT)).join()
        stdout, stderr = child.communicate(timeout=20)
    assert (child.returncode, stdout) == (130, "")
    assert "The tasks go on in the server: hivebus task list --correlation-id c1" in stderr
    assert "Traceback" not in stderr


def test_many_tasks_are_summed_up_and_only_the_others_listed(hivebus: Cli) -> None:
    given = lines(*["good"] * 44, "bad")
    result = hivebus("task", "submit", "--file", "-", "--wait", input=given)
    assert result.stdout.splitlines() == [
        "STATUS     TYPE  TASKS  P50 S  MAX S",
        "completed  good  44     1.5    1.5",
        "failed     bad   1      1.5    1.5",
        "",
        "TASK       TYPE  STATUS  EXIT  EXECUTOR  AGENT    SECONDS  RESULT",
        "task-0044  bad   failed  3     command   agent-1  1.5      it exited with code 3.",
        "",
        "44 completed tasks are not listed; --all lists them.",
    ]
    assert hivebus("task", "submit", "--file", "-", "--wait", "--all", input=given).stdout.count("first line") == 44


def test_json_is_one_document_with_whole_tasks(hivebus: Cli) -> None:
    document = json.loads(
        hivebus("task", "submit", "--file", "-", "--wait", "--json", input=lines("good", "bad")).stdout
    )
    assert document["summary"]["completed"] == 1
    assert [task["result"]["exit_code"] for task in document["tasks"]] == [0, 3]
    assert document["tasks"][0]["history"]


def test_output_that_is_piped_has_no_escape_codes_and_whole_ids(hivebus: Cli) -> None:
    result = hivebus("task", "submit", "--file", "-", "--wait", input=lines("good", "bad", "stuck"))
    assert "\x1b" not in result.stdout + result.stderr
    assert "task-0001" in result.stdout


# --- files ------------------------------------------------------------------------------------------------------------


def test_nothing_of_a_file_with_a_bad_line_is_sent(hivebus: Cli) -> None:
    result = hivebus("task", "submit", "--file", "-", input=lines("good") + '\n{"type":\n[1]\n')
    assert result.exit_code == 2
    assert "line 3: it is no JSON" in result.stderr
    assert "line 4: it is JSON, but no object." in result.stderr
    assert hivebus.hive.seen == []


def test_keep_going_sends_the_good_lines_and_ends_with_1(hivebus: Cli) -> None:
    result = hivebus("task", "submit", "--file", "-", "--keep-going", input=lines("good") + "{\n" + lines("good"))
    assert (result.exit_code, result.stdout) == (1, "2 accepted, 1 refused\n")
    assert "line 2: it is no JSON" in result.stderr


def test_a_file_is_sent_in_batches_under_keys_of_one_command(hivebus: Cli) -> None:
    result = hivebus("task", "submit", "--file", "-", "--idempotency-key", "k", input=lines(*["stuck"] * 501))
    assert result.stdout == "501 accepted, 0 refused\n"
    assert [seen.headers["idempotency-key"] for seen in hivebus.hive.seen] == ["k-0", "k-1"]
    assert len({seen.headers["x-correlation-id"] for seen in hivebus.hive.seen}) == 1


def test_the_indexes_of_several_batches_count_over_the_whole_file(hivebus: Cli) -> None:
    result = hivebus("task", "submit", "--file", "-", "--json", input=lines(*["stuck"] * 501, "no"))
    document = json.loads(result.stdout)
    assert [item["index"] for item in document["items"]] == list(range(502))
    assert (document["accepted"], document["refused"]) == (501, 1)
    assert "line 502: This task is refused." in result.stderr


def test_items_refused_for_back_pressure_are_sent_again_under_the_same_key(
    hivebus: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    hivebus.hive.busy_after = 1

    def drain(seconds: float) -> None:
        hivebus.hive.busy_after += 1

    def patient(client: http.Client, **given: Any) -> Submitter:
        return Submitter(client, **given, sleep=drain)

    monkeypatch.setattr("entrypoints.cli.submit.Submitter", patient)
    result = hivebus("task", "submit", "--file", "-", input=lines("good", "good", "good"))
    assert result.stdout == "3 accepted, 0 refused\n"
    assert len(hivebus.hive.tasks) == 3
    assert len({seen.headers["idempotency-key"] for seen in hivebus.hive.seen}) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"a": 1}\n\n  {"b": 2}\n', [Line(1, b'{"a": 1}'), Line(3, b'{"b": 2}')]),
        (
            b'[{"a": 1.10},\n {"b": 18446744073709551617}]',
            [Line(1, b'{"a":1.10}'), Line(2, b'{"b":18446744073709551617}')],
        ),
        (b'{\n "a": 1,\n "b": 2\n}\n', [Line(1, b'{"a":1,"b":2}')]),
        (b"", []),
        (b"[]", []),
        (b'{"a": 1}\n7\n', [Line(1, b'{"a": 1}'), BadLine(2, "it is JSON, but no object.")]),
        (b"7\n", [BadLine(1, "it is JSON, but no object.")]),
    ],
    ids=["lines", "array", "one object", "empty", "empty array", "number later", "number"],
)
def test_files_are_lines_an_array_or_one_object(content: bytes, expected: list[Line | BadLine]) -> None:
    assert list(parse(io.BytesIO(content))) == expected


def test_a_broken_first_line_is_reported_by_its_number_like_any_other() -> None:
    found = list(parse(io.BytesIO(b'{"a": \n{"b": 2}\n')))
    assert [type(item) for item in found] == [BadLine, Line]
    assert [item.number for item in found] == [1, 2]


def test_a_line_beyond_the_limit_is_named_and_the_next_one_keeps_its_number() -> None:
    long = b'{"a": "' + b"x" * (3 * 1024 * 1024) + b'"}\n'
    found = list(parse(io.BytesIO(b"{}\n" + long + b"{}\n")))
    assert [(type(item), item.number) for item in found] == [(Line, 1), (BadLine, 2), (Line, 3)]


def test_an_empty_file_is_a_usage_error() -> None:
    with pytest.raises(BadInput, match="holds no task"):
        read_tasks(io.BytesIO(b"\n\n"))


def test_batches_keep_to_500_lines_and_512_kib() -> None:
    assert [len(chunk) for chunk in chunks(Line(n, b"{}") for n in range(1001))] == [
        CHUNK_MAX_LINES,
        CHUNK_MAX_LINES,
        1,
    ]
    big = [Line(n, b"x" * (CHUNK_MAX_BYTES // 2)) for n in range(3)]
    assert [len(chunk) for chunk in chunks(big)] == [1, 1, 1]
    assert [len(chunk) for chunk in chunks([Line(1, b"x" * CHUNK_MAX_BYTES * 2), Line(2, b"{}")])] == [1, 1]


# --- the pure parts ---------------------------------------------------------------------------------------------------


def event(task_id: str, word: str) -> dict[str, Any]:
    return {"type": f"hivebus.task.{word}", "subject": f"task/{task_id}", "sequence": "1"}


def test_a_reason_counts_once_two_looks_agree_and_is_dropped_when_the_task_moves() -> None:
    watchlist = Watchlist(["a"])
    watchlist.look([{"id": "a", "unassignable": "nobody"}])
    assert not watchlist.done
    watchlist.look([{"id": "a", "unassignable": "nobody"}])
    assert watchlist.done
    assert watchlist.counts() == {"unassignable": 1}
    watchlist.see(event("a", "assigned"))
    assert not watchlist.done
    assert watchlist.counts() == {"running": 1}


def test_events_that_come_twice_or_of_other_tasks_change_nothing() -> None:
    watchlist = Watchlist(["a", "b"])
    for word in ("completed", "completed", "queued"):
        watchlist.see(event("a", word))
    watchlist.see(event("z", "completed"))
    assert watchlist.counts() == {"completed": 1, "waiting": 1}
    assert watchlist.ended == 1


def test_progress_lines_come_at_most_every_three_seconds_and_only_when_something_changed() -> None:
    written: list[str] = []
    now = [0.0]
    show = Lines(written.append, lambda: now[0])
    watchlist = Watchlist(["a", "b"])
    for seconds, word in ((1, None), (4, None), (8, None), (9, "assigned"), (12, "completed")):
        now[0] = seconds
        if word:
            watchlist.see(event("a", word))
        show(watchlist)
    assert written == ["2 waiting", "1 running, 1 waiting", "1 completed, 1 waiting"]
