"""Events as lines for people: `task watch` and `log tail`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click
import orjson

from entrypoints.cli.derived import filled
from entrypoints.cli.events import Page, position_of, read_page, word_of
from entrypoints.cli.failures import Exit
from entrypoints.cli.http import Client
from entrypoints.cli.output import clean, coloured, note
from entrypoints.cli.verb import Verb, client, when_interrupted
from entrypoints.cli.waiting import ENDS

WAIT_S = 20.0
WATCH_WAIT_S = 2.0
LAST_MAX = 100_000
DETAIL_MAX_CHARS = 160
COLOURS = {"completed": "green", "failed": "red", "attempt_ended": "red", "cancelled": "yellow", "assigned": "cyan"}


def story(event: Mapping[str, Any]) -> str:
    """An event as one line: position, time, what, to whom, by whom, and its data as far as it is short."""
    word = word_of(event)
    data = orjson.dumps(event.get("data") or {}).decode()
    if len(data) > DETAIL_MAX_CHARS:
        data = data[:DETAIL_MAX_CHARS] + "..."
    shown = click.style(word.ljust(22), fg=COLOURS.get(word.partition(".")[2])) if coloured() else word.ljust(22)
    parts = (str(event.get("sequence", "")).rjust(7), str(event.get("time", "")), shown, str(event.get("subject", "")))
    actor = str(event.get("actor", ""))
    return f"{'  '.join(clean(part) if part is not shown else part for part in parts)}  {clean(actor)}  {clean(data)}"


def tell(event: Mapping[str, Any], *, as_json: bool) -> None:
    """Print an event, as a line or as JSON."""
    click.echo(orjson.dumps(event).decode() if as_json else story(event))


# --- task watch -------------------------------------------------------------------------------------------------------


def watch_verb() -> Verb:
    """`task watch`."""
    return Verb(
        "watch",
        params=[
            click.Argument(["task_id"], metavar="TASK_ID"),
            click.Option(["--timeout"], type=click.FloatRange(min=0), metavar="SECONDS", help="Watch no longer."),
            click.Option(["--json", "as_json"], is_flag=True, help="Print the events as JSON lines."),
        ],
        callback=watch,
        help="""Watch a task live until it ends.

        Prints each event from its submission on. A task that nobody can do is watched on: spawn an agent for it.
        Exit codes: 0 completed, 1 ended otherwise, 4 --timeout came first.
        """,
        examples=("hivebus task watch TASK_ID", "hivebus task watch TASK_ID --timeout 60 --json"),
    )


def watch(task_id: str, timeout: float | None, as_json: bool, monotonic: Callable[[], float] = time.monotonic) -> Exit:
    """Follow one task."""
    connection = client()
    path = filled("/api/tasks/{task_id}", {"task_id": task_id})
    task = connection.get(path).json()
    when_interrupted(f"Stopped watching. The task goes on in the server: hivebus task show {task_id}")
    after = task["history"][0]["position"] - 1 if task["history"] else 0
    until = None if timeout is None else monotonic() + timeout
    reason = None
    while True:
        left_s = WATCH_WAIT_S if until is None else until - monotonic()
        if left_s <= 0:
            note(f"Stopped watching after {timeout:g} s. The task goes on in the server.")
            return Exit.WAITING
        page = read_page(connection, after, {"noun": "task", "id": task_id}, wait_s=min(WATCH_WAIT_S, left_s))
        after = page.next
        for event in page.events:
            tell(event, as_json=as_json)
            ended = ENDS.get(word_of(event))
            if ended is not None:
                return Exit.OK if ended == "completed" else Exit.SOME_NOT
        if not page.events and page.next >= page.head:
            now = connection.get(path).json().get("unassignable")
            if now is not None and now != reason:
                note(f"It waits: {now}.")
            reason = now


# --- log tail ---------------------------------------------------------------------------------------------------------


def tail_verb() -> Verb:
    """`log tail`."""
    return Verb(
        "tail",
        params=[
            click.Option(["--after"], type=click.IntRange(min=0), metavar="POSITION", help="All events after it."),
            click.Option(
                ["--last"], type=click.IntRange(1, LAST_MAX), default=20, show_default=True, help="Without --after."
            ),
            click.Option(["--follow", "-f"], is_flag=True, help="Go on with what happens from now on."),
            click.Option(["--noun"], help="Only events of this kind of thing: task, agent, host, ..."),
            click.Option(["--id", "id_"], help="Only events of this very thing."),
            click.Option(["--type", "type_"], help="Only events of this type: task.completed, ..."),
            click.Option(["--correlation-id"], help="Only what belongs to one submission."),
            click.Option(["--json", "as_json"], is_flag=True, help="Print the events as JSON lines (CloudEvents)."),
        ],
        callback=tail,
        help="""Print the events of the log, oldest first: position, time, what, to whom, by whom, data.

        Ends with the newest event unless --follow is given.
        """,
        examples=(
            "hivebus log tail --follow",
            "hivebus log tail --noun task --type task.failed --last 5",
            "hivebus log tail --after 0 --json > everything.jsonl",
        ),
    )


def tail(
    after: int | None,
    last: int,
    follow: bool,
    noun: str | None,
    id_: str | None,
    type_: str | None,
    correlation_id: str | None,
    as_json: bool,
) -> Exit:
    """Print the log's end, or what comes after a position."""
    connection = client()
    when_interrupted("Stopped. The log goes on in the server.")
    filters = {"noun": noun, "id": id_, "type": type_, "correlation_id": correlation_id}
    if after is None:
        head = head_of(connection)
        for event in last_events(connection, head, last, filters):
            tell(event, as_json=as_json)
        if not follow:
            return Exit.OK
        after = head
    for page in pages(connection, after, filters, follow=follow):
        for event in page.events:
            tell(event, as_json=as_json)
    return Exit.OK


def pages(connection: Client, after: int, filters: Mapping[str, Any], *, follow: bool) -> Iterator[Page]:
    """Pages from a position on, to the newest event, or for ever."""
    while True:
        page = read_page(connection, after, filters, wait_s=WAIT_S if follow else 0.0)
        yield page
        if not follow and page.next >= page.head:
            return
        after = page.next


def head_of(connection: Client) -> int:
    """The newest position."""
    return read_page(connection, 2**62, {"noun": "-"}).head


def last_events(connection: Client, head: int, wanted: int, filters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The newest events that match, oldest first.

    Looks back in spans that grow by sixteen, because the API reads forward only: the log is read about once at most.
    """
    span = wanted
    while True:
        start = max(0, head - span)
        found: deque[Mapping[str, Any]] = deque(maxlen=wanted)
        after = start
        while after < head:
            page = read_page(connection, after, filters)
            found.extend(event for event in page.events if position_of(event) <= head)
            if page.next <= after:
                break
            after = page.next
        if len(found) == wanted or start == 0:
            yield from found
            return
        span *= 16
