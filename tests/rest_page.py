"""docs/reference/rest.md, from the same operations as /openapi.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct
from msgspec import inspect as types

from core.execution import CommandParameters, PythonParameters, Reference
from core.kernel.registry import doc_of
from core.task import Retry
from entrypoints.http.rest import JSON
from entrypoints.schemas.declared import declared
from entrypoints.schemas.faults import by_status
from entrypoints.schemas.operations import OTHERS, AnyOf, Batch, Operation, operations
from tests.words import code, fields_of, page, table, type_text

INTRO = """
The same as a document for tools: [openapi.json](openapi.json), which a running program serves at port 8080 beside a
page that shows it, `/docs/rest`.

Every call needs `Authorization: Bearer KEY` (`hivebus env` prints it), but `GET /api/status`, `POST /api/session`,
`/health/*` and the page. A body is `application/json`, else 415. Host must be a loopback name or one of
`HIVEBUS_ALLOWED_HOSTS`, and Origin, if there is one, this very host, else 403. Times are RFC 3339 in UTC with three
decimals. What is unknown is `null`, and `unknown` says why. A field that does not exist is 422.

Errors are problem documents (RFC 9457, `application/problem+json`): `status`, `code`, `detail`, `remedy`, and a JSON
pointer where one field is meant. [errors.md](errors.md) lists the codes, [openapi.json](openapi.json) those of each
call. [websocket.md](websocket.md) tells of `GET /ws`.
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


def rest() -> str:
    calls = declared()
    found = operations(calls)
    others = {operation.id for operation in OTHERS}
    derived = [operation for operation in found if operation.id not in others]
    commands = [operation for operation in derived if not calls.actions[operation.id].read_only]
    queries = [operation for operation in derived if calls.actions[operation.id].read_only]
    rest = [operation for operation in found if operation.id in others]
    parts = [INTRO, "## Commands", COMMANDS_INTRO, *map(_operation, commands)]
    parts += ["## Queries", QUERIES_INTRO, *map(_operation, queries)]
    parts += ["## Other calls", *map(_operation, rest), "## Objects"]
    for struct in (Retry, CommandParameters, PythonParameters, Reference):
        parts += [f"### {struct.__name__}", doc_of(struct), fields_of(struct)]
    parts.append("## Answers")
    for shape in _answers(found):
        parts += [f"### {shape.__name__}", doc_of(shape), _fields_of_answer(shape)]
    return page("REST", *parts)


def _operation(operation: Operation) -> str:
    body = operation.body.get(JSON)
    body = body.item if isinstance(body, Batch) else body
    tables = []
    if operation.query is not None:
        tables.append(fields_of(operation.query, where=_where(operation.path, "query")))
    if isinstance(body, type) and issubclass(body, Struct):
        tables.append(fields_of(body, where=_where(operation.path, "body")))
    statuses = [str(operation.status), *(["204"] if operation.silent else []), *map(str, by_status(operation.faults))]
    return "\n\n".join(
        [
            f"### {operation.method} {operation.path}",
            f"`{operation.id}`. {operation.doc}",
            *tables,
            f"{_answer(operation)}Statuses: {', '.join(statuses)}.",
        ]
    )


def _answer(operation: Operation) -> str:
    said = []
    for media, shape in operation.answer.items():
        kinds = [_linked(kind) for kind in _shapes(shape)]
        said.append(" or ".join(kinds) if kinds else code(media))
    return f"Answer: {', '.join(said)}. " if said else ""


def _linked(shape: Any) -> str:
    return f"[{shape.__name__}](#{shape.__name__.lower()})"


def _shapes(shape: Any) -> Iterator[Any]:
    match shape:
        case dict():
            return
        case AnyOf(shapes):
            yield from shapes
        case Batch(item):
            yield item
        case _:
            yield shape


def _answers(found: list[Operation]) -> list[Any]:
    """Every shape that an answer has, and those within them, by name."""
    known: dict[str, Any] = {}

    def add(kind: Any) -> None:
        match kind:
            case types.TypedDictType() | types.StructType():
                if kind.cls.__name__ not in known and kind.cls is not Retry:
                    known[kind.cls.__name__] = kind.cls
                    for field in kind.fields:
                        add(field.type)
            case types.ListType():
                add(kind.item_type)
            case types.DictType():
                add(kind.value_type)
            case types.UnionType():
                for inner in kind.types:
                    add(inner)
            case types.Metadata():
                add(kind.type)
            case _:
                pass

    for operation in found:
        for answer in operation.answer.values():
            for shape in _shapes(answer):
                add(types.type_info(shape))
    return [known[name] for name in sorted(known)]


def _fields_of_answer(shape: Any) -> str:
    kind = types.type_info(shape)
    assert isinstance(kind, types.TypedDictType | types.StructType)
    always = isinstance(kind, types.StructType)  # a Struct that is said is said whole
    rows = [
        [code(field.encode_name), type_text(field.type), "" if always or field.required else "where it applies"]
        for field in kind.fields
    ]
    return table(["field", "type", ""], rows)


def _where(path: str, otherwise: str) -> Callable[[str], str]:
    return lambda name: "path" if f"{{{name}}}" in path else otherwise
