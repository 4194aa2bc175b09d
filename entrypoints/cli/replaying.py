"""`hivebus task replay`: one task again, or all that ended badly; `hivebus replay start` is the latter alone."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import click
import orjson

from entrypoints.cli.derived import JSON, filled
from entrypoints.cli.failures import Exit
from entrypoints.cli.http import Request
from entrypoints.cli.output import emit, fields, line, note
from entrypoints.cli.verb import Verb, client, json_option, refuse_usage

COMPLAINTS_MAX = 20
ENDS = ("failed", "expired", "cancelled")

DOC = """Replay a task that ended badly, or with --failed, --expired or --cancelled all that did.

A replay is a new task that asks for the same. Of many the oldest are replayed first, at most --limit of them, and what
was replayed before is left out. Exit codes: 0 all good, 1 some were refused.
"""
EXAMPLES = (
    "hivebus task replay TASK_ID",
    "hivebus task replay --failed --type report --dry-run",
    "hivebus task replay --failed --outcome timed_out --since 2026-01-31T12:00:00Z --limit 1000",
)


def task_replay_verb() -> Verb:
    """`hivebus task replay`."""
    ends = [click.Option([f"--{end}", "ends"], flag_value=end, help=f"All tasks that are {end}.") for end in ENDS]

    def run(task_id: str | None, ends: str | None, as_json: bool, **given: Any) -> Exit:
        if (task_id is None) == (ends is None):
            refuse_usage("Give the id of a task, or one of --failed, --expired and --cancelled.")
        if task_id is None:
            return _many({"status": ends, **given}, as_json=as_json)
        if any(value is not None for name, value in given.items() if name != "idempotency_key"):
            refuse_usage("A filter belongs to --failed, --expired or --cancelled.")
        return _one(task_id, given["idempotency_key"], as_json=as_json)

    params = [click.Argument(["task_id"], metavar="[TASK_ID]", required=False), *ends, *_filters("status")]
    return Verb("replay", params=params, callback=run, help=DOC, examples=EXAMPLES)


def replay_start_verb() -> Verb:
    """`hivebus replay start`."""
    from core.replay import StartReplay  # noqa: PLC0415 - only these commands need it

    def run(as_json: bool, **given: Any) -> Exit:
        return _many(given, as_json=as_json)

    examples = ("hivebus replay start --status failed --dry-run",)
    return Verb("start", params=_filters(), callback=run, help=StartReplay.__doc__ or "", examples=examples)


def _filters(*leave_out: str) -> list[click.Parameter]:
    from core.replay import StartReplay  # noqa: PLC0415
    from entrypoints.cli.options import options_of  # noqa: PLC0415

    key = click.Option(["--idempotency-key"], help="The same key replays the same tasks once.  [default: a new one]")
    return [*options_of(StartReplay, leave_out=frozenset(leave_out)), key, json_option()]


def _one(task_id: str, key: str | None, *, as_json: bool) -> Exit:
    path = filled("/api/tasks/{task_id}/replay", {"task_id": task_id})
    answer = client().call(_request(path, {}, key))
    if as_json:
        emit(answer.body)
    else:
        fields(answer.json())
    return Exit.OK


def _many(given: dict[str, Any], *, as_json: bool) -> Exit:
    key = given.pop("idempotency_key")
    asked = {name: value for name, value in given.items() if value is not None}
    answer = client().call(_request("/api/replays", asked, key))
    document = answer.json()
    if as_json:
        emit(answer.body)
    else:
        _tell(document)
    return Exit.SOME_NOT if document["errors"] else Exit.OK


def _request(path: str, body: dict[str, Any], key: str | None) -> Request:
    return Request("POST", path, orjson.dumps(body), {"Content-Type": JSON, "Idempotency-Key": key or str(uuid4())})


def _tell(document: dict[str, Any]) -> None:
    """The figures, and why some were refused."""
    fits = f"{document['matched']} fit, {document['already_replayed']} of them were replayed before"
    if document["dry_run"]:
        line(f"{len(document['tasks'])} would be replayed; {fits}.")
        return
    line(f"{document['replayed']} replayed, {document['errors']} refused; {fits}.")
    refused = [item for item in document["tasks"] if "error" in item]
    for item in refused[:COMPLAINTS_MAX]:
        error = item["error"]
        note(f"{item['replay_of']}: {error.get('detail', 'refused')} {error.get('remedy', '')}".rstrip())
    if len(refused) > COMPLAINTS_MAX:
        note(f"... and {len(refused) - COMPLAINTS_MAX} more.")
    if document["remaining"]:
        note(f"Left for another call: {document['remaining']}.")
    if document["replayed"]:
        note(f"Follow them: hivebus task list --correlation-id {document['correlation_id']}")
