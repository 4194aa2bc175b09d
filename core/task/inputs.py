"""What of a dependency's result goes into the parameters: chosen by one JSON pointer (RFC 6901), placed at another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from core.execution import Sha256, parameters_of, references
from core.kernel.errors import Unprocessable

# Of all the values that one task is given. They travel with its parameters, so a commit's size is no bound for them.
INPUTS_MAX_BYTES = 128 * 1024

# What an executor's free places take at least: text in argv, env and stdin; any value among a function's arguments.
_PROBES: dict[str, Any] = {"command": "x", "python": {}}


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    """How a result names what it keeps as a blob."""

    sha256: Sha256
    size: int


class NoPlace(Exception):
    """A pointer that leads nowhere; the sentence says where it ended."""


def tokens(pointer: str) -> list[str]:
    """The keys of a pointer."""
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


def chosen(result: Mapping[str, Any], pointer: str) -> Any:
    """The value at a pointer of a result. What the result keeps as a blob becomes a reference to it.

    Raises NoPlace where nothing stands there, and for a value that would be read as a reference: a result is written
    by whoever ran, and may not name secrets for the next one.
    """
    value: Any = result
    path = tokens(pointer)
    if len(path) == 1 and (kept := _kept(result, path[0])) is not None:
        return kept
    for token in path:
        if isinstance(value, dict) and token in value:
            value = value[token]
        elif isinstance(value, list) and token.isdecimal() and int(token) < len(value):
            value = value[int(token)]
        else:
            raise NoPlace(f"has nothing at {pointer}")
    try:
        for _ in references(value):
            raise NoPlace("holds what would be read as a reference to a secret or a blob")
    except Unprocessable as error:
        raise NoPlace(f"does not fit into parameters: {error.sentence}") from error
    return value


def _kept(result: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """A reference to what the executor keeps of a member as a blob; only its own members count, not a function's."""
    member = result.get(f"{name}_blob", result.get(name) if name.endswith("_blob") else None)
    try:
        kept = msgspec.convert(member, _Kept)
    except msgspec.ValidationError:
        return None
    return {"blob": kept.sha256, "size": kept.size}


def fitted(executor: str, value: Any) -> Any:
    """The value as an executor's parameters take it: for `command`, what is no text becomes its JSON text."""
    if (
        executor != "command"
        or isinstance(value, str)
        or (isinstance(value, dict) and value.keys() == {"blob", "size"})
    ):
        return value
    return msgspec.json.encode(value).decode()


def placed(parameters: dict[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with each value at its pointer; missing objects on the way are made. Raises NoPlace."""
    if not inputs:
        return parameters
    whole: Any = parameters
    for pointer, value in inputs.items():
        whole = _with(whole, tokens(pointer), value, pointer)
    assert isinstance(whole, dict), "a pointer of `into` is not empty"
    return whole


def _with(at: Any, path: list[str], value: Any, pointer: str) -> Any:
    """A copy of what stands here, changed along the path; what lies beside it is shared."""
    if not path:
        return value
    token, rest = path[0], path[1:]
    if isinstance(at, dict):
        return {**at, token: _with(at.get(token, {} if rest else None), rest, value, pointer)}
    if isinstance(at, list):
        if not token.isdecimal() or int(token) >= len(at):
            raise NoPlace(f"{pointer} names no item of a list of {len(at)}")
        index = int(token)
        return [*at[:index], _with(at[index], rest, value, pointer), *at[index + 1 :]]
    raise NoPlace(f"{pointer} leads into a value that is neither an object nor a list")


def check_places(executor: str, parameters: dict[str, Any], places: Mapping[str, int]) -> None:
    """Check the parameters with something at each place, given as pointer to its index in depends_on.

    Raises Unprocessable: for a place that is none, or that takes nothing from a result, with a pointer to its `into`.
    """
    parameters_of(executor, parameters)
    for pointer, index in places.items():
        try:
            parameters_of(executor, placed(parameters, {pointer: _PROBES[executor]}))
        except (NoPlace, Unprocessable) as error:
            said = error.sentence.rstrip(".") if isinstance(error, Unprocessable) else str(error)
            raise Unprocessable(
                f"No result can go to {pointer} of the parameters: {said}.",
                code="bad_pointer",
                pointer=f"/depends_on/{index}/into",
                remedy="Name an item of argv, a variable of env or stdin; for python, something under /arguments.",
            ) from error
