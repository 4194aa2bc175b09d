from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.kernel.merkle import EMPTY_ROOT, Frontier, leaf_hash

# The inputs and tree heads that the reference implementation of Certificate Transparency tests itself with.
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
HEADS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

leaves = st.lists(st.binary(min_size=32, max_size=32), max_size=70)


def tree_head(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162, 2.1.1, word for word, over leaf hashes."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\x01" + tree_head(leaves[:split]) + tree_head(leaves[split:])).digest()


def grown(leaves: list[bytes]) -> Frontier:
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier


def test_the_tree_heads_are_those_of_the_reference_implementation() -> None:
    hashed = [sha256(b"\x00" + bytes.fromhex(text)).digest() for text in INPUTS]
    assert [grown(hashed[:size]).root().hex() for size in range(9)] == HEADS
    assert [tree_head(hashed[:size]).hex() for size in range(9)] == HEADS


def test_a_leaf_is_the_hash_of_marker_position_subject_length_subject_and_body() -> None:
    preimage = b"\x00" + b"\x00\x00\x00\x00\x00\x00\x01\x02" + b"\x00\x12" + b"hive.log.task.\xc3\xa4bc" + b"{}"
    assert leaf_hash(258, "hive.log.task.äbc", b"{}") == sha256(preimage).digest()


def test_the_length_before_the_subject_keeps_subject_and_body_apart() -> None:
    assert leaf_hash(1, "ab", b"c") != leaf_hash(1, "a", b"bc")


def test_the_empty_tree_has_the_hash_of_nothing() -> None:
    assert (Frontier().root(), Frontier().size, Frontier().encode()) == (EMPTY_ROOT, 0, ())


@given(leaves)
def test_the_frontier_has_the_root_of_the_recursive_definition_at_every_size(leaves: list[bytes]) -> None:
    frontier = Frontier()
    for size, leaf in enumerate(leaves, 1):
        frontier.append(leaf)
        assert (frontier.size, frontier.root()) == (size, tree_head(leaves[:size]))


@given(leaves, leaves)
def test_a_frontier_goes_on_after_encoding_as_if_it_had_not_stopped(before: list[bytes], after: list[bytes]) -> None:
    resumed = Frontier.decode(len(before), grown(before).encode())
    for leaf in after:
        resumed.append(leaf)
    whole = grown(before + after)
    assert (resumed.encode(), resumed.root(), resumed.size) == (whole.encode(), whole.root(), whole.size)


@given(leaves)
def test_a_frontier_holds_one_hash_for_each_set_bit_of_its_size(leaves: list[bytes]) -> None:
    assert len(grown(leaves).encode()) == len(leaves).bit_count()


@pytest.mark.parametrize(("size", "peaks"), [(1, ()), (3, (b"a" * 32,)), (0, (b"a" * 32,)), (1, (b"short",))])
def test_hashes_that_do_not_belong_to_the_size_are_refused(size: int, peaks: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match=f"no frontier of a tree of {size} leaves"):
        Frontier.decode(size, peaks)
