"""The parts of MCP by themselves: what an answer may weigh, how an action becomes a tool, and what a bug looks like."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from adapters.memory.blobs import MemoryBlobs
from core.services.dispatch import Principal
from entrypoints.calls import Action, Calls, CommandOptions
from entrypoints.mcp.frames import Fault, frame_of
from entrypoints.mcp.server import Mcp
from entrypoints.mcp.size import fitted
from entrypoints.mcp.tools import Tools, schema_of

OWNER = Principal("key:test")
BYTES_MAX = 1024
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=600),
    lambda inner: st.lists(inner, max_size=40) | st.dictionaries(st.text(max_size=40), inner, max_size=40),
    max_leaves=60,
)
ANSWERS = st.dictionaries(st.text(min_size=1, max_size=20), VALUES, max_size=60)


class Part(Struct, frozen=True):
    """A part."""

    word: str


class Build(Struct, frozen=True, forbid_unknown_fields=True):
    """Build something."""

    parts: list[Part]


def building(carry: Any, name: str = "house.build") -> Calls:
    options: dict[str, Any] = {"struct": Build, "options": CommandOptions, "read_only": False}
    return Calls([Action(name=name, doc="Build something.", carry=carry, **options)])


async def call(calls: Calls, **arguments: Any) -> dict[str, Any]:
    return await Tools(calls).call({"name": "house_build", "arguments": arguments}, OWNER)


@given(answer=ANSWERS)
@settings(max_examples=150)
def test_no_answer_is_longer_than_its_bound(answer: dict[str, Any]) -> None:
    shown, encoded = fitted(answer, BYTES_MAX, "Ask for less.")
    whole = msgspec.json.encode(answer)
    assert len(encoded) <= BYTES_MAX
    assert encoded == msgspec.json.encode(shown)
    if len(whole) <= BYTES_MAX:
        assert shown == answer
    else:
        assert shown["cut"]["bytes"] == len(whole)
        assert shown["cut"]["hint"].endswith("Ask for less.")


def test_what_is_cut_keeps_its_ends_and_its_first_items() -> None:
    shown, _ = fitted({"text": "a" * 5000 + "z" * 5000, "items": list(range(500))}, 8000, "")
    assert shown["text"].startswith("aaa")
    assert "characters left out" in shown["text"]
    assert shown["text"].endswith("zzz")
    assert shown["items"] == list(range(200))


def test_a_schema_holds_fields_and_options_and_refers_to_what_is_beside_it() -> None:
    schema = schema_of(Build, CommandOptions)
    assert schema["properties"].keys() == {"parts", "idempotency_key", "correlation_id", "wait"}
    assert (schema["required"], schema["additionalProperties"]) == (["parts"], False)
    assert schema["properties"]["parts"]["items"] == {"$ref": "#/$defs/Part"}
    assert schema["$defs"].keys() == {"Part"}


async def test_two_actions_never_become_one_tool() -> None:
    actions = [*building(None, "a.b_c").actions.values(), *building(None, "a_b.c").actions.values()]
    with pytest.raises(AssertionError, match="two actions"):
        Tools(Calls(actions))


async def test_arguments_that_are_nested_too_deeply_for_python_are_refused() -> None:
    async def carry(_command: Struct, _options: Struct, _principal: Principal) -> dict[str, Any]:
        raise RecursionError

    refused = await call(building(carry), parts=[])
    assert (refused["isError"], refused["structuredContent"]["error"]["code"]) == (True, "too_deep")


async def test_a_bug_is_an_internal_error_that_tells_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def carry(_command: Struct, _options: Struct, _principal: Principal) -> dict[str, Any]:
        raise ZeroDivisionError("the secret of the house")

    params = {"name": "house_build", "arguments": {"parts": []}}
    frame = frame_of({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    with pytest.raises(Fault) as fault:
        await Mcp(building(carry), MemoryBlobs(), "0").answer(frame, "2025-11-25", OWNER)
    assert (fault.value.code, fault.value.data["code"]) == (-32603, "internal")
    assert "secret" not in str(fault.value.frame(1))
    assert "the secret of the house" in caplog.text
