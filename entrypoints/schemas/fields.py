"""JSON Schemas as people read them: a type in words, fields as a list, named shapes as links."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from entrypoints.schemas.markup import Markup, anchor, joined, line, tag
from entrypoints.schemas.shapes import END

_BOUNDS = (
    ("minimum", "from {}"),
    ("exclusiveMinimum", "over {}"),
    ("maximum", "to {}"),
    ("exclusiveMaximum", "under {}"),
)
_SIZES = {"string": ("Length", "characters"), "array": ("Items", "items"), "object": ("Properties", "fields")}


def shape_anchor(name: str) -> str:
    """Where a page describes a named shape."""
    return f"shape-{anchor(name)}"


def type_of(schema: Mapping[str, Any]) -> Markup:
    """A schema in a line: its type, its bounds, links to named shapes."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return tag("a", name, href=f"#{shape_anchor(name)}")
    if "const" in schema:
        return tag("code", json.dumps(schema["const"]))
    if "enum" in schema:
        return _listed([tag("code", json.dumps(value)) for value in schema["enum"]], ", ")
    for word, between in (("anyOf", " or "), ("oneOf", " or "), ("allOf", " with ")):
        if word in schema:
            parts = [type_of(part) for part in schema[word]]
            return _listed([part for part in parts if part], between)
    kinds = schema.get("type", "any")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return _listed([_one(kind, schema) for kind in kinds], " or ")


def _one(kind: str, schema: Mapping[str, Any]) -> Markup:
    if kind == "array":
        return joined("list of ", type_of(schema.get("items", {})), _bounds(kind, schema))
    values = schema.get("additionalProperties")
    if kind == "object" and isinstance(values, Mapping):
        return joined("object of ", type_of(values), _bounds(kind, schema))
    if kind == "object" and not schema.get("properties"):
        return joined("object", _bounds(kind, schema))
    if kind == "object":
        return joined("object {", ", ".join(schema["properties"]), "}")
    return joined({"any": "any JSON"}.get(kind, kind), _bounds(kind, schema) if kind != "null" else None)


def _bounds(kind: str, schema: Mapping[str, Any]) -> Markup:
    said = []
    if kind in ("integer", "number"):
        said = [words.format(f"{schema[name]:,}") for name, words in _BOUNDS if name in schema]
    size, unit = _SIZES.get(kind, ("", ""))
    low, high = schema.get(f"min{size}"), schema.get(f"max{size}")
    if high is not None:
        said.append(f"{low} to {high:,} {unit}" if low else f"at most {high:,} {unit}")
    elif low is not None:
        said.append(f"at least {low} {unit}")
    parts: list[str] = [" ".join(said)] if said else []
    pattern = schema.get("pattern") if kind == "string" else None
    if pattern is not None:
        shown = pattern.removesuffix(END) + "$" if pattern.endswith(END) else pattern
        parts.append(joined("matching ", tag("code", shown)))
    return joined(" (", _listed(parts, ", "), ")") if parts else Markup("")


def _listed(parts: list[Any], between: str) -> Markup:
    return joined(*(piece for index, part in enumerate(parts) for piece in ((between if index else ""), part)))


def row(name: str, schema: Mapping[str, Any], *, required: bool, where: str | None = None, said: str = "") -> Markup:
    """One field: its name, type and default, and what it means."""
    default = schema.get("default")
    notes = [tag("span", f"in {where}", class_="where") if where else None]
    notes.append(tag("span", "required", class_="required") if required else None)
    if not required and default not in (None, "", [], {}):
        notes.append(tag("span", "default ", tag("code", json.dumps(default)), class_="default"))
    text = said or str(schema.get("description", ""))
    return joined(
        tag("dt", tag("code", name), " ", tag("span", type_of(schema), class_="type"), *notes),
        tag("dd", line(text)) if text else None,
    )


def fields(schema: Mapping[str, Any]) -> Markup:
    """The fields of an object, the required ones first."""
    required = set(schema.get("required", ()))
    rows = [
        row(name, field, required=name in required)
        for name, field in sorted(schema.get("properties", {}).items(), key=lambda item: item[0] not in required)
    ]
    return tag("dl", *rows, class_="fields") if rows else tag("p", type_of(schema))


def shapes(components: Mapping[str, Mapping[str, Any]]) -> Iterator[Markup]:
    """A section a named shape."""
    for name, schema in components.items():
        text = str(schema.get("description", ""))
        yield tag(
            "section",
            tag("h3", tag("a", name, href=f"#{shape_anchor(name)}")),
            tag("p", line(text)) if text else None,
            fields(schema),
            id=shape_anchor(name),
        )


def example(value: Any, title: str) -> Markup:
    """JSON as it is sent."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return tag("figure", tag("figcaption", title), tag("pre", tag("code", text), tabindex=0))
