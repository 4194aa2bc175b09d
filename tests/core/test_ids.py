"""Ids that must repeat."""

from __future__ import annotations

import subprocess
import sys
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from core.kernel.ids import canonical, derive, derived, uuid7


@given(st.uuids(), st.text(max_size=60))
def test_a_derived_id_is_the_same_as_text_and_as_value(parent: UUID, label: str) -> None:
    # given any parent and label, when its id is made both ways
    child = derive(parent, label)
    # then they agree, it is a UUIDv8, and it is ordered like its parent
    assert derived(parent, label) == str(child)
    assert child.version == 8
    assert child.int >> 80 == parent.int >> 80


@given(st.uuids())
def test_an_id_is_read_back_as_python_reads_it(id_: UUID) -> None:
    read = canonical(str(id_))
    assert (read, hash(read), str(read), read.bytes, read.is_safe) == (id_, hash(id_), str(id_), id_.bytes, id_.is_safe)
    made = uuid7(1_700_000_000_000)
    assert (made, made.version, made.variant) == (UUID(str(made)), 7, UUID(str(made)).variant)


def test_ids_never_repeat_over_many_pages_of_randomness() -> None:
    # given one millisecond, when more ids are made than one page of randomness holds
    made = {uuid7(1_700_000_000_000) for _ in range(5_000)}
    # then each is another one, and each carries that time
    assert len(made) == 5_000
    assert {value.int >> 80 for value in made} == {1_700_000_000_000}


FORKED = """
import os
from core.kernel.ids import uuid7
uuid7(1)
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, str(uuid7(1)).encode())
    os._exit(0)
os.wait()
print(os.read(read, 36).decode() == str(uuid7(1)))
"""


def test_a_forked_child_does_not_repeat_its_parents_ids() -> None:
    # given a process that holds randomness, when it forks and both make an id in the same millisecond
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True, timeout=30)
    # then they differ
    assert done.stdout.strip() == "False"
