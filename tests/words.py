"""What reference pages are written with: pages, tables, types in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct, structs
from msgspec import inspect as types

from entrypoints.schemas.shapes import END

NOTICE = "<!-- Written by `make docs` from the program. Change the program, not this page. -->"


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
        case types.StructType() | types.TypedDictType():
            return f"object {kind.cls.__name__}"
        case types.EnumType():
            return ", ".join(str(value.value) for value in kind.cls)
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
        said.append(f"matching `{pattern.removesuffix(END) + '$' if pattern.endswith(END) else pattern}`")
    said = [word for word in said if word]
    return f" ({', '.join(said)})" if said else ""


def default_text(field: structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, Struct):
        return f"{type(value).__name__}'s own"
    return code(msgspec.json.encode(value).decode())


def fields_of(struct: type[Struct], *, where: Callable[[str], str] | None = None) -> str:
    """A table of a Struct's fields; `where` says how a field is sent."""
    kind = types.type_info(struct)
    assert isinstance(kind, types.StructType)
    rows = []
    for field, info in zip(kind.fields, structs.fields(struct), strict=True):
        row = [code(field.encode_name), type_text(field.type), default_text(info)]
        rows.append([row[0], where(field.name), *row[1:]] if where else row)
    if not rows:
        return "It has no fields."
    return table(["field", "in", "type", "default"] if where else ["field", "type", "default"], rows)
