"""The replay of many, carried out: what it picks as of its position, and a command for each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol
from uuid import UUID

from msgspec import Struct

from core.kernel.command_bus import Accepted
from core.kernel.ports import Clock
from core.kernel.registry import CommandSpec
from core.replay import Carried, Picked, Replay, ReplayStarted, StartReplay, asked, command_id_of
from core.task import ReplayTask

IN_FLIGHT_MAX = 100
# Until the views hold the replay's own position.
VIEWS_WITHIN_S = 10.0

Pick = Callable[[ReplayStarted, Any], Awaitable[Picked]]
"""What fits a filter within one look at the views (projections.replays.pick)."""

One = Callable[[Struct, UUID], Awaitable[dict[str, Any]]]
"""Carries out the command of one task under this id; its answer, or its problem document as `error`."""


class Views(Protocol):
    """The views as a replay needs them."""

    def reader(self, *, at: int | None, now_ms: int) -> AbstractAsyncContextManager[Any]:
        """One consistent look (projections.view.Reader)."""
        ...


class Replays:
    """Picks and carries out."""

    def __init__(self, views: Views, clock: Clock, pick: Pick, reach: Callable[[int, float], Awaitable[None]]) -> None:
        """`reach` waits until the views hold a position; it raises NotYet after so many seconds."""
        self._views = views
        self._clock = clock
        self._pick = pick
        self._reach = reach

    async def counted(self, spec: CommandSpec, command: StartReplay) -> dict[str, Any]:
        """What would be picked now; the log holds nothing of it."""
        async with self._views.reader(at=None, now_ms=self._clock.now_ms()) as reader:
            picked = await self._pick(asked(command), reader)
            position: int = reader.position
        tasks = [{"index": index, "replay_of": task_id} for index, task_id in enumerate(picked.tasks)]
        return _answer(spec, command, Carried(picked=picked, tasks=tasks, position=position))

    async def carried_out(
        self, spec: CommandSpec, command: StartReplay, accepted: Accepted, command_id: UUID, one: One
    ) -> dict[str, Any]:
        """A repeat picks the same, and finds done what was done. Raises NotYet: then the same key goes on with it."""
        started: Replay = accepted.state
        await self._reach(started.position, VIEWS_WITHIN_S)
        async with self._views.reader(at=started.position, now_ms=self._clock.now_ms()) as reader:
            picked = await self._pick(started.spec, reader)
        told: list[dict[str, Any]] = []
        for start in range(0, len(picked.tasks), IN_FLIGHT_MAX):
            part = picked.tasks[start : start + IN_FLIGHT_MAX]
            ids = [command_id_of(task_id, command_id, force=bool(started.spec.force)) for task_id in part]
            answers = await asyncio.gather(
                *(one(ReplayTask(task_id=task_id), id_) for task_id, id_ in zip(part, ids, strict=True))
            )
            told += [
                {"index": start + index, "replay_of": task_id, **answer}
                for index, (task_id, answer) in enumerate(zip(part, answers, strict=True))
            ]
        done = Carried(
            picked=picked,
            tasks=told,
            position=max((task["position"] for task in told if "position" in task), default=started.position),
            replay_id=accepted.aggregate_id,
            correlation_id=accepted.correlation_id,
            repeated=accepted.repeated,
        )
        return _answer(spec, command, done)


def _answer(spec: CommandSpec, command: StartReplay, done: Carried) -> dict[str, Any]:
    assert spec.answer is not None
    return dict(spec.answer(command, done))
