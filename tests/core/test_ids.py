"""Ids that must repeat."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from core.kernel.ids import derive, derived


@given(st.uuids(), st.text(max_size=60))
def test_a_derived_id_is_the_same_as_text_and_as_value(parent: UUID, label: str) -> None:
    # given any parent and label, when its id is made both ways
    child = derive(parent, label)
    # then they agree, it is a UUIDv8, and it is ordered like its parent
    assert derived(parent, label) == str(child)
    assert child.version == 8
    assert child.int >> 80 == parent.int >> 80
