from __future__ import annotations

import asyncio

import pytest

from core.kernel.errors import TooMany
from core.services.positions import PositionGate

DEADLINE_S = 10.0


async def waiting(gate: PositionGate, *positions: int) -> list[asyncio.Task[bool]]:
    """Tasks that wait, each of them known to be waiting."""
    tasks = [asyncio.create_task(gate.wait_for(position, DEADLINE_S)) for position in positions]
    await asyncio.sleep(0)
    assert gate.waiting == len(tasks)
    return tasks


async def test_a_position_already_reached_does_not_wait() -> None:
    assert await PositionGate(5).wait_for(5, 0) is True


async def test_advancing_wakes_exactly_those_whose_position_is_reached() -> None:
    gate = PositionGate()
    tasks = await waiting(gate, 3, 1, 2, 2, 4)
    gate.advance(2)
    assert await asyncio.gather(*(tasks[index] for index in (1, 2, 3))) == [True, True, True]
    assert ([task.done() for task in tasks], gate.waiting) == ([False, True, True, True, False], 2)
    gate.advance(9)
    assert await asyncio.gather(*tasks) == [True] * 5
    assert (gate.position, gate.waiting) == (9, 0)


async def test_a_position_never_goes_back() -> None:
    gate = PositionGate(7)
    gate.advance(3)
    assert gate.position == 7


async def test_the_deadline_answers_false_and_leaves_nobody_waiting() -> None:
    gate = PositionGate()
    assert await gate.wait_for(1, 0.001) is False
    assert gate.waiting == 0


async def test_a_cancelled_waiter_leaves_the_others_alone() -> None:
    gate = PositionGate()
    gone, stays = await waiting(gate, 1, 1)
    gone.cancel()
    await asyncio.wait([gone])
    assert (gone.cancelled(), gate.waiting) == (True, 1)
    gate.advance(1)
    assert await stays is True


async def test_a_waiter_cancelled_in_the_turn_of_its_wake_up_does_not_break_the_gate() -> None:
    gate = PositionGate()
    gone, stays = await waiting(gate, 1, 2)
    gate.advance(1)
    gone.cancel()
    await asyncio.wait([gone])
    gate.advance(2)
    assert (await stays, gate.waiting) == (True, 0)


async def test_over_the_bound_a_caller_is_refused_and_told_when_to_come_back() -> None:
    gate = PositionGate(waiters_max=2)
    tasks = await waiting(gate, 1, 1)
    with pytest.raises(TooMany) as refused:
        await gate.wait_for(1, DEADLINE_S)
    assert refused.value.retry_after_s == 1
    gate.advance(1)
    assert await asyncio.gather(*tasks) == [True, True]


async def test_those_who_gave_up_are_forgotten_however_many_they_are() -> None:
    gate = PositionGate()
    for _ in range(20):
        answers = await asyncio.gather(*(gate.wait_for(10**9, 0) for _ in range(50)))
        assert answers == [False] * 50
    assert len(gate._heap) <= 64
