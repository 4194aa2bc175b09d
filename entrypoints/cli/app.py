"""The tree of commands. A command is made when it is asked for, so that none pays for the imports of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from entrypoints.cli.derived import query_verb
from entrypoints.cli.failures import Exit
from entrypoints.cli.output import emit, fields
from entrypoints.cli.queries import QUERIES
from entrypoints.cli.verb import Noun, Verb, client, json_option

DOC = """An event-sourced message bus for fleets of AI agents.

Results go to stdout, notes to stderr. Exit codes: 0 all good, 1 some not, 2 usage, 3 no server, 4 still waiting.
"""
EXAMPLES = (
    "hivebus up",
    "hivebus task submit --type checksum --wait -- sha256sum README.md",
    "hivebus COMMAND --help",
)
NOUN_DOCS = {
    "task": "Submit tasks, look at them, follow and cancel them.",
    "agent": "See who works, spawn and retire agents.",
    "alert": "See what is not as it should be, and take care of it.",
    "limit": "Say how many run at a time and how fast they start, by key.",
    "schedule": "Submit tasks again and again, by cron or at an interval.",
    "replay": "Ask again for everything that ended badly and fits.",
    "statistics": "See how attempts went, by task type and agent type.",
    "log": "Read the log of events, and take care of it.",
}
NOUN_EXAMPLES = {
    "task": ("hivebus task submit --type hello --wait -- echo hello", "hivebus task list --status failed"),
    "agent": ("hivebus agent list", "hivebus agent spawn --type shell --slots 4"),
    "limit": ("hivebus limit set openai --concurrency 4 --rate-per-s 2", "hivebus limit list"),
    "schedule": (
        "hivebus schedule set nightly --cron '30 2 * * *' --task type=report --task executor=command"
        """ --task 'parameters={"argv":["./report.sh"]}'""",
        "hivebus schedule list",
    ),
    "alert": ("hivebus alert list", "hivebus alert acknowledge ALERT_ID --reason 'more agents are on their way'"),
    "replay": ("hivebus replay start --status failed --dry-run",),
    "statistics": ("hivebus statistics list",),
    "log": ("hivebus log tail --follow", "hivebus log trim --older 30d --dry-run"),
}


def _submit() -> click.Command:
    from entrypoints.cli.submit import submit_verb  # noqa: PLC0415 - see the module's docstring

    return submit_verb()


def _watch() -> click.Command:
    from entrypoints.cli.stories import watch_verb  # noqa: PLC0415

    return watch_verb()


def _task_replay() -> click.Command:
    from entrypoints.cli.replaying import task_replay_verb  # noqa: PLC0415

    return task_replay_verb()


def _replay_start() -> click.Command:
    from entrypoints.cli.replaying import replay_start_verb  # noqa: PLC0415

    return replay_start_verb()


def _tail() -> click.Command:
    from entrypoints.cli.stories import tail_verb  # noqa: PLC0415

    return tail_verb()


def _diverge() -> click.Command:
    from entrypoints.cli.log_verbs import diverge_verb  # noqa: PLC0415

    return diverge_verb()


def _trim() -> click.Command:
    from entrypoints.cli.log_verbs import trim_verb  # noqa: PLC0415

    return trim_verb()


def _up() -> click.Command:
    from entrypoints.cli.machine import up_verb  # noqa: PLC0415

    return up_verb()


def _agent_host() -> click.Command:
    from entrypoints.cli.machine import agent_host_verb  # noqa: PLC0415

    return agent_host_verb()


def _verify() -> click.Command:
    from entrypoints.cli.machine import verify_verb  # noqa: PLC0415

    return verify_verb()


def _backup() -> click.Command:
    from entrypoints.cli.backup import backup_verb  # noqa: PLC0415

    return backup_verb()


def _restore() -> click.Command:
    from entrypoints.cli.backup import restore_verb  # noqa: PLC0415

    return restore_verb()


def _rebuild() -> click.Command:
    from entrypoints.cli.rebuilding import rebuild_verb  # noqa: PLC0415

    return rebuild_verb()


def _env() -> click.Command:
    from entrypoints.cli.access import env_verb  # noqa: PLC0415

    return env_verb()


def _key() -> click.Command:
    from entrypoints.cli.access import key_noun  # noqa: PLC0415

    return key_noun()


def _status() -> click.Command:
    return Verb(
        "status",
        params=[json_option()],
        callback=status,
        help="Say how the server is. Exit codes: 0 healthy, 1 degraded or unhealthy, 3 not running.",
        short_help="Say how the server is.",
        examples=("hivebus status", "hivebus status --json | jq .metrics"),
    )


def status(as_json: bool) -> Exit:
    """The server's own words; anything but healthy is worth an exit code."""
    answer = client().get("/api/status")
    document = answer.json()
    if as_json:
        emit(answer.body)
    else:
        fields(document)
    return Exit.OK if document.get("status") == "healthy" else Exit.SOME_NOT


