"""The reference pages under docs/reference, written from the program itself and held current by `make lint`.

    python -m tests.documents          check: pages current, links resolve, the README is short
    python -m tests.documents --write  write the pages

Nothing here may depend on the machine: a default that does is described in words.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Table

import core.kernel.errors
from adapters.sql import schema
from adapters.telemetry import described
from core.actions import AGGREGATES, registry
from core.kernel.cloud_events import CloudEvent
from core.kernel.commit import Body
from core.kernel.errors import HivebusError
from core.kernel.registry import doc_of
from core.kernel.subjects import CLIENT_INBOX, COMMANDS, DISCOVERY, EVENTS, PAYLOAD_MAX_BYTES
from core.projection import JournalView
from core.services.relay import HEADERS
from entrypoints.a2a import errors as a2a
from entrypoints.cli.app import cli
from entrypoints.cli.failures import Exit
from entrypoints.http import problems
from entrypoints.nats.commands import IN_FLIGHT_BYTES_MAX, IN_FLIGHT_MAX
from entrypoints.nats.discovery import NAME, QUEUE
from entrypoints.schemas.declared import documents
from entrypoints.schemas.documents import Documents
from entrypoints.settings import FOREIGN, PREFIX, Settings
from projections.catalogue import QUERIES, VIEWS
from tests.rest_page import rest
from tests.words import code, fields_of, page, table

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
ROOMS = ("core", "adapters", "projections", "entrypoints", "migrations")
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
README_LINES_MAX = 119
CLI_WIDTH = 100
MACHINE_DEFAULTS = {
    "data_dir": "the user's data directory of this system",
}
EXIT_MEANINGS = {
    Exit.OK: "all good",
    Exit.SOME_NOT: "some of it not; the server said no; the program failed",
    Exit.USAGE: "what was given cannot be sent",
    Exit.UNREACHABLE: "no server answers",
    Exit.WAITING: "`--timeout` came before the end",
    Exit.INTERRUPTED: "Ctrl-C",
}

# --- nats.md ----------------------------------------------------------------------------------------------------------

NATS_INTRO = f"""
Programs log in with what `hivebus env` prints: `NATS_URL`, `NATS_USER`, `NATS_PASSWORD`, and `NATS_INBOX_PREFIX`, which
is no environment variable that clients read by themselves: set it as the client's inbox prefix. That user may publish
`{COMMANDS}.>` and the discovery of services, and may hear `{CLIENT_INBOX}.>` and `{EVENTS}.>`; nothing else.
"""
NATS_COMMANDS = f"""
A command is a request on its subject; the payload is a JSON object with its fields, at most
{PAYLOAD_MAX_BYTES // 1024:,} KiB. Headers `Idempotency-Key` and `X-Correlation-Id` mean what they mean over
[REST](rest.md). The answer comes when the commit is on the log:

- `{{"accepted": true, "position": ..., "<noun>_id": ..., "status": ..., "correlation_id": ...}}`, with `repeated: true`
  where the log held this very command already
- `{{"accepted": false, "refused": true, "code": ..., "reason": ..., "remedy": ...}}`, with `pointer` where one field is
  meant and `retry_after_s` where it is worth another try; headers `Nats-Service-Error` (the code) and
  `Nats-Service-Error-Code` (the status that REST gives). [errors.md](errors.md) lists the codes.
- `accepted` and `refused` are both null where the outcome is not known (`outcome_unknown`): send it again under its
  key.

An answer goes to a subject under `{CLIENT_INBOX}.` only; a request that names another is ignored, and counted in
`hivebus_requests_total{{outcome="forbidden_reply"}}`. A publish without a reply is carried out too: what becomes
of it is an event, and what is malformed or over a bound is counted in that metric by its code.

At most {IN_FLIGHT_MAX:,} commands and {IN_FLIGHT_BYTES_MAX // 1024 // 1024} MiB of them are under way at once; a
request beyond that is answered `too_many` at once. Commands of one client may be carried out in another order than they
were sent: wait for an answer where the order matters. Batches and queries are for REST.

Programs share the queue group `{QUEUE}`: each command goes to one of them. They answer the discovery of NATS services
under the name `{NAME}`: `{DISCOVERY}.PING`, `{DISCOVERY}.INFO` and `{DISCOVERY}.STATS`, each also with `.{NAME}` and
`.{NAME}.<id>` behind it.
"""
NATS_EVENTS = f"""
Each event is published on `{EVENTS}.<noun>.<verb>.<id>` once it is recorded, as a
[CloudEvent](events.md#as-a-cloudevent) with header `Content-Type: {HEADERS["Content-Type"]}`: at most once, in the
order of positions. Subscribe to `{EVENTS}.task.completed.*`, or to `{EVENTS}.task.*.ID`.

What was published while nobody listened is not sent again. While the broker is away, or more comes than can be passed
on, events are dropped, and counted in `hivebus_events_dropped_total`. `sequence` is the event's position: read what is
missing with `GET /api/events?after=POSITION`, which has them all.
"""


def nats() -> str:
    parts = [NATS_INTRO, "## Commands", NATS_COMMANDS]
    for spec in registry(QUERIES).client_commands():
        parts += [f"### {COMMANDS}.{spec.name}", spec.doc, fields_of(spec.struct)]
    return page("NATS", *parts, "## Events", NATS_EVENTS)


# --- events.md --------------------------------------------------------------------------------------------------------

EVENTS_INTRO = """
An event is stored under its name and schema, for ever: neither changes its meaning. A field that is null is left out.
The commit around it says who, when and why; outside it is a CloudEvent.
"""


def events() -> str:
    parts = [EVENTS_INTRO]
    for aggregate in AGGREGATES:
        parts.append(f"## {aggregate.noun}")
        for spec in aggregate.events.values():
            parts += [f"### {spec.name}", f"Schema {spec.schema}. {doc_of(spec.struct)}", fields_of(spec.struct)]
    parts += ["## The commit around them", f"One message on `hive.log.<noun>.<id>`. {doc_of(Body)}", fields_of(Body)]
    parts += [
        "## As a CloudEvent",
        doc_of(CloudEvent),
        "`sequence` is the position as decimal text.",
        fields_of(CloudEvent),
    ]
    return page("Events", *parts)


# --- errors.md --------------------------------------------------------------------------------------------------------


def errors() -> str:
    _, tree, _, numbers = inspect.cleandoc(core.kernel.errors.__doc__ or "").split("\n\n")
    own = {name: kind for name, kind in vars(core.kernel.errors).items() if _is_error(kind)}
    known = own | {name: kind for name, kind in vars(problems).items() if _is_error(kind)}
    protocol = {name: kind for name, kind in vars(a2a).items() if _is_error(kind) and name not in known}
    kinds = [[code(name), str(kind.status), str(kind.jsonrpc), code(kind.default_code)] for name, kind in known.items()]
    found: dict[tuple[str, str], set[str]] = {}
    known |= protocol
    for path in sources():
        for kind, word, sentences in _made(ast.parse(path.read_text("utf-8")), known):
            found.setdefault((word, kind), set()).update(sentences)
    rows = []
    for (word, kind), said in sorted(found.items()):
        status = "at start" if kind == "StartRefused" else str(known[kind].status)
        rows.append([code(word), status, " / ".join(sorted(said)[:3])])
    return page(
        "Errors",
        "Every error has a stable `code`, a sentence, and a remedy. A transport maps the status once.",
        "```text\n" + inspect.cleandoc(tree) + "\n```",
        "The last four are made by the HTTP listeners alone.",
        table(["error", "status", "JSON-RPC", "code unless it says another"], kinds),
        "## Numbers of JSON-RPC",
        "`data.code` says which error it is; the number only says of which kind. `data.field` points into the params.",
        "```text\n" + inspect.cleandoc(numbers) + "\n```",
        "## Codes",
        "Found in the program's source. What stands in braces is filled in; at most three sentences are shown. "
        "`at start`: the program does not start, and ends with exit code 1.",
        table(["code", "status", "what it says"], rows),
        "## Numbers of A2A",
        "A2A gives -32001 to -32009 meanings of its own: there an error goes by the first row that fits, and its code, "
        "remedy, status and place are the metadata of an ErrorInfo.",
        table(["error", "number", "reason"], [[code(name), str(n), code(word)] for name, n, word in _a2a_numbers()]),
        "## Exit codes of the command line",
        table(["exit", "meaning"], [[str(int(exit_)), EXIT_MEANINGS[exit_]] for exit_ in Exit]),
    )


def _a2a_numbers() -> Iterator[tuple[str, int, str]]:
    for kind in a2a.A2AError.__subclasses__():
        yield kind.__name__, kind.jsonrpc, kind.reason
    for other, number, word in a2a.BY_CLASS:
        yield other.__name__, number, word
    yield HivebusError.__name__, a2a.OTHER[0], a2a.OTHER[1]


def _is_error(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, HivebusError)


def sources() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def _made(tree: ast.Module, known: dict[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """(class, code, sentences) of each error that a module makes, in the order of its lines."""
    nodes = sorted(ast.walk(tree), key=lambda node: getattr(node, "lineno", 0))
    assigned: dict[str, list[ast.expr]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            assigned.setdefault(node.targets[0].id, []).append(node.value)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
            kind = node.func.id
            named = next((word.value for word in node.keywords if word.arg == "code"), None)
            words = [known[kind].default_code] if named is None else _texts(named, assigned)
            sentences = _texts(node.args[0], assigned) if node.args else []
            for word in words:
                yield kind, word, sentences
            if node.args and isinstance(node.args[0], ast.Name):
                assigned.pop(node.args[0].id, None)  # the next error of the same name says something else


def _texts(node: ast.expr, assigned: dict[str, list[ast.expr]]) -> list[str]:
    """The texts that an expression may be, what is filled in in braces; none where only running it tells."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr():
            return ["".join(_piece(part) for part in node.values)]
        case ast.IfExp():
            return _texts(node.body, assigned) + _texts(node.orelse, assigned)
        case ast.Name():
            values = [value for value in assigned.get(node.id, ()) if not isinstance(value, ast.Name)]
            return [text for value in values for text in _texts(value, assigned)]
        case _:
            return []


def _piece(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    called = {id(node.func) for node in ast.walk(part) if isinstance(node, ast.Call)}
    named = [node for node in ast.walk(part) if isinstance(node, ast.Attribute | ast.Name)]
    words = [node.attr if isinstance(node, ast.Attribute) else node.id for node in named if id(node) not in called]
    words += [node.attr for node in named if isinstance(node, ast.Attribute)]
    word = next((word for word in words if word != "self"), "...")
    return "{" + word.strip("_").lower().replace("_", " ") + "}"


# --- settings.md, cli.md, views.md ------------------------------------------------------------------------------------


def settings() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        default = MACHINE_DEFAULTS.get(name) or (
            code(str(field.default)) if field.default not in ("", None) else "empty"
        )
        bounds = _bounds_of_setting(field.metadata)
        if name in ("profile", "log_level"):
            bounds = ", ".join(map(code, field.annotation.__args__))  # type: ignore[union-attr]
        rows.append([code(PREFIX + name.upper()), default, bounds, field.description or ""])
    return page(
        "Settings",
        "Each is an environment variable, and an option of `hivebus up` (`HIVEBUS_API_PORT`: `--api-port`), passwords "
        "excepted. An empty "
        "variable is an unset one; one that is misspelt is refused at start. Beat, self-stop and lease must grow, in "
        "this order.",
        table(["variable", "default", "bound", "meaning"], rows),
        f"Read elsewhere, by the command line, secrets and tasks: {', '.join(map(code, FOREIGN))}.",
    )


def _bounds_of_setting(metadata: Sequence[Any]) -> str:
    low = next((bound.ge for bound in metadata if hasattr(bound, "ge")), None)
    high = next((bound.le for bound in metadata if hasattr(bound, "le")), None)
    return " ".join(f"{word} {value:,}" for word, value in (("from", low), ("to", high)) if value is not None)


def machine_defaults() -> set[str]:
    """The settings whose default is no literal in the source: what they are, only a machine can tell."""
    tree = ast.parse((ROOT / "entrypoints" / "settings.py").read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(node.value, ast.Call):
            literal = bool(node.value.args) and isinstance(node.value.args[0], ast.Constant)
            found |= set() if literal else {node.target.id}
    return found


def command_line() -> str:
    field = Settings.model_fields["shell_slots"]
    kept, field.default = field.default, None  # the help of `up` prints defaults, and this one is the machine's
    try:
        pages = list(_help(cli, None, "hivebus"))
    finally:
        field.default = kept
    intro = "Results go to stdout, everything else to stderr; `--json` prints one document. [Exit codes](errors.md)."
    return page("Command line", intro, *(f"## {path}\n\n```text\n{text.rstrip()}\n```" for path, text in pages))


def _help(command: click.Command, parent: click.Context | None, name: str) -> Iterator[tuple[str, str]]:
    context = click.Context(
        command,
        parent=parent,
        info_name=name,
        terminal_width=CLI_WIDTH,
        max_content_width=CLI_WIDTH,
        help_option_names=["-h", "--help"],
    )
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for word in command.list_commands(context):
            found = command.get_command(context, word)
            assert found is not None
            yield from _help(found, context, word)


def views() -> str:
    parts = [
        "`views.db` holds the read models. It may be deleted while nothing runs: the next start folds it again from "
        "`store.db`. A row was true from position `valid_from` on, and before `valid_to`; the open end is 2^63 - 1.",
    ]
    for view in VIEWS:
        kind = "journal, one row an event" if isinstance(view, JournalView) else "every version of every row"
        nouns = f"of {', '.join(sorted(view.nouns))}" if view.nouns else "of everything"
        parts += [f"## {view.name}", f"{doc_of(type(view))} ({kind}; folds events {nouns}.)", _columns(view.table)]
    parts += ["## The store", "`store.db`, the system of record: one row a commit, never trimmed."]
    for kept in sorted(schema.metadata.tables.values(), key=lambda item: item.name):
        parts += [f"### {kept.name}", _columns(kept)]
    return page("Views and store", *parts)


def _columns(kept: Table) -> str:
    return table(
        ["column", "type", ""],
        [
            [
                code(column.name),
                str(column.type),
                "key" if column.primary_key else "may be null" if column.nullable else "",
            ]
            for column in kept.columns
        ],
    )


# --- metrics.md -------------------------------------------------------------------------------------------------------

METRICS_INTRO = """
`GET /metrics` in Prometheus' text format: on the metrics listener (port 9000) without a key, on the API with one. Each
process has its own. Gauges are measured when somebody looks, and what cannot be measured then is absent.
"""
METRIC_LABELS = """
- `action`: an action of the registry (`task.submit`), or `unknown`, whatever the request named.
- `transport`: the way in. `outcome` of a request: `ok`, or the [code](errors.md#codes) of the error; of an attempt: how
  it ended.
- `status`, `priority`, `reason`: closed sets; a status that nothing has is 0.
"""


def metrics() -> str:
    rows = [[code(metric.name), metric.kind, ", ".join(map(code, metric.labels)), metric.doc] for metric in described()]
    head = ["metric", "kind", "labels", "meaning"]
    return page("Metrics", METRICS_INTRO, table(head, rows), "## Labels", METRIC_LABELS)


# --- checking ---------------------------------------------------------------------------------------------------------


def document(name: str) -> str:
    """A document as it is served, but for its version, written so that a change shows line by line."""
    return json.dumps(documents(VERSION).document(name), indent=1, ensure_ascii=False) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    **{f"{name}.json": partial(document, name) for name in Documents.NAMES},
    "rest.md": rest,
    "nats.md": nats,
    "events.md": events,
    "errors.md": errors,
    "settings.md": settings,
    "cli.md": command_line,
    "views.md": views,
    "metrics.md": metrics,
}
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def stale() -> Iterator[str]:
    """Pages that are not what the program says."""
    for name, make in PAGES.items():
        path = REFERENCE / name
        now = path.read_text("utf-8") if path.exists() else ""
        if now != (wanted := make()):
            changed = next(
                (text for text in difflib.ndiff(now.splitlines(), wanted.splitlines()) if text[:2] in ("- ", "+ ")), ""
            )
            yield f"docs/reference/{name} is not current ({changed[:120]}): make docs"


def written_pages() -> list[Path]:
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in pages if path.exists() and path.stem != "evidence"]


def links_of(path: Path) -> list[str]:
    """The relative links of a page; what stands in a code block is no link."""
    text = _FENCE.sub("", path.read_text("utf-8"))
    return [link for link in _LINK.findall(text) if not re.match(r"[a-z]+:", link)]


def anchors_of(path: Path) -> set[str]:
    """The anchors that a page's headings make, as the usual forges make them."""
    text = _FENCE.sub("", path.read_text("utf-8"))
    heads = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken_links(pages: Sequence[Path]) -> Iterator[str]:
    """Links to nothing, and pages that nothing leads to."""
    reached = {ROOT / "README.md", ROOT / "CHANGELOG.md"}
    for path in pages:
        for link in links_of(path):
            target, _, anchor = link.partition("#")
            found = (path.parent / target).resolve() if target else path
            reached.add(found)
            if not found.exists():
                yield f"{path.relative_to(ROOT)}: nothing is at {link}"
            elif anchor and found.suffix == ".md" and anchor not in anchors_of(found):
                yield f"{path.relative_to(ROOT)}: no heading answers to {link}"
    for path in pages:
        if path not in reached:
            yield f"{path.relative_to(ROOT)}: no page links to it"


def complaints() -> Iterator[str]:
    """Everything that is wrong with the documents, a line each."""
    yield from stale()
    if unsaid := machine_defaults() ^ MACHINE_DEFAULTS.keys():
        yield f"MACHINE_DEFAULTS here and entrypoints/settings.py differ in {', '.join(sorted(unsaid))}"
    lines = len((ROOT / "README.md").read_text("utf-8").splitlines())
    if lines > README_LINES_MAX:
        yield f"README.md has {lines} lines; {README_LINES_MAX} is the most"
    yield from broken_links(written_pages())


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the documents, or write those that come from the program.")
    parser.add_argument("--write", action="store_true", help="write docs/reference first")
    if parser.parse_args().write:
        REFERENCE.mkdir(parents=True, exist_ok=True)
        for name, make in PAGES.items():
            (REFERENCE / name).write_text(make(), "utf-8")
    found = list(complaints())
    print("\n".join(found), end="\n" if found else "", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
