"""What came of submitted tasks: one table, or for many a summary and what did not go well."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import click

from entrypoints.cli.failures import Exit, Refusal
from entrypoints.cli.http import Client
from entrypoints.cli.output import Column, cell, table
from entrypoints.cli.waiting import Watchlist, first_line_of

ROWS_MAX = 40
PAGE = 1000

COLUMNS = (
    Column("task", "label"),
    Column("type", "type"),
    Column("status", "status"),
    Column("exit", "exit_code"),
    Column("executor", "executor"),
    Column("agent", "agent_id"),
    Column("seconds", "seconds"),
    Column("result", "said", folds=True),
)
SUMMARY = (
    Column("status", "status"),
    Column("type", "type"),
    Column("tasks", "tasks"),
    Column("p50 s", "p50_s"),
    Column("max s", "max_s"),
)


def summaries(client: Client, task_ids: Sequence[str], *, correlation_id: str, position: int) -> list[dict[str, Any]]:
    """The tasks as lists show them, in the order of the ids, as of `position` or later."""
    wanted = set(task_ids)
    found: dict[str, dict[str, Any]] = {}
    offset = 0
    while True:
        query = {
            "correlation_id": correlation_id,
            "limit": PAGE,
            "offset": offset or None,
            "min_position": position or None,
        }
        answer = client.get("/api/tasks", query).json()
        found |= {task["id"]: task for task in answer["tasks"] if task["id"] in wanted}
        offset += len(answer["tasks"])
        if not answer["pagination"]["has_more"] or not answer["tasks"]:
            break
    return [found.get(task_id) or details(client, task_id) for task_id in task_ids]


def details(client: Client, task_id: str) -> dict[str, Any]:
    """The whole document of a task."""
    document: dict[str, Any] = client.get(f"/api/tasks/{task_id}").json()
    return document


def rows_of(tasks: Iterable[dict[str, Any]], watchlist: Watchlist) -> Iterator[dict[str, Any]]:
    """The tasks as rows of the table."""
    for task in tasks:
        reason = task.get("unassignable")
        said = task.get("error") or reason or watchlist.first_lines.get(task["id"]) or first_line_of(task.get("result"))
        yield {
            **task,
            "label": task.get("name") or task["id"],
            "status": "unassignable" if reason else task["status"],
            "seconds": seconds_of(task),
            "said": said,
        }


def seconds_of(task: dict[str, Any]) -> float | None:
    """How long its last attempt took; None if it has not both begun and ended."""
    started, completed = task.get("started_at"), task.get("completed_at")
    if not started or not completed:
        return None
    return max(0.0, (datetime.fromisoformat(completed) - datetime.fromisoformat(started)).total_seconds())


def summary_of(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per status and type: how many, and the median and the longest of their durations."""
    groups: dict[tuple[str, str], list[float | None]] = defaultdict(list)
    for row in rows:
        groups[row["status"], row["type"]].append(row["seconds"])
    return [
        {
            "status": status,
            "type": kind,
            "tasks": len(seconds),
            "p50_s": statistics.median(known) if (known := [s for s in seconds if s is not None]) else None,
            "max_s": max(known, default=None),
        }
        for (status, kind), seconds in sorted(groups.items())
    ]


def show(rows: Sequence[dict[str, Any]], *, everything: bool) -> None:
    """All rows if they are few or wanted; else the summary first, then the rows that are not completed."""
    if len(rows) <= ROWS_MAX:
        table(COLUMNS, rows)
        return
    table(SUMMARY, summary_of(rows))
    shown = rows if everything else [row for row in rows if row["status"] != "completed"]
    if shown:
        click.echo("")
        table(COLUMNS, shown)
    left_out = len(rows) - len(shown)
    if left_out:
        click.echo(f"\n{left_out} completed tasks are not listed; --all lists them.")


def document_of(
    client: Client, rows: Sequence[dict[str, Any]], *, rejected: Sequence[dict[str, Any]], in_time: bool
) -> dict[str, Any]:
    """The one document of `--json`: a summary, and each task whole."""
    return {
        "summary": {
            "tasks": len(rows),
            "completed": sum(row["status"] == "completed" for row in rows),
            "refused": len(rejected),
            "timed_out_waiting": not in_time,
            "groups": summary_of(rows),
        },
        "tasks": [_whole(client, row["id"]) for row in rows],
        "refused": list(rejected),
    }


def _whole(client: Client, task_id: str) -> dict[str, Any]:
    """A task, or the problem that the server has with it: one that is gone must not hide the others."""
    try:
        return details(client, task_id)
    except Refusal as refusal:
        return {"id": task_id, "problem": refusal.problem()}


def exit_code_of(rows: Iterable[dict[str, Any]], *, refused: int, in_time: bool) -> Exit:
    """0 all completed, 4 some may still, 1 some never will."""
    if not in_time:
        return Exit.WAITING
    return Exit.SOME_NOT if refused or any(row["status"] != "completed" for row in rows) else Exit.OK


def one_line(rows: Sequence[dict[str, Any]]) -> str:
    """`1800 completed, 4 failed`, for the end of a wait."""
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        counts[cell(row["status"])] += 1
    return ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
