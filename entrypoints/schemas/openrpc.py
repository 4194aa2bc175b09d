"""The JSON-RPC methods as an OpenRPC 1.3 document (https://spec.open-rpc.org), for rpc.discover and /openrpc.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from core.kernel.errors import HivebusError
from entrypoints.calls import Action, Calls
from entrypoints.schemas.examples import EXAMPLES
from entrypoints.schemas.faults import faults_of
from entrypoints.schemas.shapes import Shapes, text_of

OPENRPC = "1.3.2"
# The connection answers these before or beside the actions (https://www.jsonrpc.org/specification).
STANDARD = {-32700: "The frame is not JSON", -32600: "Invalid request", -32601: "No such method"}
DESCRIPTION = """Every action of Hivebus as a JSON-RPC 2.0 method: over POST /api/ (ports 3001 and 3000), and over the
WebSocket at /ws (port 3000), where `initialize` comes first. Params are given by name; the options of a call
(`idempotency_key`, `correlation_id`, `wait`; of a query `at` and `min_position`) stand beside its fields.

An error's `data` holds the stable `code`, the JSON pointer `field`, the sentence `reason`, the `remedy`, the HTTP
`status`, and `retry_after_s` where another try is worth it."""


class MethodShape(Struct, frozen=True):
    """A method that is no action: of the protocol itself, or an older name. `params` None: it takes none."""

    name: str
    doc: str
    params: type[Struct] | None
    answer: Any
    faults: Mapping[str, type[HivebusError]] = {}
    tags: tuple[str, ...] = ("connection",)


def openrpc(calls: Calls, *, version: str, methods: Iterable[MethodShape] = ()) -> dict[str, Any]:
    """The document; `methods` are those of the protocol, beside the actions."""
    shapes = Shapes()
    described = [_action(action, shapes) for action in calls.actions.values()]
    described += [_method(method, shapes) for method in methods]
    return {
        "openrpc": OPENRPC,
        "info": {
            "title": "Hivebus JSON-RPC",
            "version": version,
            "description": text_of(DESCRIPTION),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "servers": [
            {"name": "http", "url": "http://127.0.0.1:3001/api/", "summary": "POST, with the key"},
            {"name": "websocket", "url": "ws://127.0.0.1:3000/ws", "summary": "With notifications"},
        ],
        "methods": sorted(described, key=lambda method: str(method["name"])),
        "components": {"schemas": dict(sorted(shapes.components.items()))},
    }


def _action(action: Action, shapes: Shapes) -> dict[str, Any]:
    fields, required = shapes.fields(action.struct)
    options, _ = shapes.fields(action.options)
    method: dict[str, Any] = {
        "name": action.name,
        "summary": text_of(action.summary),
        "description": text_of(action.doc),
        "tags": [{"name": action.name.partition(".")[0]}, {"name": "query" if action.read_only else "command"}],
        "paramStructure": "by-name",
        "params": [
            *_params(fields, required),
            *({**param, "description": "How the call is carried out."} for param in _params(options, frozenset())),
        ],
        "result": {"name": "answer", "schema": shapes.of(action.answer)},
        "errors": _errors(faults_of(action)),
    }
    example = EXAMPLES.get(action.name)
    if example is not None:
        method["examples"] = [
            {
                "name": example.name,
                "params": [{"name": name, "value": value} for name, value in example.arguments.items()],
                "result": {"name": "answer", "value": example.answer},
            }
        ]
    return method


def _method(method: MethodShape, shapes: Shapes) -> dict[str, Any]:
    fields, required = shapes.fields(method.params) if method.params is not None else ({}, frozenset[str]())
    return {
        "name": method.name,
        "summary": text_of(method.doc.partition("\n")[0]),
        "description": text_of(method.doc),
        "tags": [{"name": tag} for tag in method.tags],
        "paramStructure": "by-name",
        "params": _params(fields, required),
        "result": {"name": "answer", "schema": shapes.of(method.answer)},
        "errors": _errors(method.faults),
    }


def _params(fields: Mapping[str, dict[str, Any]], required: frozenset[str]) -> list[dict[str, Any]]:
    """Those that must be there first, as the specification wants it."""
    ordered = sorted(fields, key=lambda name: name not in required)
    return [{"name": name, "required": name in required, "schema": fields[name]} for name in ordered]


def _errors(faults: Mapping[str, type[HivebusError]]) -> list[dict[str, Any]]:
    """One entry a number, as JSON-RPC has them; `data` says which codes it stands for."""
    found: dict[int, list[str]] = {}
    for code, kind in sorted(faults.items()):
        found.setdefault(kind.jsonrpc, []).append(code)
    return [
        {"code": number, "message": ", ".join(codes), "data": {"code": codes}}
        for number, codes in sorted(found.items(), reverse=True)
    ]
