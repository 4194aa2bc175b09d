"""The documents as pages: plain HTML, made from the same JSON, with an anchor for whatever has a name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from entrypoints.schemas.fields import example, row, shapes, type_of
from entrypoints.schemas.markup import Markup, anchor, joined, line, prose, tag

Document = Mapping[str, Any]

NAMES = {"/docs": "Documents", "/docs/rest": "REST", "/docs/rpc": "JSON-RPC", "/docs/events": "NATS and events"}
SOURCES = {"/docs/rest": "/openapi.json", "/docs/rpc": "/openrpc.json", "/docs/events": "/asyncapi.json"}


_IN_PATH = re.compile(r"{(\w+)}")


def page(path: str, contents: Iterable[tuple[str, Iterable[str]]], *main: Markup) -> str:
    """A whole page; `contents` are groups of names that have anchors of their own."""
    title = NAMES[path]
    links = [
        tag("a", name, href=address, aria_current="page" if address == path else None)
        for address, name in NAMES.items()
    ]
    source = SOURCES.get(path)
    groups = [
        joined(
            tag("h2", group),
            tag(
                "ul",
                *(
                    tag("li", tag("a", name.removeprefix("shape ").removeprefix("command "), href=f"#{anchor(name)}"))
                    for name in names
                ),
            ),
        )
        for group, names in contents
    ]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="dark light"),
        tag("title", f"{title} - Hivebus"),
        tag("link", rel="icon", href="/docs/favicon.svg", type="image/svg+xml"),
        tag("link", rel="stylesheet", href="/docs/style.css"),
    )
    body = tag(
        "body",
        tag("a", "To the text", href="#text", class_="skip"),
        tag("header", tag("a", "Hivebus", href="/docs", class_="brand"), tag("nav", *links, aria_label="Documents")),
        tag(
            "div",
            tag("nav", *groups, class_="contents", aria_label="Contents") if groups else None,
            tag(
                "main",
                tag("h1", title),
                tag("p", "As a document: ", tag("a", source, href=source)) if source else None,
                *main,
                id="text",
            ),
            class_="sheet" if groups else "sheet plain",
        ),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en")


def index(openapi: Document, openrpc: Document, asyncapi: Document) -> str:
    """What there is."""
    paths = sum(len(methods) for methods in openapi["paths"].values())
    events = sum(operation["action"] == "send" for operation in asyncapi["operations"].values())
    entries = (
        ("/docs/rest", "OpenAPI 3.1", f"{paths} operations over HTTP: parameters, bodies, answers, errors"),
        ("/docs/rpc", "OpenRPC 1.3", f"{len(openrpc['methods'])} methods of JSON-RPC 2.0, over HTTP and WebSocket"),
        ("/docs/events", "AsyncAPI 3.0", f"commands over NATS, and {events} kinds of messages that are sent to you"),
    )
    return page(
        "/docs",
        (),
        tag(
            "p",
            f"Hivebus {openapi['info']['version']}, described by itself: these pages and documents are made from "
            "the declarations that the program runs on.",
        ),
        tag(
            "ul",
            *(
                tag(
                    "li",
                    tag("a", NAMES[address], href=address),
                    tag("p", said),
                    tag("p", kind, ": ", tag("a", SOURCES[address], href=SOURCES[address])),
                )
                for address, kind, said in entries
            ),
            class_="entries",
        ),
    )


# --- REST -------------------------------------------------------------------------------------------------------------


def rest(document: Document) -> str:
    """OpenAPI as a page."""
    groups: dict[str, list[str]] = {tag_["name"]: [] for tag_ in document["tags"]}
    sections: dict[str, list[Markup]] = {name: [] for name in groups}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            group = operation["tags"][0]
            groups[group].append(operation["operationId"])
            sections[group].append(_operation(document, method.upper(), path, operation))
    said = {tag_["name"]: tag_["description"] for tag_ in document["tags"]}
    return page(
        "/docs/rest",
        [*groups.items(), _shape_names(document)],
        prose(document["info"]["description"]),
        *(
            joined(tag("h2", name, id=anchor(f"group {name}")), tag("p", said[name]), *found)
            for name, found in sections.items()
        ),
        _shapes(document),
    )


def _operation(document: Document, method: str, path: str, operation: Document) -> Markup:
    parameters = [_resolved(document, parameter) for parameter in operation["parameters"]]
    rows = [
        row(
            parameter["name"],
            parameter["schema"],
            required=parameter.get("required", False),
            where=parameter["in"],
            said=parameter.get("description", ""),
        )
        for parameter in parameters
    ]
    body = operation.get("requestBody", {}).get("content", {})
    bodies = [joined(tag("code", media), ": ", type_of(kind.get("schema", {}))) for media, kind in body.items()]
    examples = [value["value"] for kind in body.values() for value in kind.get("examples", {}).values()]
    return tag(
        "section",
        _heading(
            operation["operationId"], tag("span", method, class_=f"method {method.lower()}"), " ", tag("code", path)
        ),
        tag("p", "No key is needed.", class_="note") if operation.get("security") == [] else None,
        prose(operation["description"]),
        tag("dl", *rows, class_="fields") if rows else None,
        joined(tag("h4", "Body"), *(tag("p", said) for said in bodies)) if bodies else None,
        _curl(method, path, examples, operation),
        tag("h4", "Answers"),
        tag(
            "dl",
            *(_answer(document, status, kind) for status, kind in operation["responses"].items()),
            class_="answers",
        ),
        id=anchor(operation["operationId"]),
    )


def _answer(document: Document, status: str, response: Document) -> Markup:
    kind = _resolved(document, response)
    content = kind.get("content", {})
    if "$ref" in response:
        said = line(kind["description"].partition(": ")[2])
    else:
        said = joined(
            *(
                joined(tag("code", media), ": ", type_of(shape.get("schema", {})), " ")
                for media, shape in content.items()
            )
        )
        if kind.get("headers"):
            said = joined(said, "with ", *(_spaced(tag("code", name) for name in kind["headers"])))
    return joined(tag("dt", tag("code", status)), tag("dd", said))


def _spaced(parts: Iterable[Markup]) -> Iterable[Markup]:
    for index, part in enumerate(parts):
        yield joined(", " if index else "", part)


def _curl(method: str, path: str, examples: list[Any], operation: Document) -> Markup | None:
    """The call as one types it, after `eval "$(hivebus env)"`."""
    if operation.get("requestBody") and not examples:
        return None
    words = ["curl -sS"]
    if operation.get("security") != []:
        words.append('-H "Authorization: Bearer $HIVEBUS_KEY"')
    if method not in ("GET", "POST"):
        words.append(f"-X {method}")
    if examples:
        text = json.dumps(examples[0], ensure_ascii=False).replace("'", "'\\''")
        words.append(f"-H 'Content-Type: application/json' -d '{text}'")
    address = _IN_PATH.sub(lambda found: f"${found[1].upper()}", path)
    words.append(f'"$HIVEBUS_URL{address}"')
    return tag("pre", tag("code", " \\\n  ".join(words)), tabindex=0)


# --- JSON-RPC ---------------------------------------------------------------------------------------------------------


def rpc(document: Document) -> str:
    """OpenRPC as a page."""
    groups: dict[str, list[Document]] = {}
    for method in document["methods"]:
        groups.setdefault(method["tags"][0]["name"], []).append(method)
    return page(
        "/docs/rpc",
        [*((name, [method["name"] for method in found]) for name, found in groups.items()), _shape_names(document)],
        prose(document["info"]["description"]),
        *(
            joined(tag("h2", name, id=anchor(f"group {name}")), *(_method(method) for method in found))
            for name, found in groups.items()
        ),
        _shapes(document),
    )


def _method(method: Document) -> Markup:
    rows = [
        row(param["name"], param["schema"], required=param.get("required", False), said=param.get("description", ""))
        for param in method["params"]
    ]
    errors = [
        joined(tag("dt", tag("code", str(error["code"]))), tag("dd", error["message"])) for error in method["errors"]
    ]
    shown = []
    for pair in method.get("examples", ()):
        params = {param["name"]: param["value"] for param in pair["params"]}
        shown.append(example({"jsonrpc": "2.0", "id": 1, "method": method["name"], "params": params}, pair["name"]))
    return tag(
        "section",
        _heading(method["name"], tag("code", method["name"])),
        prose(method["description"]),
        tag("dl", *rows, class_="fields") if rows else tag("p", "It takes no params."),
        *shown,
        tag("h4", "Answers"),
        tag("p", type_of(method["result"]["schema"])),
        tag("dl", *errors, class_="answers") if errors else None,
        id=anchor(method["name"]),
    )


# --- messages ---------------------------------------------------------------------------------------------------------


def events(document: Document) -> str:
    """AsyncAPI as a page."""
    groups: dict[str, list[str]] = {}
    for key, operation in document["operations"].items():
        groups.setdefault(f"{operation['tags'][0]['name']}s", []).append(key)
    names = {group: [_placed(document, key) for key in keys] for group, keys in groups.items()}
    return page(
        "/docs/events",
        [*names.items(), _shape_names(document)],
        prose(document["info"]["description"]),
        *(
            joined(tag("h2", group, id=anchor(f"group {group}")), *(_message(document, key) for key in keys))
            for group, keys in groups.items()
        ),
        _shapes(document),
    )


def _titled(document: Document, key: str) -> str:
    return str(document["components"]["messages"][key]["title"])


def _placed(document: Document, key: str) -> str:
    """The title, told apart where a command and an event have the same one."""
    kind = document["operations"][key]["tags"][0]["name"]
    return f"command {_titled(document, key)}" if kind == "command" else _titled(document, key)


def _message(document: Document, key: str) -> Markup:
    operation = document["operations"][key]
    message = document["components"]["messages"][key]
    channel = _resolved(document, operation["channel"])
    rows = [
        row(name, schema, required=False, where="header")
        for name, schema in message.get("headers", {}).get("properties", {}).items()
    ]
    answers = [
        joined(
            tag("dt", tag("code", _titled(document, reference["$ref"].rpartition("/")[2]))),
            tag("dd", type_of(_resolved(document, _resolved(document, reference))["payload"])),
        )
        for reference in operation.get("reply", {}).get("messages", ())
    ]
    return tag(
        "section",
        _heading(_placed(document, key), tag("code", channel["address"])),
        prose(message["summary"]),
        tag("p", tag("code", message["contentType"]), ": ", _payload(message["payload"])),
        tag("dl", *rows, class_="fields") if rows else None,
        *(example(said["payload"], said.get("summary", "For example")) for said in message.get("examples", ())),
        joined(tag("h4", "Answers"), tag("dl", *answers, class_="answers")) if answers else None,
        id=anchor(_placed(document, key)),
    )


def _payload(schema: Document) -> Markup:
    """A CloudEvent is told by its data, a notification by its params."""
    inner = schema["allOf"][-1] if "allOf" in schema else schema
    properties = inner.get("properties", {})
    for name in ("data", "params"):
        if name in properties:
            return joined(tag("code", name), " is ", type_of(properties[name]))
    return type_of(schema)


# --- what all of them have --------------------------------------------------------------------------------------------


def _heading(name: str, *children: Markup | str) -> Markup:
    return tag("h3", tag("a", *children, href=f"#{anchor(name)}"))


def _shape_names(document: Document) -> tuple[str, list[str]]:
    return ("shapes", [f"shape {name}" for name in document["components"]["schemas"]])


def _shapes(document: Document) -> Markup:
    return joined(tag("h2", "Shapes", id="shapes"), *shapes(document["components"]["schemas"]))


def _resolved(document: Document, part: Document) -> Any:
    """What a reference inside the document leads to."""
    if "$ref" not in part:
        return part
    found: Any = document
    for step in str(part["$ref"]).removeprefix("#/").split("/"):
        found = found[step]
    return found