def _explain() -> click.Command:
    verb = query_verb(next(query for query in QUERIES if query.name == "task.explain"))
    verb.name = "explain"
    return verb


By = dict[str, Callable[[], click.Command]]

# Written by hand, because they deserve it. Everything else comes from the registry and the table of queries.
BY_HAND: dict[str, By] = {
    "": {
        "up": _up,
        "agent-host": _agent_host,
        "status": _status,
        "explain": _explain,
        "verify": _verify,
        "rebuild": _rebuild,
        "backup": _backup,
        "restore": _restore,
        "env": _env,
        "key": _key,
    },
    "task": {"submit": _submit, "watch": _watch, "replay": _task_replay},
    "replay": {"start": _replay_start},
    "log": {"tail": _tail, "diverge": _diverge, "trim": _trim},
}


class LazyNoun(Noun):
    """A noun whose verbs are written by hand, come from the table of queries, or from the registry, in this order."""

    def __init__(self, name: str) -> None:
        self._queries = {query.name.partition(".")[2]: query for query in QUERIES if query.name.startswith(f"{name}.")}
        itself = self._queries.get("show")
        alone = query_verb(itself) if itself is not None and itself.target is None else None
        doc = NOUN_DOCS.get(name) or (alone.help if alone is not None else f"Commands about each {name}.")
        examples = alone.examples if alone is not None else NOUN_EXAMPLES.get(name, (f"hivebus {name} --help",))
        super().__init__(name, help=doc, alone=alone, examples=examples)
        self._by_hand = BY_HAND.get(name, {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs of the noun."""
        derived = {spec.name.partition(".")[2] for spec in client_commands() if spec.noun == self.name}
        return sorted(derived | set(self._by_hand) | set(self._queries))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A verb, without the registry where it can be had without."""
        if cmd_name in self._by_hand:
            return self._by_hand[cmd_name]()
        if cmd_name in self._queries:
            return query_verb(self._queries[cmd_name])
        from entrypoints.cli.derived import command_verb  # noqa: PLC0415

        for spec in client_commands():
            if spec.name == f"{self.name}.{cmd_name}":
                return command_verb(spec)
        return None


class Root(Noun):
    """The program."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands without a noun, and all nouns."""
        return sorted({*BY_HAND[""], *_nouns(), *(spec.noun for spec in client_commands())})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command of the first level."""
        if cmd_name in BY_HAND[""]:
            return BY_HAND[""][cmd_name]()
        if cmd_name in _nouns() or any(spec.noun == cmd_name for spec in client_commands()):
            return LazyNoun(cmd_name)
        return None


def _nouns() -> set[str]:
    return {noun for noun in BY_HAND if noun} | {query.name.partition(".")[0] for query in QUERIES}


def client_commands() -> list[Any]:
    """The commands of the registry that have a route."""
    from core.actions import registry  # noqa: PLC0415 - help pages and derived commands only

    return [spec for spec in registry().client_commands() if spec.route is not None]


def _print_version(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import version  # noqa: PLC0415 - slow, and for this only

    click.echo(f"hivebus {version('hivebus')}")
    ctx.exit()


cli = Root(
    "hivebus",
    help=DOC,
    examples=EXAMPLES,
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_print_version,
            help="Print the version.",
        )
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
