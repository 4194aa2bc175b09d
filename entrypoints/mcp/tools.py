"""Every action as a tool: its name, its schema, what it may do, and the call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from core.kernel.errors import HivebusError
from core.kernel.registry import doc_of
from core.services.dispatch import Principal
from entrypoints.calls import Action, Calls
from entrypoints.mcp.frames import INVALID_PARAMS, Fault
from entrypoints.mcp.resources import task_uri
from entrypoints.mcp.size import fitted

# A coding agent takes 25,000 tokens of one answer; JSON has two to three bytes a token.
RESULT_MAX_BYTES = 48 * 1024
# What coding agents allow in a name is less than what the protocol does: no dot.
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}").fullmatch
_DEFS = "#/$defs/{name}"
# It runs whatever it is given, on this machine and beyond.
_RUNS_ANYTHING = frozenset({"task.submit"})


class Tools:
    """The tools of all actions, in the order of the registry."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._actions = {tool_name(name): action for name, action in calls.actions.items()}
        assert len(self._actions) == len(calls.actions), "two actions would be one tool"
        self.definitions = [definition_of(name, action) for name, action in self._actions.items()]

    async def call(self, params: Mapping[str, Any], principal: Principal) -> dict[str, Any]:
        """The result of tools/call. What an action refuses is a result, too: a model reads it and does better.

        Raises Fault for a tool that there is none of and for arguments that are no object.
        """
        name, arguments = params.get("name"), params.get("arguments")
        action = self._actions.get(name) if isinstance(name, str) else None
        if action is None:
            raise Fault(INVALID_PARAMS, f"There is no tool {str(name)[:100]!r}; tools/list names them.")
        if not isinstance(arguments, dict | None):
            raise Fault(INVALID_PARAMS, "The arguments of a tool are an object.")
        arguments = arguments or {}
        try:
            answer = await self._calls.call(action.name, arguments, principal, transport="mcp")
        except HivebusError as error:
            return refusal(error)
        structured, encoded = fitted(answer, RESULT_MAX_BYTES, _elsewhere(arguments))
        return {"content": [_text(encoded.decode())], "structuredContent": structured, "isError": False}


def tool_name(action: str) -> str:
    """`task.submit` as `task_submit`."""
    name = action.replace(".", "_")
    assert NAME(name), name
    return name


def definition_of(name: str, action: Action) -> dict[str, Any]:
    """A tool as tools/list shows it."""
    return {
        "name": name,
        "description": "\n\n".join(text for text in (action.doc, doc_of(action.options)) if text),
        "inputSchema": schema_of(action.struct, action.options),
        "annotations": annotations_of(action),
    }


def annotations_of(action: Action) -> dict[str, bool]:
    """What calling it may do. A command that creates only adds; any other one, repeated, finds its wish fulfilled."""
    if action.read_only:
        return {"readOnlyHint": True, "openWorldHint": False}
    runs_anything = action.name in _RUNS_ANYTHING
    return {
        "readOnlyHint": False,
        "destructiveHint": runs_anything or not action.creates,
        "idempotentHint": not action.creates,
        "openWorldHint": runs_anything,
    }


def schema_of(struct: type[Struct], options: type[Struct]) -> dict[str, Any]:
    """JSON Schema (2020-12) of an action's fields and, beside them, its options."""
    _, components = msgspec.json.schema_components([struct, options], ref_template=_DEFS)
    own, beside = components.pop(struct.__name__), components.pop(options.__name__)
    schema: dict[str, Any] = {
        "type": "object",
        "properties": own["properties"] | beside["properties"],
        "required": own["required"],
        "additionalProperties": False,
    }
    if components:
        schema["$defs"] = components
    written: dict[str, Any] = _portable(schema)
    return written


def _portable(schema: Any) -> Any:
    """Patterns as ECMAScript knows them: its `$` is the end of the text, which Python writes `\\Z`."""
    if isinstance(schema, list):
        return [_portable(item) for item in schema]
    if isinstance(schema, dict):
        return {
            key: value.replace(r"\Z", "$") if key == "pattern" and isinstance(value, str) else _portable(value)
            for key, value in schema.items()
        }
    return schema


def refusal(error: HivebusError) -> dict[str, Any]:
    """The result of a call that was refused: the sentence and what to do for the model, the whole for its program."""
    problem = error.as_problem()
    where = f" (at {error.pointer})" if error.pointer else ""
    text = f"{error.code}: {error.sentence}{where} {problem['remedy']}"
    return {"content": [_text(text)], "structuredContent": {"error": problem}, "isError": True}


def _elsewhere(arguments: Mapping[str, Any]) -> str:
    task_id = arguments.get("task_id")
    if isinstance(task_id, str):
        return f"The whole is the resource {task_uri(task_id)}."
    return "Ask for less: a smaller limit, or a filter."


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
