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
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import Struct, structs
from msgspec import inspect as types
from sqlalchemy import Table

import core.kernel.errors
from adapters.sql import schema
from adapters.telemetry import described
from core.actions import AGGREGATES, registry
from core.execution import CommandParameters, PythonParameters, Reference
from core.kernel.cloud_events import CloudEvent
from core.kernel.commit import Body
from core.kernel.errors import HivebusError
from core.kernel.registry import CommandSpec, QuerySpec, doc_of
from core.kernel.subjects import CLIENT_INBOX, COMMANDS, DISCOVERY, EVENTS, PAYLOAD_MAX_BYTES
from core.projection import JournalView
from core.services.relay import HEADERS
from core.task import NOT_AVAILABLE, Retry
from entrypoints.cli.app import cli
from entrypoints.cli.failures import Exit
from entrypoints.http import problems
from entrypoints.http.aliases import AgentTask
from entrypoints.http.events import ReadEvents
from entrypoints.nats.commands import IN_FLIGHT_BYTES_MAX, IN_FLIGHT_MAX
from entrypoints.nats.discovery import NAME, QUEUE
from entrypoints.settings import FOREIGN, PREFIX, Settings
from projections.catalogue import QUERIES, VIEWS

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
ROOMS = ("core", "adapters", "projections", "entrypoints", "migrations")
README_LINES_MAX = 119
CLI_WIDTH = 100
NOTICE = "<!-- Written by `make docs` from the program. Change the program, not this page. -->"
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

# --- words ------------------------------------------------------------------------------------------------------------


def page(title: str, *parts: str) -> str:
    return "\n\n".join([NOTICE, f"# {title}", *(part.strip("\n") for part in parts if part.strip())]) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in lines
    )


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def type_text(kind: types.Type) -> str:
    """A type as people write it, with its bounds."""
    match kind:
        case types.Metadata():
            return type_text(kind.type)
        case types.UnionType():
            return " or ".join(type_text(inner) for inner in kind.types)
        case types.LiteralType():
            return ", ".join(str(value) for value in kind.values)
        case types.ListType():
            return f"list of {type_text(kind.item_type)}{_bounds(kind, 'items')}"
        case types.VarTupleType():
            return f"list of {type_text(kind.item_type)}"
        case types.DictType() if isinstance(kind.value_type, types.AnyType):
            return f"object{_bounds(kind, 'items')}"
        case types.DictType():
            return f"object of {type_text(kind.value_type)}{_bounds(kind, 'items')}"
        case types.StructType():
            return f"object {kind.cls.__name__}"
        case types.StrType():
            return "text" + _bounds(kind)
        case types.IntType():
            return "integer" + _bounds(kind)
        case types.FloatType():
            return "number" + _bounds(kind)
        case types.BoolType():
            return "true or false"
        case types.NoneType():
            return "null"
        case _:
            return "any JSON"


def _bounds(kind: Any, unit: str = "characters") -> str:
    words = {"ge": "from {}", "gt": "over {}", "le": "to {}", "lt": "under {}"}
    bounds = [(text, getattr(kind, name, None)) for name, text in words.items()]
    said = [" ".join(text.format(f"{value:,}") for text, value in bounds if value is not None)]
    low, high = getattr(kind, "min_length", None), getattr(kind, "max_length", None)
    if high is not None:
        said.append(f"{low} to {high:,} {unit}" if low else f"at most {high:,} {unit}")
    if (pattern := getattr(kind, "pattern", None)) is not None:
        said.append(f"matching `{pattern}`")
    said = [word for word in said if word]
    return f" ({', '.join(said)})" if said else ""


def default_text(field: structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, Struct):
        return f"{type(value).__name__}'s own"
    return code(msgspec.json.encode(value).decode())


