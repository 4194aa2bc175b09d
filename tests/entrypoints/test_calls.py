"""One call of one action, whatever the way in."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Struct

from adapters.telemetry import REQUESTS
from core.actions import registry
from core.kernel.errors import HivebusError, NotFound, Unprocessable
from core.services.dispatch import Principal
from entrypoints.calls import Action, Calls, CommandOptions, QueryOptions
from projections.catalogue import QUERIES

OWNER = Principal("key:test")


class Greet(Struct, frozen=True, forbid_unknown_fields=True):
    """Greet somebody."""

    name: str


async def _carry(command: Greet, options: CommandOptions, principal: Principal) -> dict[str, Any]:
    return {"said": command.name, "key": options.idempotency_key, "to": principal.actor}


GREET = Action(name="test.greet", doc="Greet.", struct=Greet, options=CommandOptions, read_only=False, carry=_carry)


async def test_arguments_go_to_the_action_and_options_beside_it() -> None:
    answer = await Calls([GREET]).call("test.greet", {"name": "Ann", "idempotency_key": "k"}, OWNER, transport="test")
    assert answer == {"said": "Ann", "key": "k", "to": "key:test"}


@pytest.mark.parametrize(
    ("arguments", "code", "pointer"),
    [
        ({"name": 5}, "invalid_field", "/name"),
        ({}, "missing_field", "/name"),
        ({"name": "Ann", "nam": 1}, "unknown_field", "/nam"),
        ({"name": "Ann", "wait": "soon"}, "invalid_field", "/wait"),
        ({"name": "Ann", "idempotency_key": 7}, "invalid_field", "/idempotency_key"),
    ],
)
async def test_what_does_not_fit_is_told_with_its_place(arguments: dict[str, Any], code: str, pointer: str) -> None:
    with pytest.raises(Unprocessable) as refused:
        await Calls([GREET]).call("test.greet", arguments, OWNER, transport="test")
    assert (refused.value.code, refused.value.pointer) == (code, pointer)


async def test_an_action_that_does_not_exist_is_no_success() -> None:
    with pytest.raises(NotFound) as refused:
        await Calls([GREET]).call("test.gret", {}, OWNER, transport="test")
    assert refused.value.code == "unknown_action"


def test_no_field_of_an_action_is_taken_for_an_option() -> None:
    program = registry(QUERIES)
    for command in program.client_commands():
        assert not set(command.struct.__struct_fields__) & set(CommandOptions.__struct_fields__), command.name
    for query in program.queries.values():
        assert not set(query.struct.__struct_fields__) & set(QueryOptions.__struct_fields__), query.name


async def test_a_call_is_counted_once_by_its_outcome_and_an_unknown_name_as_unknown() -> None:
    before = _counted()
    calls = Calls([GREET])
    await calls.call("test.greet", {"name": "Ann"}, OWNER, transport="test")
    for name, arguments in (("test.greet", {}), ("test.gret", {}), ("made.up", {})):
        with pytest.raises(HivebusError):
            await calls.call(name, arguments, OWNER, transport="test")
    moved = {labels: count - before.get(labels, 0) for labels, count in _counted().items()}
    assert {labels: count for labels, count in moved.items() if count} == {
        ("test.greet", "ok"): 1,
        ("test.greet", "missing_field"): 1,
        ("unknown", "unknown_action"): 2,
    }


def _counted() -> dict[tuple[str, str], float]:
    return {
        (sample.labels["action"], sample.labels["outcome"]): sample.value
        for family in REQUESTS.collect()
        for sample in family.samples
        if sample.labels["transport"] == "test"
    }
