"""The care of the log from a shell: `log diverge` and `log trim`."""

from __future__ import annotations

import asyncio
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import orjson

from core.kernel.errors import HivebusError
from core.services.trim import age_ms
from entrypoints.cli.failures import Exit, Failure, Unreachable
from entrypoints.cli.http import Request
from entrypoints.cli.output import Column, emit, line, note, table
from entrypoints.cli.verb import Verb, client, json_option, when_interrupted
from entrypoints.paths import data_dir

LOOK_S = 0.25
SAY_EVERY_S = 2.0
JSON = {"Content-Type": "application/json"}

# --- log diverge ------------------------------------------------------------------------------------------------------


def diverge_verb() -> Verb:
    """`log diverge`."""
    return Verb(
        "diverge",
        params=[
            click.Option(
                ["--data-dir"],
                metavar="PATH",
                help="Compare the files of a stopped program in this directory, instead of asking a server.",
            ),
            json_option(),
        ],
        callback=diverge,
        help="""Compare the broker's log with the store, and show both sides where they part.

        Asks the running server; if none runs on this machine, it starts the broker of the data directory for the look.
        It changes nothing. Exit codes: 0 one history, 1 two histories, or a log that lost its tail.
        """,
        short_help="Compare the log with the store.",
        examples=("hivebus log diverge", "hivebus log diverge --data-dir /var/lib/hivebus --json"),
    )


def diverge(data_dir: str | None, as_json: bool) -> Exit:
    """Both sides, of the running program or of a stopped one."""
    found = _ask() if data_dir is None else None
    if found is None:
        found = _look(_root(data_dir))
    if as_json:
        emit(found)
    else:
        _show(found)
    return Exit.OK if found["verdict"] == "equal" else Exit.SOME_NOT


def _ask() -> dict[str, Any] | None:
    """The running server's answer; None where none runs on this machine."""
    try:
        answer: dict[str, Any] = client().get("/api/log/compare").json()
    except Unreachable:
        return None
    return answer


def _root(chosen: str | None) -> Path:
    root = Path(chosen).expanduser() if chosen else data_dir()
    if not root.is_dir():
        raise Failure(f"There is no data directory {root}.", remedy="Name it: --data-dir PATH")
    return root


def _look(root: Path) -> dict[str, Any]:
    when_interrupted("Interrupted. Nothing was changed.")
    from core.kernel.errors import HivebusError  # noqa: PLC0415 - only this way meets the server's own errors

    note(f"No server runs; log and store of {root} are opened for the look.")
    lock = import_module("entrypoints.lock").DataDirectory(root)
    try:
        settings = import_module("entrypoints.settings").load().model_copy(update={"data_dir": root})
        _refuse_empty(root, settings)
        lock.take()
        broker = import_module("entrypoints.broker").chosen_broker(settings)
        found: dict[str, Any] = asyncio.run(import_module("entrypoints.diverge").diverge(settings, broker))
    except HivebusError as error:
        raise Failure(error.sentence, remedy=error.remedy) from error
    finally:
        lock.release()
    return found


def _refuse_empty(root: Path, settings: Any) -> None:
    """A look must not make what is not there."""
    elsewhere = {"nats": settings.nats_url, "store.db": settings.database_url or settings.database_url_file}
    for name, place in elsewhere.items():
        if not place and not (root / name).exists():
            raise Failure(f"There is no {root / name}.", remedy="Name the data directory: --data-dir PATH")


def _show(found: dict[str, Any]) -> None:
    line(found["sentence"])
    if found["log"].get("leaf") is None:
        return
    line(f"\nAt position {found['position']}:")
    rows = [
        {"what": name.replace("_", " "), "log": found["log"].get(name), "store": found["store"].get(name)}
        for name in ("head", "commit_id", "subject", "occurred_at", "recorded_at", "leaf")
    ]
    table([Column("", "what"), Column("log", "log"), Column("store", "store")], rows)
    if found["parted_after"] is not None:
        line(f"\nThey hold the same commits up to position {found['parted_after']}.")


# --- log trim ---------------------------------------------------------------------------------------------------------


def trim_verb() -> Verb:
    """`log trim`."""
    return Verb(
        "trim",
        params=[
            click.Option(
                ["--older"],
                required=True,
                metavar="AGE",
                callback=_age,
                help="What ended before that: 30d, 12h, 45m, 90s.",
            ),
            click.Option(["--dry-run"], is_flag=True, help="Say what would go, and change nothing."),
            click.Option(["--without-backup"], is_flag=True, help="Trim what no backup holds yet, too."),
            json_option(),
        ],
        callback=trim,
        help="""Make the log forget what has ended, so that the broker needs less memory and disk.

        Goes: tasks, agents and refusals that have ended, are older than AGE, recorded in the store, under a signed
        head and backed up. The store keeps all of it: queries, history and verify answer as before. Exit codes: 0
        done, 1 not.
        """,
        short_help="Make the log forget what has ended.",
        examples=("hivebus log trim --older 30d --dry-run", "hivebus log trim --older 30d"),
    )


def _age(_ctx: click.Context, _param: click.Parameter, text: str) -> str:
    """An age as the server takes it. Raises BadParameter before anybody is asked."""
    try:
        age_ms(text)
    except HivebusError as error:
        raise click.BadParameter(f"{error.sentence} {error.remedy}") from None
    return text


def trim(older: str, dry_run: bool, without_backup: bool, as_json: bool) -> Exit:
    """Order a trim of the running server and wait for its end."""
    connection = client()
    when_interrupted("The trim goes on in the server: GET /api/log/trim says how far it is.")
    order = {"older": older, "dry_run": dry_run, "without_backup": without_backup}
    state = connection.call(Request("POST", "/api/log/trim", orjson.dumps(order), JSON)).json()
    said = time.monotonic()
    while state["state"] == "running":
        time.sleep(LOOK_S)
        state = connection.get("/api/log/trim").json()
        if time.monotonic() - said > SAY_EVERY_S:
            said = time.monotonic()
            note(f"examined {state['examined']} subjects, {state['subjects']} to go")
    if as_json:
        emit(state)
    else:
        _show_trim(state)
    return Exit.OK if state["state"] == "done" else Exit.SOME_NOT


def _show_trim(state: dict[str, Any]) -> None:
    went = "would go" if state["dry_run"] else "went"
    line(f"{state['commits']} commits of {state['subjects']} subjects {went}, of {state['examined']} in the log.")
    line(f"Positions up to {state['limit']} were reached; the bound is: {state['limited_by'].replace('_', ' ')}.")
    if state["bytes_after"] is not None and not state["dry_run"]:
        line(f"The log's entries took {state['bytes_before']} bytes and take {state['bytes_after']}.")
    if state["problem"]:
        line(f"It ended early: {state['problem']} Order it again: it goes on where it was.")