def fields_of(struct: type[Struct], *, where: Callable[[str], str] | None = None, leave_out: Sequence[str] = ()) -> str:
    """A table of a Struct's fields; `where` says how a field is sent."""
    kind = types.type_info(struct)
    assert isinstance(kind, types.StructType)
    rows = []
    for field, info in zip(kind.fields, structs.fields(struct), strict=True):
        if field.name not in leave_out:
            row = [code(field.encode_name), type_text(field.type), default_text(info)]
            rows.append([row[0], where(field.name), *row[1:]] if where else row)
    if not rows:
        return "It has no fields."
    return table(["field", "in", "type", "default"] if where else ["field", "type", "default"], rows)


# --- rest.md ----------------------------------------------------------------------------------------------------------

REST_INTRO = """
Every call needs `Authorization: Bearer KEY` (`hivebus env` prints it), but `GET /api/status`, `POST /api/session`,
`/health/*` and the page. A body is `application/json`, else 415. Host must be a loopback name or one of
`HIVEBUS_ALLOWED_HOSTS`, and Origin, if there is one, this very host, else 403. Times are RFC 3339 in UTC with three
decimals. What is unknown is `null`, and `unknown` says why. A field that does not exist is 422.

Errors are problem documents (RFC 9457, `application/problem+json`): `status`, `code`, `detail`, `remedy`, and a JSON
pointer where one field is meant. [errors.md](errors.md) lists the codes.
"""
COMMANDS_INTRO = """
A command is answered when its commit is on the log. The answer holds `<noun>_id`, `position`, `status`, `created_at`
(when the command was decided) and `correlation_id`; `repeated: true` where the log held this very command already. Each
command takes:

- header `Idempotency-Key`: 1 to 200 visible ASCII characters. The same key and body is the same command, for ever; the
  same key with another body is 409 `idempotency_key_reused`.
- header `X-Correlation-Id`: up to 64 letters, digits and `._:-`; what belongs together is found by it.
- `?wait=recorded`, or header `Prefer: wait=SECONDS` (at most 25): answer when the views show it; 504 `not_yet` with the
  position if they do not in time.

A command that creates takes batches too: a JSON array, or `application/x-ndjson` with an object a line, at most 1,000
items and 1 MiB. The answer has `items`, each with its `index` and either its own answer or an `error`.
"""
QUERIES_INTRO = """
Each query takes `at` (a position, or an RFC 3339 time in the past: the answer as it was then) and `min_position` (not
before the views have reached it; 504 `not_yet` after 2 s), and each answer holds the `position` it speaks of.
"""
COMMON = "401, 403"
BY_HAND: tuple[tuple[str, str, type[Struct] | None, str], ...] = (
    (
        "POST",
        "/api/agents/{agent_id}/tasks",
        AgentTask,
        "202. An older form of `POST /api/tasks`; `timeout` is in seconds.",
    ),
    (
        "GET",
        "/api/events",
        ReadEvents,
        "200. The events after a position as JSON lines of CloudEvents (see [events.md](events.md)). A commit is never "
        "split, so a page may hold a few more than `limit`. Header `Hivebus-Next` is the position to go on from, "
        "`Hivebus-Position` the newest one. `wait` is how many seconds to wait for a first match. With `Accept: "
        "text/event-stream` they come as server-sent events, without an end, and `Last-Event-ID` wins over `after`; "
        "there `verb` and `agent` filter too, `limit` and `wait` do not exist: docs/how-to/follow-events.md.",
    ),
    (
        "GET",
        "/ws",
        None,
        "101, on the page's port: JSON-RPC 2.0 and events over a WebSocket ([websocket.md](websocket.md)). `?ticket=` "
        "stands for the key. 426 without an upgrade, 503 `too_many_connections` beyond HIVEBUS_SOCKETS_MAX.",
    ),
    (
        "POST",
        "/api/ticket",
        None,
        "201. `{ticket, expires_in_s: 60}` for a WebSocket of a page: it opens one, once. The body is `{}`.",
    ),
    (
        "PUT",
        "/api/blobs/{sha256}",
        None,
        "201. Store bytes (`application/octet-stream`, at most 64 MiB) under their hash.",
    ),
    ("GET", "/api/blobs/{sha256}", None, "200, or 404 `unknown_blob`. The bytes."),
    ("GET", "/api/status", None, "200, without a key. How the program is, and how far store and views have come."),
    ("GET", "/api/info", None, "200. What this installation can do."),
    (
        "POST",
        "/api/",
        None,
        "200 with the answer of JSON-RPC 2.0, 204 where there is none: docs/how-to/speak-json-rpc.md.",
    ),
    ("POST", "/api/session", None, "201. `{ticket}` or `{key}`: swap either for the page's cookie, good for 30 days."),
    ("GET", "/health/live", None, "200, without a key, on every listener. The process answers."),
    ("GET", "/health/ready", None, "200, or 503 `not_ready`; without a key, on every listener. It takes work."),
    ("GET", "/metrics", None, "200. Prometheus text. On the metrics listener without a key, on the others with one."),
)


