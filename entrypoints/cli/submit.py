"""`hivebus task submit`: one task from options, or many from a file; and, if wanted, the wait for their ends."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, BinaryIO

import click
import orjson
from msgspec import Struct

from core.kernel.ids import uuid7
from entrypoints.cli import outcome
from entrypoints.cli.failures import Exit
from entrypoints.cli.http import Client, Request
from entrypoints.cli.output import emit, line, note
from entrypoints.cli.progress import shown
from entrypoints.cli.submission import Rejected, Submitted, Submitter
from entrypoints.cli.task_files import BadLine, Line, good_lines, read_tasks
from entrypoints.cli.verb import Verb, client, refuse_usage, when_interrupted
from entrypoints.cli.waiting import Follower, Watchlist

COMPLAINTS_MAX = 20
TOKEN = re.compile(r"[A-Za-z0-9._-]{1,64}")

DOC = """Submit tasks, and wait for them if you like.

One task: its options, and for the executor `command` the program behind `--`. Many: --file, with one JSON object a line
(or a JSON array, or one object). The file is checked first: if a line is no task, nothing is sent.

With --wait the command ends when each task has ended, or can never run; a restart of the server in between does not
disturb it. Exit codes: 0 all completed, 1 some not, 3 the server stayed away, 4 --timeout came first.
"""
EXAMPLES = (
    "hivebus task submit --type checksum --wait -- sha256sum README.md",
    "hivebus task submit --type greet --executor python --param function=echo --wait",
    "python docs/examples/stdlib_tasks.py | hivebus task submit --file - --wait",
)


class How(Struct, frozen=True, kw_only=True):
    """The options that are about submitting, not about the task."""

    wait: bool
    timeout: float | None
    everything: bool
    as_json: bool
    correlation_id: str
    key: str


def submit_verb() -> Verb:
    """The command, with one option per field that the server takes."""
    from core.task import SubmitTask  # noqa: PLC0415 - only this command needs them
    from entrypoints.cli.options import options_of, values_of  # noqa: PLC0415

    task_options = options_of(SubmitTask, leave_out=frozenset({"ref"}), optional=True)

    def run(
        file: BinaryIO | None,
        argv: tuple[str, ...],
        keep_going: bool,
        correlation_id: str | None,
        idempotency_key: str | None,
        **given: Any,
    ) -> Exit:
        how = How(
            correlation_id=_token(correlation_id) or str(uuid7()),
            key=idempotency_key or str(uuid7()),
            **{name: given.pop(name) for name in ("wait", "timeout", "everything", "as_json")},
        )
        if not how.wait and (how.timeout is not None or how.everything):
            refuse_usage("--timeout and --all belong to --wait.")
        task = values_of(SubmitTask, given)
        if file is not None:
            if task or argv:
                refuse_usage("--file holds whole tasks: leave out the options of a task and the program.")
            return _many(file, how, keep_going=keep_going)
        if keep_going:
            refuse_usage("--keep-going belongs to --file.")
        return _one(_with_program(task, argv), how)

    return Verb(
        "submit",
        params=[*_own_options(), *task_options, click.Argument(["argv"], nargs=-1, type=click.UNPROCESSED)],
        callback=run,
        help=DOC,
        examples=EXAMPLES,
        options_metavar="[OPTIONS]",
        context_settings={"allow_interspersed_args": False},
    )


def _own_options() -> list[click.Parameter]:
    return [
        click.Option(["--file"], type=click.File("rb"), metavar="PATH|-", help="Tasks from a file, or from stdin."),
        click.Option(["--keep-going"], is_flag=True, help="Send the good lines of a file while reading it."),
        click.Option(["--wait"], is_flag=True, help="Wait until each task has ended, and show what came of it."),
        click.Option(["--timeout"], type=click.FloatRange(min=0), metavar="SECONDS", help="Wait no longer than this."),
        click.Option(["--all", "everything"], is_flag=True, help="List completed tasks too, however many."),
        click.Option(["--correlation-id"], help="What the tasks are found by later.  [default: a new one]"),
        click.Option(["--idempotency-key"], help="The same key submits the same tasks once.  [default: a new one]"),
        click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON document; with --wait the whole tasks."),
    ]


def _token(text: str | None) -> str | None:
    if text is not None and not TOKEN.fullmatch(text):
        refuse_usage("--correlation-id takes up to 64 letters, digits and ._-")
    return text


def _with_program(task: dict[str, Any], argv: Sequence[str]) -> dict[str, Any]:
    """The task with the program behind `--` as its parameters."""
    if "type" not in task:
        refuse_usage("A task needs --type (or give --file).")
    parameters = dict(task.get("parameters", {}))
    if argv:
        if "argv" in parameters:
            refuse_usage("The program is given twice: behind -- and as --param argv.")
        parameters["argv"] = list(argv)
        task = {"executor": "command", **task}
    return {**task, "parameters": parameters}


def _one(task: dict[str, Any], how: How) -> Exit:
    connection = client()
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": how.key,
        "X-Correlation-Id": how.correlation_id,
    }
    answer = connection.call(Request("POST", "/api/tasks", orjson.dumps(task), headers))
    accepted = answer.json()
    if how.wait:
        submitted = Submitted(how.correlation_id)
        submitted.take([Line(1, b"")], {"items": [{**accepted, "index": 0}]})
        return wait_for(connection, submitted, how)
    if how.as_json:
        emit(answer.body)
    else:
        line(accepted["task_id"])
        note(f"Accepted at position {accepted['position']}; follow it: hivebus task watch {accepted['task_id']}")
    return Exit.OK


def _many(file: BinaryIO, how: How, *, keep_going: bool) -> Exit:
    bad: list[BadLine] = []

    def complain(line_: BadLine) -> None:
        bad.append(line_)
        if len(bad) <= COMPLAINTS_MAX:
            note(f"line {line_.number}: {line_.why} Left out.")

    lines = good_lines(file, complain) if keep_going else read_tasks(file)
    connection = client()
    submitter = Submitter(connection, correlation_id=how.correlation_id, key=how.key, note=note)
    when_interrupted(
        f"Interrupted while submitting. What was accepted runs: hivebus task list --correlation-id {how.correlation_id}"
    )
    submitted = submitter.send(lines, lambda answered: None)
    _complain_about(submitted.rejected)
    submitted.rejected += [Rejected(line_.number, {"code": "bad_line", "detail": line_.why}) for line_ in bad]
    if how.wait:
        return wait_for(connection, submitted, how)
    if how.as_json:
        emit(submitted.document())
    else:
        line(f"{len(submitted.task_ids)} accepted, {len(submitted.rejected)} refused")
        note(f"Follow them: hivebus task list --correlation-id {how.correlation_id}")
    return Exit.SOME_NOT if submitted.rejected else Exit.OK


def _complain_about(rejected: Sequence[Rejected]) -> None:
    for item in rejected[:COMPLAINTS_MAX]:
        error = item.error
        note(f"line {item.line}: {error.get('detail', 'refused')} {error.get('remedy', '')}".rstrip())
    if len(rejected) > COMPLAINTS_MAX:
        note(f"... and {len(rejected) - COMPLAINTS_MAX} more refused lines.")


def wait_for(connection: Client, submitted: Submitted, how: How) -> Exit:
    """Follow what was accepted to its end, then say what came of it."""
    task_ids = submitted.task_ids
    watchlist = Watchlist(task_ids)
    note(f"{len(task_ids)} task(s) accepted, correlation id {how.correlation_id}")
    follower = Follower(
        connection, watchlist, correlation_id=how.correlation_id, after=max(0, submitted.first_position - 1)
    )
    when_interrupted(
        "Stopped waiting. The tasks go on in the server: "
        f"hivebus task list --correlation-id {how.correlation_id}, or end one: hivebus task cancel TASK_ID"
    )
    with shown(len(task_ids)) as changed:
        in_time = follower.run(changed, how.timeout)
    tasks = outcome.summaries(
        connection, task_ids, correlation_id=how.correlation_id, position=follower.position if task_ids else 0
    )
    rows = list(outcome.rows_of(tasks, watchlist))
    rejected = [{"line": item.line, "error": item.error} for item in submitted.rejected]
    if how.as_json:
        emit(outcome.document_of(connection, rows, rejected=rejected, in_time=in_time))
    elif rows:
        outcome.show(rows, everything=how.everything)
    if not in_time:
        note(f"Stopped waiting after {how.timeout:g} s: {outcome.one_line(rows)}. They go on in the server.")
    elif rows:
        note(f"{outcome.one_line(rows)}.")
    return outcome.exit_code_of(rows, refused=len(rejected), in_time=in_time)
