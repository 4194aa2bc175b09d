"""What every Lease promises.

A subclass gives the fixtures `candidates`: two for one lease that lives TTL_S, and a way to cut one off; and `lasting`:
the same with a time to live that no test outlasts.
"""

import asyncio
from collections.abc import Awaitable
from typing import Protocol

import pytest

from core.kernel.ports import Lease

DEADLINE_S = 20.0
TTL_S = 2
LASTING_TTL_S = 600


class Candidates(Protocol):
    first: Lease
    second: Lease
    stranger: Lease
    """One for a lease of another name."""

    async def cut(self) -> None:
        """From now on `first` reaches nobody; its process goes on."""

    async def mend(self) -> None:
        """End that."""


async def soon(waiting: Awaitable[None]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await waiting


async def noted(events: list[str], what: str, waiting: Awaitable[None]) -> None:
    await waiting
    events.append(what)


class LeaseContract:
    async def test_one_that_nobody_holds_is_acquired(self, candidates: Candidates) -> None:
        assert not candidates.first.held
        await soon(candidates.first.acquire())
        assert candidates.first.held
        assert not candidates.second.held

    async def test_a_holder_keeps_it_for_longer_than_its_time_to_live(self, candidates: Candidates) -> None:
        await soon(candidates.first.acquire())
        losing = asyncio.ensure_future(candidates.first.lost())
        waiting = asyncio.ensure_future(candidates.second.acquire())
        done, _ = await asyncio.wait({losing, waiting}, timeout=1.5 * TTL_S)
        assert not done
        assert candidates.first.held
        waiting.cancel()
        losing.cancel()

    async def test_the_next_one_gets_it_when_it_is_given_back(self, candidates: Candidates) -> None:
        await soon(candidates.first.acquire())
        events: list[str] = []
        losing = asyncio.ensure_future(noted(events, "lost", candidates.first.lost()))
        waiting = asyncio.ensure_future(noted(events, "acquired", candidates.second.acquire()))
        await candidates.first.release()
        assert not candidates.first.held
        await soon(asyncio.gather(losing, waiting))  # type: ignore[arg-type]
        assert events == ["lost", "acquired"]
        assert candidates.second.held
        await candidates.first.release()
        assert candidates.second.held

    async def test_one_given_back_is_free_without_having_expired(self, lasting: Candidates) -> None:
        for _ in range(3):
            await soon(lasting.first.acquire())
            await lasting.first.release()
            await soon(lasting.second.acquire())
            await lasting.second.release()

    async def test_a_holder_that_is_cut_off_stops_before_another_one_begins(self, candidates: Candidates) -> None:
        await soon(candidates.first.acquire())
        events: list[str] = []

        async def lose() -> None:
            await candidates.first.lost()
            events.append(f"lost, held {candidates.first.held}")

        losing = asyncio.ensure_future(lose())
        waiting = asyncio.ensure_future(noted(events, "acquired", candidates.second.acquire()))
        await candidates.cut()
        await soon(asyncio.gather(losing, waiting))  # type: ignore[arg-type]
        assert events == ["lost, held False", "acquired"]
        assert candidates.second.held

    async def test_one_that_lost_it_may_win_it_again(self, candidates: Candidates) -> None:
        await soon(candidates.first.acquire())
        await candidates.cut()
        await soon(candidates.first.lost())
        await soon(candidates.second.acquire())
        await candidates.mend()
        again = asyncio.ensure_future(candidates.first.acquire())
        await asyncio.wait({again}, timeout=0.2)
        assert not again.done()
        await candidates.second.release()
        await soon(again)  # type: ignore[arg-type]
        assert (candidates.first.held, candidates.second.held) == (True, False)

    async def test_a_short_cut_costs_nothing(self, candidates: Candidates) -> None:
        await soon(candidates.first.acquire())
        waiting = asyncio.ensure_future(candidates.second.acquire())
        for _ in range(2):
            await candidates.cut()
            await asyncio.wait({waiting}, timeout=TTL_S / 3)
            await candidates.mend()
            await asyncio.wait({waiting}, timeout=TTL_S / 3)
        assert candidates.first.held
        assert not waiting.done()
        waiting.cancel()

    async def test_leases_of_other_names_are_others(self, candidates: Candidates) -> None:
        await soon(candidates.first.acquire())
        await soon(candidates.stranger.acquire())
        assert candidates.first.held
        assert candidates.stranger.held

    async def test_giving_up_the_wait_leaves_nothing_held(self, candidates: Candidates) -> None:
        await soon(candidates.first.acquire())
        waiting = asyncio.ensure_future(candidates.second.acquire())
        await asyncio.wait({waiting}, timeout=0.2)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert not candidates.second.held
        await soon(candidates.second.lost())

    @pytest.mark.parametrize("repeat", [1, 2])
    async def test_releasing_what_was_never_held_is_harmless(self, candidates: Candidates, repeat: int) -> None:
        await soon(candidates.first.acquire())
        for _ in range(repeat):
            await candidates.second.release()
        assert candidates.first.held
