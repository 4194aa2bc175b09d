from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given as sampled
from hypothesis import strategies as st

from adapters.memory.blobs import MemoryBlobs
from core.execution import DEPTH_MAX, PRIVATE_SALT_BYTES, references
from core.kernel.errors import Unprocessable
from core.services.vault import INLINE_MAX_BYTES, Sealed, Vault, is_private

KEY = b"k" * 32


def vault(blobs: MemoryBlobs | None = None, key: bytes = KEY) -> Vault:
    return Vault(blobs or MemoryBlobs(), key)


async def sealed(parameters: dict[str, Any], blobs: MemoryBlobs | None = None, key: bytes = KEY) -> Sealed:
    found = await vault(blobs, key).seal(parameters)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"argv": ["echo", "hi"], "n": [1, 2.5, None, True]},
        {"private": 1, "other": 2},
        {"private": {"blob": "0" * 64, "size": 3}},
        {"x": {"secret": "TOKEN"}},
        {"x": "a" * (INLINE_MAX_BYTES // 4)},
    ],
    ids=["nothing", "small", "a mere name", "a reference already", "a secret", "not so large"],
)
async def test_what_is_small_and_public_needs_no_sealing(parameters: dict[str, Any]) -> None:
    assert await vault().seal(parameters) is None


LARGE = "a" * (INLINE_MAX_BYTES + 1)


@pytest.mark.parametrize(
    "parameters",
    [
        {"x": LARGE},
        {"x": ["a", LARGE]},
        {"x": [["a", LARGE]]},
        {"x": {"y": LARGE}},
        {"private": 1},
        {"x": {"private": 1}},
    ],
    ids=["a text", "in a list", "in a list of lists", "in an object", "all of it private", "a private one inside"],
)
async def test_what_is_large_or_private_is_sealed_wherever_it_stands(parameters: dict[str, Any]) -> None:
    blobs = MemoryBlobs()
    found = await sealed(parameters, blobs)
    assert found.parameters != parameters
    assert "blob" in str(found.parameters)


async def test_a_large_value_goes_to_the_blobs_by_its_hash_and_the_rest_stays() -> None:
    blobs, large = MemoryBlobs(), "é" * (INLINE_MAX_BYTES // 2 + 1)
    raw = large.encode()
    reference = {"blob": hashlib.sha256(raw).hexdigest(), "size": len(raw)}
    found = await sealed({"stdin": large, "argv": ["cat", {"deep": [large]}]}, blobs)
    wanted = {"stdin": reference, "argv": ["cat", {"deep": [reference]}]}
    assert found == Sealed(parameters=wanted, canonical=wanted)
    assert await blobs.get(reference["blob"]) == raw  # type: ignore[arg-type]


async def test_the_bound_is_counted_in_bytes_and_belongs_to_what_stays() -> None:
    at_bound = "x" * INLINE_MAX_BYTES
    assert await sealed({"x": at_bound}) == Sealed({"x": at_bound}, {"x": at_bound})
    beyond = await sealed({"x": at_bound + "x"})
    assert beyond.parameters["x"]["size"] == INLINE_MAX_BYTES + 1


async def test_a_private_value_leaves_only_a_salted_hash() -> None:
    blobs = MemoryBlobs()
    found = await sealed({"env": {"NOTE": {"private": {"b": 1, "a": ["my", "diary"]}}}, "n": 1}, blobs)
    reference = found.parameters["env"]["NOTE"]["private"]
    blob = await blobs.get(reference["blob"])
    assert blob is not None
    plain = b'{"a":["my","diary"],"b":1}'
    assert (blob[PRIVATE_SALT_BYTES:], reference["size"]) == (plain, PRIVATE_SALT_BYTES + len(plain))
    assert b"diary" not in msgspec.json.encode(found.parameters) + msgspec.json.encode(found.canonical)
    assert hashlib.sha256(plain).hexdigest() not in str(found)


async def test_the_same_private_value_has_one_fingerprint_and_never_the_same_blob() -> None:
    first, again, other = [await sealed({"x": {"private": value}}) for value in ("yes", "yes", "no")]
    assert first.canonical == again.canonical != other.canonical
    assert first.parameters != again.parameters


async def test_the_fingerprint_of_a_private_value_is_nothing_without_the_key() -> None:
    first = await sealed({"x": {"private": "yes"}})
    elsewhere = await sealed({"x": {"private": "yes"}}, key=b"other")
    assert first.canonical != elsewhere.canonical


async def test_erasing_a_private_value_is_deleting_its_blob() -> None:
    blobs = MemoryBlobs()
    found = await sealed({"x": {"private": "diary"}}, blobs)
    name = found.parameters["x"]["private"]["blob"]
    assert await blobs.delete(name)
    assert await blobs.get(name) is None


async def test_what_is_nested_too_deep_is_refused_where_it_begins() -> None:
    value: Any = "x"
    for _ in range(DEPTH_MAX + 2):
        value = {"a": value, "b/c": 1}
    with pytest.raises(Unprocessable) as caught:
        await vault().seal({"p": value})
    assert (caught.value.code, caught.value.pointer) == ("too_deep", "/parameters/p" + "/a" * DEPTH_MAX)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
async def test_an_integer_that_not_every_reader_can_read_is_refused(number: int) -> None:
    with pytest.raises(Unprocessable) as caught:
        await vault().seal({"big": {"private": "x"}, "n": [0, {"a/b": number}]})
    assert (caught.value.code, caught.value.pointer) == ("invalid_field", "/parameters/n/1/a~1b")
    assert await vault().seal({"n": [2**63 - 1, -(2**63)]}) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@sampled(JSON, st.lists(st.sampled_from(["x", "private", "list"]), max_size=4))
async def test_a_sealed_value_can_be_opened_again_and_needs_no_second_seal(value: Any, path: list[str]) -> None:
    blobs = MemoryBlobs()
    parameters: Any = {"private": value}
    if not is_private(parameters):
        return  # it has the shape of a reference
    for step in path:
        if step == "list":
            parameters = [parameters]
        elif step == "x":
            parameters = {"x": parameters}
    found = await sealed({"top": parameters}, blobs)
    ((_, reference),) = references(found.parameters)
    assert reference.private is not None
    blob = await blobs.get(reference.private.blob or "")
    assert blob is not None
    assert msgspec.json.decode(blob[PRIVATE_SALT_BYTES:]) == value
    assert await vault(blobs).seal(found.parameters) is None
