"""Command-line options from the fields of a command's Struct, and their values back as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click
import orjson
from msgspec import NODEFAULT, Struct, inspect, to_builtins

# A repeatable option reads better in the singular.
SINGULAR = {"parameters": "param", "labels": "label", "capabilities": "capability"}


class JsonValue(click.ParamType[Any]):
    """JSON; what is no JSON is taken as text, so that `--param path=README.md` needs no second pair of quotes."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value."""
        if not isinstance(value, str):
            return value
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value


class Pair(click.ParamType[tuple[str, Any]]):
    """KEY=VALUE, where the value is JSON or text (`as_text`: text only)."""

    name = "key=json"

    def __init__(self, *, as_text: bool) -> None:
        self.as_text = as_text
        if as_text:
            self.name = "key=text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """The key and the value."""
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not KEY=VALUE.", param, ctx)
        return key, text if self.as_text else JsonValue().convert(text, param, ctx)


def options_of(
    struct: type[Struct], *, target: str | None = None, leave_out: frozenset[str] = frozenset(), optional: bool = False
) -> list[click.Parameter]:
    """One parameter per field: the target as an argument, all others as options.

    `optional` makes nothing required, for a command that can get the same from a file.
    """
    parameters: list[click.Parameter] = []
    for field in _fields(struct):
        if field.name == target:
            parameters.append(click.Argument([field.name], metavar=field.name.upper()))
        elif field.encode_name not in leave_out:
            parameters.append(_option(field, required=field.required and not optional))
    return parameters


def values_of(struct: type[Struct], given: Mapping[str, Any]) -> dict[str, Any]:
    """What the user gave, as the JSON object of the command; what was not given is left to the server's defaults."""
    values: dict[str, Any] = {}
    for field in _fields(struct):
        value = given.get(field.name)
        if value is None or value == ():
            continue
        if _is_object(_bare(field.type)):
            value = dict(value)
        elif isinstance(value, tuple):
            value = list(value)
        values[field.encode_name] = value
    return values


def _fields(struct: type[Struct]) -> tuple[inspect.Field, ...]:
    kind = inspect.type_info(struct)
    assert isinstance(kind, inspect.StructType), "commands are Structs"
    return kind.fields


def _option(field: inspect.Field, *, required: bool) -> click.Option:
    kind = _bare(field.type)
    repeats = _is_object(kind) or isinstance(kind, inspect.ListType)
    names = [f"--{field.name.replace('_', '-')}"]
    if field.name in SINGULAR:
        names.append(f"--{SINGULAR[field.name]}")
    names.append(field.name)
    if isinstance(kind, inspect.BoolType):
        names[0] = f"{names[0]}/--no-{names[0][2:]}"
        return click.Option(names, default=None, required=required, help=_help(field, kind))
    return click.Option(names, type=_param_type(kind), multiple=repeats, required=required, help=_help(field, kind))


def _param_type(kind: inspect.Type) -> click.ParamType[Any] | type:
    match kind:
        case inspect.IntType():
            return click.IntRange(min=kind.ge, max=kind.le)
        case inspect.FloatType():
            return float
        case inspect.StrType():
            return str
        case inspect.LiteralType() if all(isinstance(value, str) for value in kind.values):
            return click.Choice([str(value) for value in kind.values])
        case inspect.ListType():
            return _param_type(_bare(kind.item_type))
        case inspect.DictType():
            return Pair(as_text=isinstance(_bare(kind.value_type), inspect.StrType))
        case inspect.StructType():
            return Pair(as_text=False)
        case _:
            return JsonValue()


def _help(field: inspect.Field, kind: inspect.Type) -> str:
    said = list(_described(field.type))
    if isinstance(kind, inspect.StructType):
        said.append(f"Fields: {', '.join(inner.encode_name for inner in kind.fields)}.")
    if isinstance(field.type, inspect.UnionType):
        said += _choices(field.type)
    if _is_object(kind) or isinstance(kind, inspect.ListType):
        said.append("Repeatable.")
    if field.default not in (NODEFAULT, None) and not isinstance(kind, inspect.StructType):
        said.append(f"[default: {to_builtins(field.default)}]")
    return "  ".join(said)


def _described(kind: inspect.Type) -> Iterator[str]:
    """The description that a field's Meta carries."""
    while isinstance(kind, inspect.Metadata):
        description = (kind.extra_json_schema or {}).get("description")
        if description:
            yield str(description)
        kind = kind.type


def _choices(union: inspect.UnionType) -> Iterator[str]:
    """A union of words and numbers, in words."""
    parts = []
    for kind in union.types:
        if isinstance(kind, inspect.LiteralType):
            parts.append(", ".join(map(str, kind.values)))
        elif isinstance(kind, inspect.IntType) and kind.ge is not None and kind.le is not None:
            parts.append(f"{kind.ge} to {kind.le}")
    if parts:
        yield f"{' or '.join(parts)}."


def _bare(kind: inspect.Type) -> inspect.Type:
    """The type without its metadata and without None."""
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        others = [inner for inner in kind.types if not isinstance(inner, inspect.NoneType)]
        if len(others) == 1:
            return _bare(others[0])
    return kind


def _is_object(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.DictType | inspect.StructType)