def rest() -> str:
    program = registry(QUERIES)
    commands = [spec for spec in program.client_commands() if spec.route is not None]
    parts = [REST_INTRO, "## Commands", COMMANDS_INTRO, *(_command(spec) for spec in commands)]
    parts += ["## Queries", QUERIES_INTRO, *(_query(spec) for spec in program.queries.values())]
    parts.append("## Other calls")
    for method, path, struct, said in BY_HAND:
        where = (lambda name: "query") if struct is ReadEvents else (lambda name: "body")
        parts += [f"### {method} {path}", said, fields_of(struct, where=where) if struct else ""]
    parts += ["## Objects", "### Retry", doc_of(Retry), fields_of(Retry)]
    for struct in (CommandParameters, PythonParameters, Reference):
        parts += [f"### {struct.__name__}", doc_of(struct), fields_of(struct)]
    return page("REST", *parts)


def _command(spec: CommandSpec) -> str:
    route = spec.route
    assert route is not None
    rest_in = "query" if route.method == "DELETE" else "body"
    refused = NOT_AVAILABLE if spec.name == "task.submit" else ()
    statuses = [
        str(route.status),
        "400",
        COMMON,
        "" if spec.creates else "404",
        "409",
        "" if rest_in == "query" else "413, 415",
    ]
    parts = [
        f"### {route.method} {route.path}",
        f"`{spec.name}`. {spec.doc}",
        fields_of(spec.struct, where=_where(route.path, rest_in), leave_out=refused),
        f"Declared and not built yet, so refused with 422 `not_available`: {', '.join(map(code, refused))}."
        if refused
        else "",
        f"Statuses: {', '.join(filter(None, statuses))}, 422, 429, 503, 504, 507.",
    ]
    return "\n\n".join(filter(None, parts))


def _query(spec: QuerySpec) -> str:
    missing = ", 404" if "{" in spec.route.path else ""
    fields = fields_of(spec.struct, where=_where(spec.route.path, "query"))
    statuses = f"Statuses: {spec.route.status}, {COMMON}{missing}, 422, 503, 504."
    return "\n\n".join([f"### GET {spec.route.path}", f"`{spec.name}`. {spec.doc}", fields, statuses])


def _where(path: str, otherwise: str) -> Callable[[str], str]:
    return lambda name: "path" if f"{{{name}}}" in path else otherwise


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
        refused = NOT_AVAILABLE if spec.name == "task.submit" else ()
        parts += [f"### {COMMANDS}.{spec.name}", spec.doc, fields_of(spec.struct, leave_out=refused)]
        if refused:
            parts.append(
                f"Declared and not built yet, so refused with `not_available`: {', '.join(map(code, refused))}."
            )
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
    kinds = [[code(name), str(kind.status), str(kind.jsonrpc), code(kind.default_code)] for name, kind in known.items()]
    found: dict[tuple[str, str], set[str]] = {}
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
        "## Exit codes of the command line",
        table(["exit", "meaning"], [[str(int(exit_)), EXIT_MEANINGS[exit_]] for exit_ in Exit]),
    )


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

PAGES: dict[str, Callable[[], str]] = {
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
