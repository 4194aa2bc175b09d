from __future__ import annotations

from core.kernel.errors import Unavailable
from core.services.position_follower import IDLE_S, STEP_S, PositionFollower
from core.services.positions import PositionGate
from tests.given import ManualClock, quiet, running, until


class Positions:
    """What the store and the views would say."""

    def __init__(self) -> None:
        self.now = (0, 0)
        self.looks = 0
        self.broken = False

    async def __call__(self) -> tuple[int, int]:
        self.looks += 1
        if self.broken:
            raise Unavailable("away")
        return self.now


async def test_both_positions_are_followed_seldom_while_nobody_waits() -> None:
    positions, clock, recorded, applied = Positions(), ManualClock(), PositionGate(), PositionGate()
    async with running(PositionFollower(positions, recorded, applied, clock).run()):
        await until(lambda: positions.looks == 1, "the first look")
        positions.now = (7, 5)
        for _ in range(int(IDLE_S / STEP_S) + 1):
            clock.advance(STEP_S)
            await quiet()
        assert (positions.looks, recorded.position, applied.position) == (2, 7, 5)


async def test_who_waits_makes_it_look_at_every_step() -> None:
    positions, clock, recorded, applied = Positions(), ManualClock(), PositionGate(), PositionGate()
    async with running(PositionFollower(positions, recorded, applied, clock).run()), running(applied.wait_for(3, 60)):
        await until(lambda: positions.looks == 1, "the first look")
        for number in range(3):
            clock.advance(STEP_S)
            await until(lambda number=number: positions.looks == number + 2, "a look")  # type: ignore[misc]
        positions.now = (3, 3)
        clock.advance(STEP_S)
        await until(lambda: applied.position == 3, "the position")


async def test_an_outage_is_outlived() -> None:
    positions, clock, recorded, applied = Positions(), ManualClock(), PositionGate(), PositionGate()
    positions.broken = True
    async with running(PositionFollower(positions, recorded, applied, clock).run()):
        await until(lambda: positions.looks == 1, "the first look")
        positions.broken, positions.now = False, (2, 1)
        for _ in range(3):
            await quiet()
            clock.advance(1.0)
        await until(lambda: applied.position == 1, "the position")
