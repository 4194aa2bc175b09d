"""JSON Schemas of Structs and TypedDicts, each named once in a document and referred to from there."""

from __future__ import annotations

from typing import Any

import msgspec

from core.kernel.cloud_events import CloudEvent
from core.services.log_care import CareState
from core.services.trim import TrimState

END = r"$(?!\n)"
REF = "#/components/schemas/{name}"
# What the program says, it says whole: their defaults are no licence to leave a field out.
WHOLE = frozenset(shape.__name__ for shape in (CloudEvent, CareState, TrimState))

Schema = dict[str, Any]


class Shapes:
    """The schemas of one document. They are JSON Schema 2020-12, as msgspec writes it."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}
        self._made: dict[Any, Schema] = {}

    def of(self, shape: Any) -> Schema:
        """The schema of a type; a named one is a reference to its component."""
        known = self._made.get(shape)
        if known is None:
            (schema,), named = msgspec.json.schema_components((shape,), ref_template=REF)
            for name, component in named.items():
                self._add(name, component)
            known = self._made[shape] = plain(schema)
        return known

    def fields(self, struct: type[msgspec.Struct]) -> tuple[dict[str, Schema], frozenset[str]]:
        """The schemas of a Struct's fields by name, and which are required; the Struct itself gets no component."""
        (schema,), named = msgspec.json.schema_components((struct,), ref_template=REF)
        name = schema["$ref"].rpartition("/")[2]
        own = _possible(name, plain(named.pop(name)))
        for other, component in named.items():
            self._add(other, component)
        return own["properties"], frozenset(own.get("required", ()))

    def _add(self, name: str, component: Schema) -> None:
        schema = _possible(name, plain(component))
        assert self.components.setdefault(name, schema) == schema, f"two shapes of this document are called {name}"


def _possible(name: str, schema: Schema) -> Schema:
    """A schema in which all that is always said is required."""
    return schema | {"required": list(schema["properties"])} if name in WHOLE else schema


def plain(schema: Any) -> Any:
    """The same schema as people would write it: running text, and null as one more type."""
    if isinstance(schema, list):
        return [plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _text(value) if key == "description" else plain(value) for key, value in schema.items()}
    match made:
        case {"anyOf": [{"type": str(kind)} as first, {"type": "null"}]} if "enum" not in first:
            return {**first, **{key: made[key] for key in made if key != "anyOf"}, "type": [kind, "null"]}
        case _:
            return made


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        return plain(value)  # a field of that name, not the keyword
    return text_of(value)


def whole(pattern: str) -> str:
    """A pattern for a text from its beginning to its end, in Python and in ECMAScript: `$` alone lets Python's
    expressions end before a last newline.
    """
    return f"^(?:{pattern}){END}" if "|" in pattern else f"^{pattern}{END}"


def text_of(doc: str) -> str:
    """A docstring as running text, its paragraphs apart: it is wrapped by what shows it."""
    return "\n\n".join(" ".join(part.split()) for part in doc.split("\n\n"))
