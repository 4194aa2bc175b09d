"""The commands that work on this machine instead of asking a server: `up`, `agent-host` and `verify`.

What they need is imported by name when they run. Every other command starts without it, and the import contracts see
that the command line itself joins no adapters.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import msgspec

from entrypoints.cli.failures import Exit, Failure
from entrypoints.cli.output import Column, cell, emit, line, note, table
from entrypoints.cli.verb import Verb, json_option, when_interrupted
from entrypoints.eta import Told
from entrypoints.paths import DATA_DIR_VARIABLE, data_dir

UP_DOC = """Start everything: the broker, the log's recorder, the scheduler, agents, the REST API and the page.

Runs until Ctrl-C or SIGTERM. Each option is a setting that can as well stand in the environment, as HIVEBUS_<NAME>.
"""
HOST_DOC = """Run agents on this machine for a server elsewhere, over NATS. It holds a lease and no database.

Beside a server with an embedded broker it needs nothing but the same data directory. For one elsewhere it needs
HIVEBUS_NATS_URL and its login, HIVEBUS_URL (the API, where large results go) and HIVEBUS_KEY (the server's host.key).
Ends on Ctrl-C or SIGTERM: what runs is interrupted and queued again at once.
"""
# What an agent host reads of the settings; the rest is the server's.
OF_HOSTS = (
    "data_dir",
    "host_name",
    "slots",
    "metrics_port",
    "shell_slots",
    "python_slots",
    "nats_url",
    "nats_user",
    "nats_password_file",
    "nats_creds",
    "nats_ca",
    "nats_cert",
    "nats_key",
    "beat_s",
    "self_stop_s",
    "grace_s",
    "log_level",
)


class SettingsVerb(Verb):
    """A command whose options are settings, so they are looked up only when it is meant."""

    def __init__(self, name: str, *, names: Sequence[str] | None = None, **rest: Any) -> None:
        super().__init__(name, **rest)
        self._names = names

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """One option per setting, and --help."""
        if not self.params:
            self.params = setting_options(self._names)
        return super().get_params(ctx)


def setting_options(names: Sequence[str] | None = None) -> list[click.Parameter]:
    """The settings of the program as options, all or these; their values are checked where the settings are."""
    settings = import_module("entrypoints.settings")
    options: list[click.Parameter] = []
    for name, field in settings.Settings.model_fields.items():
        if name in settings.SECRET or (names is not None and name not in names):
            continue  # every user of the machine can read a command line
        default = "" if field.default in (None, "") or field.default_factory else f"  [default: {field.default}]"
        options.append(
            click.Option(
                [f"--{name.replace('_', '-')}", name],
                metavar="PATH" if name == "data_dir" else name.upper(),
                help=f"{field.description or ''}{default}",
            )
        )
    return options


def up_verb() -> Verb:
    """`up`."""
    return SettingsVerb(
        "up",
        callback=up,
        help=UP_DOC,
        short_help="Start everything on this machine.",
        examples=("hivebus up", "hivebus up --ui-port 8000 --api-port 8001 --data-dir ./hive --profile fast"),
    )


def up(**given: str | None) -> int:
    """Put the options into the environment, where the settings are read, and serve."""
    return _serve("entrypoints.lifecycle", given)


def agent_host_verb() -> Verb:
    """`agent-host`."""
    return SettingsVerb(
        "agent-host",
        names=OF_HOSTS,
        callback=agent_host,
        help=HOST_DOC,
        short_help="Run agents on this machine for a server elsewhere.",
        examples=(
            "hivebus agent-host",
            "hivebus agent-host --host-name gpu-1 --slots 4 --nats-url tls://nats.lan:4222",
        ),
    )


def agent_host(**given: str | None) -> int:
    """As `up`, for the process that runs agents and nothing else."""
    return _serve("entrypoints.agent_host", given)


def _serve(module: str, given: dict[str, str | None]) -> int:
    for name, value in given.items():
        if value is not None:
            os.environ[f"HIVEBUS_{name.upper()}"] = value
    code: int = import_module(module).serve()
    return code


def verify_verb() -> Verb:
    """`verify`."""
    return Verb(
        "verify",
        params=[
            click.Option(["--data-dir"], metavar="PATH", help=f"Which data.  [default: {DATA_DIR_VARIABLE}]"),
            json_option(),
        ],
        callback=verify,
        help="""Prove that the views equal the log: fold every stored commit again and compare each row.

        Works on the files of this machine, or on the Postgres that HIVEBUS_DATABASE_URL names, while the server runs or
        not; changes nothing. Exit codes: 0 equal, 1 not.
        """,
        short_help="Prove that the views equal the log.",
        examples=("hivebus verify", "hivebus verify --json | jq .difference"),
    )


def verify(data_dir: str | None, as_json: bool) -> Exit:
    """Refold and compare; the first difference is named with both of its values."""
    root = existing_data_dir(data_dir)
    when_interrupted("Interrupted. Nothing was changed.")
    from core.kernel.errors import HivebusError  # noqa: PLC0415 - only this command meets the server's own errors

    bootstrap = import_module("entrypoints.bootstrap.program")
    started = time.monotonic()
    try:
        found = asyncio.run(bootstrap.verify(root, Told(note)))
    except HivebusError as error:
        raise Failure(error.sentence, remedy=error.remedy) from error
    # A value of a row may be anything a database driver returns: what JSON has no word for is shown as text.
    report: dict[str, Any] = msgspec.to_builtins(found, enc_hook=str)
    report["seconds"] = round(time.monotonic() - started, 3)
    if as_json:
        emit(report)
    else:
        _show(report)
    return Exit.OK if report["equal"] else Exit.SOME_NOT


def existing_data_dir(chosen: str | None) -> Path:
    """The data directory that a command on this machine works on. Raises Failure where there is none."""
    root = Path(chosen).expanduser() if chosen else data_dir()
    if not root.is_dir():
        raise Failure(f"There is no data directory {root}.", remedy="Name it: --data-dir PATH")
    return root


def _show(report: dict[str, Any]) -> None:
    rows = [{**view, "equal": "equal" if view["equal"] else "DIFFERENT"} for view in report["views"]]
    table([Column("view", "name"), Column("rows", "rows"), Column("result", "equal")], rows)
    difference = report.get("difference")
    seconds = cell(report["seconds"])
    if report["equal"]:
        line(f"\nThe views equal the log up to position {report['position']} ({seconds} s).")
        line(f"{report['heads']} signed heads of the log hold.")
        if report["unchecked_heads"]:
            line(f"{report['unchecked_heads']} more have the right root; other machines' keys signed them.")
        return
    line(f"\nThe views differ from the log at position {report['position']} ({seconds} s).")
    if difference:
        line(f"First difference: view {difference['view']}, key {difference['key']}, column {difference['column']}")
        line(f"  stored    {cell(difference['stored'])}")
        line(f"  refolded  {cell(difference['refolded'])}")
