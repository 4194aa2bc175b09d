from __future__ import annotations

from typing import Any

import msgspec
import pytest

from core.execution import (
    CancelToken,
    CommandParameters,
    PythonParameters,
    Reference,
    as_reference,
    parameters_of,
    references,
)
from core.kernel.errors import Unprocessable

SHA = "a" * 64
BLOB = {"blob": SHA, "size": 3}


def refusal(executor: str, parameters: dict[str, Any]) -> Unprocessable:
    with pytest.raises(Unprocessable) as refused:
        parameters_of(executor, parameters)
    return refused.value


def test_a_command_needs_no_more_than_argv() -> None:
    assert parameters_of("command", {"argv": ["true"]}) == CommandParameters(argv=["true"])


def test_a_command_takes_references_where_they_are_safe() -> None:
    given = {"argv": ["cat", BLOB], "env": {"KEY": {"secret": "MY_KEY"}}, "stdin": {"private": BLOB}}
    blob = Reference(blob=SHA, size=3)
    assert parameters_of("command", given) == CommandParameters(
        argv=["cat", blob], env={"KEY": Reference(secret="MY_KEY")}, stdin=Reference(private=blob)
    )


def test_a_function_takes_arguments_of_any_shape() -> None:
    given = {"function": "echo", "arguments": {"a": [1, {"b": None}], "key": {"secret": "MY_KEY"}}}
    assert parameters_of("python", given) == PythonParameters(function="echo", arguments=given["arguments"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parameters", "pointer"),
    [
        ({}, "/parameters/argv"),
        ({"argv": []}, "/parameters/argv"),
        ({"argv": "ls -l"}, "/parameters/argv"),
        ({"argv": [""]}, "/parameters/argv/0"),
        ({"argv": [1]}, "/parameters/argv/0"),
        ({"argv": ["a", "b\0c"]}, "/parameters/argv/1"),
        ({"argv": ["a"] * 1025}, "/parameters/argv"),
        ({"argv": ["a", {"blob": SHA}]}, "/parameters/argv/1"),
        ({"argv": ["a", {"private": {"secret": "X"}}]}, "/parameters/argv/1"),
        ({"argv": ["a"], "shell": True}, "/parameters/shell"),
        ({"argv": ["a"], "env": {"A=B": "c"}}, "/parameters/env"),
        ({"argv": ["a"], "env": {"A": 1}}, "/parameters/env"),
        ({"argv": ["a"], "memory_max_mb": 1}, "/parameters/memory_max_mb"),
        ({"argv": ["a"], "output_max_bytes": 64 * 1024 * 1024 + 1}, "/parameters/output_max_bytes"),
    ],
)
def test_a_command_that_cannot_run_is_refused_with_a_pointer(parameters: dict[str, Any], pointer: str) -> None:
    error = refusal("command", parameters)
    assert (error.code, error.pointer) == ("invalid_field", pointer)
    assert error.sentence.endswith(".")


def test_a_secret_in_argv_is_refused_because_every_user_can_read_it() -> None:
    error = refusal("command", {"argv": ["login", {"secret": "MY_KEY"}]})
    assert error.pointer == "/parameters/argv/1"
    assert "env" in error.remedy


def test_an_unknown_executor_is_refused_with_the_known_ones() -> None:
    error = refusal("fortran", {})
    assert (error.code, error.extra["known"]) == ("unknown_executor", ["command", "python"])


def test_a_broken_reference_deep_in_the_arguments_is_pointed_at() -> None:
    error = refusal("python", {"function": "f", "arguments": {"a/b": [{"secret": "lower case"}]}})
    assert error.pointer == "/parameters/arguments/a~1b/0/secret"


def test_arguments_beyond_the_depth_are_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(40):
        deep = {"deeper": deep}
    assert refusal("python", {"function": "f", "arguments": deep}).code == "too_deep"


def test_references_are_found_with_their_pointers() -> None:
    value = {"a": {"secret": "KEY"}, "b": [1, BLOB], "c": {"secret": "x", "user": "y"}}
    assert list(references(value)) == [("/a", Reference(secret="KEY")), ("/b/1", Reference(blob=SHA, size=3))]


@pytest.mark.parametrize("value", [{}, {"size": 3}, {"secret": "A", "b": 1}, {"blob": SHA, "size": 1, "name": "n"}])
def test_plain_objects_are_no_references(value: dict[str, Any]) -> None:
    assert as_reference(value) is None


@pytest.mark.parametrize("given", [{"secret": "KEY"}, BLOB, {"private": BLOB}])
def test_a_reference_survives_the_way_to_json_and_back(given: dict[str, Any]) -> None:
    reference = as_reference(given)
    assert msgspec.json.decode(msgspec.json.encode(reference)) == given


async def test_a_token_keeps_its_first_reason_and_calls_back_once() -> None:
    token = CancelToken()
    called: list[str] = []
    token.subscribe(lambda: called.append("first"))
    forget = token.subscribe(lambda: called.append("second"))
    forget()
    token.cancel("the user asked")
    token.cancel("again")
    token.subscribe(lambda: called.append("late"))
    assert (token.reason, token.cancelled.is_set(), called) == ("the user asked", True, ["first", "late"])
