"""The REST listener as an OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.1)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from core.kernel.times import RFC3339_PATTERN
from core.services.dispatch import POSITION_DIGITS_MAX
from entrypoints.calls import Calls
from entrypoints.decode import CORRELATION_PATTERN, KEY_PATTERN
from entrypoints.http.door import COOKIE
from entrypoints.http.problems import PROBLEM, Problem
from entrypoints.schemas.examples import EXAMPLES, TIME
from entrypoints.schemas.faults import by_status
from entrypoints.schemas.operations import AnyOf, Batch, Operation, operations
from entrypoints.schemas.shapes import Schema, Shapes, text_of, whole

OPENAPI = "3.1.1"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
DESCRIPTION = """A command is answered when its commit is on the log; what anybody sees is read from views, which
follow. Every call needs the key but those marked so. A Host that is not known and an Origin of another site are 403. A
body is `application/json`, else 415; a field that does not exist is 422.

Times are RFC 3339 in UTC with three decimals. An integer is written without a fraction. What is unknown is null, and
`unknown` says why.

Errors are problem documents (RFC 9457) with a stable `code`. Beside what an operation lists, a path that does not
exist is 404 `unknown_path`, a method that a path does not have is 405 `method_not_allowed`, and a defect of the program
is 500 `internal`. HEAD answers wherever GET does."""
TAGS = {
    "agent": "Workers that run tasks",
    "blob": "Large values, named by their hash",
    "event": "What happened, in order",
    "health": "For load balancers and Prometheus; they need no registry",
    "log": "The care of the log, for the operator",
    "queue": "What waits",
    "rpc": "Every action as a method",
    "session": "A browser's cookie",
    "system": "The program itself",
    "task": "Pieces of work",
}

PARAMETERS: dict[str, dict[str, Any]] = {
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Makes the command repeatable: the same key and body give the same answer, for ever; the same "
        "key with another body is 409 `idempotency_key_reused`.",
        "schema": {"type": "string", "pattern": whole(KEY_PATTERN)},
        "example": "0d2f6c5e-checksum-readme",
    },
    "CorrelationId": {
        "name": "X-Correlation-Id",
        "in": "header",
        "description": "What belongs together is found by it. Without one the command makes its own.",
        "schema": {"type": "string", "pattern": whole(CORRELATION_PATTERN)},
        "example": "release-42",
    },
    "Prefer": {
        "name": "Prefer",
        "in": "header",
        "description": "`wait=SECONDS` (RFC 7240), at most 25: answer when the views show the command.",
        "schema": {"type": "string"},
        "example": "wait=5",
    },
    "Wait": {
        "name": "wait",
        "in": "query",
        "description": "`recorded`: answer when the views show the command; after 25 s 504 `not_yet`.",
        "schema": {"const": "recorded", "type": "string"},
    },
    "LastEventId": {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "Of server-sent events alone: the id of the last one that was had (`POSITION` or "
        "`POSITION/INDEX`, else 422). A browser sends it by itself when it connects again.",
        "schema": {"type": "string"},
    },
    "At": {
        "name": "at",
        "in": "query",
        "description": "A position, or an RFC 3339 time in the past: the answer as it was then.",
        "schema": {"type": "string", "pattern": whole(f"[0-9]{{1,{POSITION_DIGITS_MAX}}}|{RFC3339_PATTERN}")},
        "examples": {"position": {"value": "1"}, "time": {"value": TIME}},
    },
    "MinPosition": {
        "name": "min_position",
        "in": "query",
        "description": "Not before the views have reached this position; after 2 s 504 `not_yet`.",
        "schema": {"type": "integer", "minimum": 0, "maximum": 10**18 - 1, "default": 0},
    },
}
HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    429: {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}},
    503: {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}},
}


def openapi(calls: Calls, *, version: str) -> dict[str, Any]:
    """The document."""
    return _Writer(version).document(operations(calls))


class _Writer:
    def __init__(self, version: str) -> None:
        self._version = version
        self._shapes = Shapes()
        self._responses: dict[str, dict[str, Any]] = {}

    def document(self, found: list[Operation]) -> dict[str, Any]:
        paths: dict[str, dict[str, Any]] = {}
        for operation in found:
            paths.setdefault(operation.path, {})[operation.method.lower()] = self._operation(operation)
        tags = sorted({operation.tag for operation in found})
        return {
            "openapi": OPENAPI,
            "jsonSchemaDialect": DIALECT,
            "info": {
                "title": "Hivebus REST",
                "version": self._version,
                "description": text_of(DESCRIPTION),
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [
                {"url": "http://127.0.0.1:3001", "description": "The REST listener"},
                {"url": "http://127.0.0.1:3000", "description": "The same beside the page"},
            ],
            "security": [{"key": []}, {"session": []}],
            "tags": [{"name": tag, "description": TAGS.get(tag, f"The actions of {tag}")} for tag in tags],
            "paths": paths,
            "components": {
                "schemas": dict(sorted(self._shapes.components.items())),
                "responses": dict(sorted(self._responses.items())),
                "parameters": PARAMETERS,
                "securitySchemes": {
                    "key": {"type": "http", "scheme": "bearer", "description": "`hivebus env` prints it."},
                    "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "The page's cookie."},
                },
            },
        }

    def _operation(self, operation: Operation) -> dict[str, Any]:
        written: dict[str, Any] = {
            "operationId": operation.id,
            "tags": [operation.tag],
            "summary": text_of(operation.doc.partition("\n")[0]).rstrip("."),
            "description": text_of(operation.doc),
            "parameters": self._parameters(operation),
        }
        if operation.body:
            content = self._content(operation.body)
            example = EXAMPLES.get(operation.example or "")
            if example is not None:
                in_path = operation.path_fields
                value = {name: said for name, said in example.arguments.items() if name not in in_path}
                next(iter(content.values()))["examples"] = {"one": {"summary": example.name, "value": value}}
            written["requestBody"] = {"required": True, "content": content}
        written["responses"] = {str(operation.status): self._success(operation)} | self._failures(operation)
        if operation.silent is not None:
            written["responses"]["204"] = {"description": operation.silent}
        if operation.public:
            written["security"] = []
        return written

    def _parameters(self, operation: Operation) -> list[dict[str, Any]]:
        fields, required = self._shapes.fields(operation.query) if operation.query else ({}, frozenset[str]())
        for struct in operation.more:
            fields = self._shapes.fields(struct)[0] | fields
        in_path = operation.path_fields
        parameters = [
            {"name": name, "in": "path", "required": True, "schema": _in_text(fields.get(name, _segment(name)))}
            for name in in_path
        ]
        parameters += [
            {"name": name, "in": "query", "required": name in required, "schema": _in_text(schema)}
            for name, schema in fields.items()
            if name not in in_path
        ]
        return parameters + [{"$ref": f"#/components/parameters/{name}"} for name in operation.parameters]

    def _success(self, operation: Operation) -> dict[str, Any]:
        content = self._content(operation.answer)
        example = EXAMPLES.get(operation.example or "")
        if example is not None:
            next(iter(content.values()))["examples"] = {"one": {"summary": example.name, "value": example.answer}}
        response: dict[str, Any] = {"description": HTTPStatus(operation.status).phrase, "content": content}
        if operation.headers:
            response["headers"] = {
                name: {"description": said, "schema": {"type": "string"}} for name, said in operation.headers.items()
            }
        return response

    def _content(self, shapes: Mapping[str, Any]) -> dict[str, Any]:
        return {media: ({"schema": self._schema(shape)} if shape != {} else {}) for media, shape in shapes.items()}

    def _schema(self, shape: Any) -> Schema:
        match shape:
            case dict():
                return shape
            case AnyOf(shapes):
                return {"anyOf": [self._schema(one) for one in shapes]}
            case Batch(item, most):
                one = self._shapes.of(item)
                return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": most}]}
            case _:
                return self._shapes.of(shape)

    def _failures(self, operation: Operation) -> dict[str, Any]:
        """A response a status, shared by all operations that can get the same codes with it."""
        found: dict[str, Any] = {}
        for status, codes in by_status(operation.faults).items():
            response = self._problem(status, codes)
            plain = "".join(word.capitalize() for word in HTTPStatus(status).phrase.replace("-", " ").split())
            own = plain + "Of" + "".join(word.capitalize() for word in operation.id.split("."))
            same = (name for name, kept in self._responses.items() if kept == response)
            name = next(same, own if plain in self._responses else plain)
            self._responses[name] = response
            found[str(status)] = {"$ref": f"#/components/responses/{name}"}
        return found

    def _problem(self, status: int, codes: list[str]) -> dict[str, Any]:
        listed = ", ".join(f"`{code}`" for code in codes)
        schema = {
            "allOf": [
                self._shapes.of(Problem),
                {"properties": {"status": {"const": status}, "code": {"enum": codes}}},
            ]
        }
        response: dict[str, Any] = {
            "description": f"{HTTPStatus(status).phrase}: {listed}",
            "content": {PROBLEM: {"schema": schema}},
        }
        if status in HEADERS:
            response["headers"] = HEADERS[status]
        return response


def _in_text(schema: Schema) -> Schema:
    """A field in a path or a query string: there is no null in a text, what is left out is left out."""
    if any(part == {"type": "null"} for part in schema.get("anyOf", ())):
        left = [part for part in schema["anyOf"] if part != {"type": "null"}]
        rest = {name: value for name, value in schema.items() if name != "anyOf"}
        schema = rest | (left[0] if len(left) == 1 else {"anyOf": left})
    kind = schema.get("type")
    if isinstance(kind, list):
        schema = schema | {"type": next(name for name in kind if name != "null")}
    if schema.get("default", 0) is None:
        schema = {name: value for name, value in schema.items() if name != "default"}
    return schema


def _segment(name: str) -> Schema:
    if name == "sha256":
        return {"type": "string", "pattern": whole("[0-9a-f]{64}")}
    return {"type": "string", "minLength": 1}
