"""Who works in a data directory."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from core.kernel.errors import StartRefused
from entrypoints.lock import DataDirectory
from entrypoints.roles import AGENTS, API, RECORDER, SCHEDULER

ALL = frozenset({RECORDER, SCHEDULER, AGENTS})


def join(directory: DataDirectory, roles: frozenset[str]) -> list[str]:
    """Join, and say whether anybody else was there."""
    found: list[str] = []
    directory.join(roles, alone=lambda: found.append("alone"), beside=lambda: found.append("beside"))
    return found


def test_roles_are_shared_out_and_each_is_held_once(tmp_path: Path) -> None:
    first, second, third = (DataDirectory(tmp_path) for _ in range(3))
    assert join(first, frozenset({RECORDER})) == ["alone"]
    assert join(second, frozenset({SCHEDULER, AGENTS})) == ["beside"]
    with pytest.raises(StartRefused, match=f"pid {os.getpid()}\\) has the role scheduler in") as refused:
        join(third, frozenset({SCHEDULER}))
    assert refused.value.code == "already_running"
    assert (third.has(RECORDER), third.has("nothing")) == (True, False)
    second.release()
    join(third, frozenset({SCHEDULER}))


def test_what_wants_every_role_is_told_of_a_whole_program(tmp_path: Path) -> None:
    first = DataDirectory(tmp_path)
    join(first, ALL)
    with pytest.raises(StartRefused, match=r"Another Hivebus \(pid \d+\) runs on the data directory"):
        join(DataDirectory(tmp_path), ALL)


def test_who_needs_the_directory_alone_does_not_get_it_beside_a_role_and_no_role_beside_that(tmp_path: Path) -> None:
    reader, alone, late = (DataDirectory(tmp_path) for _ in range(3))
    join(reader, frozenset())
    with pytest.raises(StartRefused):
        alone.take()
    reader.release()
    alone.take()
    with pytest.raises(StartRefused):
        join(late, frozenset({API}))


def test_the_first_to_ask_wins_the_broker(tmp_path: Path) -> None:
    first, second = DataDirectory(tmp_path), DataDirectory(tmp_path)
    assert (first.win("broker"), second.win("broker")) == (True, False)
    first.release()
    assert second.win("broker")


async def test_processes_of_one_directory_start_one_after_the_other(tmp_path: Path) -> None:
    first, second = DataDirectory(tmp_path), DataDirectory(tmp_path)
    order: list[str] = []

    async def start(directory: DataDirectory, name: str) -> None:
        async with directory.one_at_a_time():
            order.append(f"{name} begins")
            await asyncio.to_thread(os.listdir, tmp_path)
            order.append(f"{name} ends")

    await asyncio.gather(start(first, "a"), start(second, "b"))
    assert order in (["a begins", "a ends", "b begins", "b ends"], ["b begins", "b ends", "a begins", "a ends"])
