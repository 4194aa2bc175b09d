"""The same query `?at=` an earlier position answers what it answered then, for each of them, over random histories."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from adapters.memory.log import MemoryLog
from adapters.sql.store import SqlStore
from adapters.sql.views import SqlViews
from core.actions import registry as make_registry
from core.agent import RemoveAgent, RetireAgent, SpawnAgent, StartAgent, StopAgent
from core.kernel.codec import Codec
from core.kernel.command_bus import Caller, CommandBus
from core.kernel.errors import HivebusError, NotFound
from core.kernel.registry import QuerySpec
from core.services.recorder import Recorder
from core.task import (
    FINAL,
    AssignTask,
    CancelTask,
    CompleteTask,
    ExpireTask,
    FailTask,
    ProgressTask,
    QueueTask,
    StartTask,
    SubmitTask,
    Task,
)
from projections.catalogue import QUERIES, VIEWS
from tests.accept.script import Figures, Options, expect, main, note


class SteppingClock:
    """Time that moves only when told to."""

    def __init__(self) -> None:
        self.ms = 1_800_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000

    async def sleep(self, seconds: float) -> None:
        self.ms += int(seconds * 1000)
        await asyncio.sleep(0)


class History:
    """Random commands through the real deciders onto a log."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = SteppingClock()
        self.registry = make_registry(QUERIES)
        self.codec = Codec(self.registry)
        self.log = MemoryLog()
        self.bus = CommandBus(self.log, self.registry, self.codec, self.clock, _NoMemory())
        self.tasks: list[str] = []
        self.agents: list[str] = []

    async def grow(self, commands: int) -> None:
        """Issue so many random commands; what a decision refuses is part of the history."""
        for _ in range(commands):
            self.clock.ms += self.random.choice([0, 1, 7, 400, 61_000])
            command = await self._command()
            try:
                accepted = await self.bus.execute(command, Caller(actor=self.random.choice(["key:a", "key:b"])))
            except HivebusError:
                continue
            if isinstance(command, SubmitTask):
                self.tasks.append(accepted.aggregate_id)
            elif isinstance(command, SpawnAgent):
                self.agents.append(accepted.aggregate_id)

    async def _command(self) -> Any:
        draw = self.random
        if not self.agents or draw.random() < 0.04:
            return SpawnAgent(type=draw.choice(["shell", "python"]), slots=draw.randint(1, 3))
        if not self.tasks or draw.random() < 0.25:
            return SubmitTask(
                type=draw.choice(["a", "b", "c"]),
                executor="command",
                parameters={"argv": ["true"]},
                requires=draw.choice([[], ["shell"], ["gpu"]]),
                priority=draw.randint(0, 9),
            )
        if draw.random() < 0.15:
            return self._about_agent(draw.choice(self.agents))
        task_id = draw.choice(self.tasks[-12:])
        return self._about_task(task_id, await self.bus.load("task", task_id))

    def _about_agent(self, agent_id: str) -> Any:
        session = self.random.choice(["s1", "s2"])
        return self.random.choice(
            [
                StartAgent(agent_id=agent_id, host_id="h", session=session, term=1),
                StopAgent(agent_id=agent_id, session=session, reason="test"),
                RetireAgent(agent_id=agent_id),
                RemoveAgent(agent_id=agent_id),
            ]
        )

    def _about_task(self, task_id: str, task: Task) -> Any:
        agent_id, fence = self.random.choice(self.agents), task.fence
        now = self.clock.ms
        choices: dict[str, list[Any]] = {
            "queued": [AssignTask(task_id=task_id, agent_id=agent_id, host_id="h", session="s1", term=1)] * 4,
            "scheduled": [QueueTask(task_id=task_id)],
            "assigned": [StartTask(task_id=task_id, fence=fence, started_ms=now)] * 2,
            "running": [ProgressTask(task_id=task_id, fence=fence, progress=self.random.random(), current_step="x")],
        }
        ends = [
            CompleteTask(task_id=task_id, fence=fence, started_ms=now - 5, result={"exit_code": 0, "stdout": "ok"}),
            FailTask(task_id=task_id, fence=fence, outcome="failed", error="no", started_ms=now - 3),
            FailTask(task_id=task_id, fence=fence - 1, outcome="timed_out", error="late"),
            ExpireTask(task_id=task_id, fence=fence, outcome="lease_expired", error="gone"),
        ]
        return self.random.choice([*choices.get(task.status, []), *ends, CancelTask(task_id=task_id)])


class _NoMemory:
    async def remembered(self, command_id: Any) -> None:
        return None


class Asked:
    """A fixed set of questions, asked as of now and as of a position."""

    def __init__(self, history: History, views: SqlViews, store: SqlStore) -> None:
        self._views = views
        self._store = store
        questions: list[tuple[str, dict[str, Any]]] = [
            ("task.list", {}),
            ("task.list", {"limit": 3, "offset": 2}),
            *(("task.list", {"status": status}) for status in (*sorted(FINAL), "queued", "running", "assigned")),
            *(("task.list", {"agent_id": agent_id}) for agent_id in history.agents[:3]),
            ("task.list", {"type": "a"}),
            *(("task.show", {"task_id": task_id}) for task_id in history.tasks),
            ("agent.list", {}),
            ("agent.list", {"status": "busy"}),
            ("agent.list", {"status": "retired"}),
            *(("agent.show", {"agent_id": agent_id}) for agent_id in history.agents),
            ("agent.assignments", {}),
            ("queue.show", {}),
        ]
        self.questions: list[tuple[QuerySpec, Any]] = [
            (history.registry.queries[name], msgspec.convert(fields, history.registry.queries[name].struct))
            for name, fields in questions
        ]

    async def answers(self, at: int | None, position: int) -> list[str]:
        """All answers as text; the time that ages are measured against is the position's."""
        now_ms = await self._store.recorded_ms(position) or 0
        found = []
        async with self._views.reader(at=at, now_ms=now_ms) as reader:
            for spec, query in self.questions:
                try:
                    answer = await spec.read(query, reader)
                except NotFound as error:
                    answer = error.as_problem()
                found.append(msgspec.json.encode(answer, order="deterministic").decode())
        return found


async def _history(seed: int, commands: int, folder: Path) -> tuple[int, int]:
    """One random history; (positions, answers compared)."""
    history = History(seed)
    await history.grow(commands)
    store = await SqlStore.open(folder / f"store{seed}.db")
    views = await SqlViews.open(folder / f"views{seed}.db", VIEWS)
    try:
        end = await history.log.head()
        await _record(history, store, end)
        asked = Asked(history, views, store)
        then: dict[int, list[str]] = {}
        position = 0
        while position < end:
            step = history.random.choice([1, 1, 1, 2, 5])
            batch = await store.read(after=position, limit=step)
            commits = [history.codec.decode(stored.entry) for stored in batch]
            position = batch[-1].entry.position
            await views.apply(commits, position)
            then[position] = await asked.answers(None, position)
        for seen, answers in then.items():
            again = await asked.answers(seen, seen)
            for (spec, query), first, second in zip(asked.questions, answers, again, strict=True):
                expect(
                    first == second, f"seed {seed}, position {seen}: {spec.name} {query}\n then {first}\n now  {second}"
                )
        return len(then), len(then) * len(asked.questions)
    finally:
        await views.close()
        await store.close()


async def _record(history: History, store: SqlStore, end: int) -> None:
    done = asyncio.Event()

    def reached(position: int) -> None:
        if position >= end:
            done.set()

    recorder = Recorder(history.log, store, history.codec, history.clock, batch_max=7, on_recorded=reached)
    task = asyncio.create_task(recorder.run())
    async with asyncio.timeout(60):
        await done.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def run(options: Options) -> Figures:
    """Random histories; every answer as of every seen position equals the answer given then."""
    histories, commands = options.count(12, 4), options.count(180, 80)

    async def all_of_them() -> tuple[int, int]:
        positions = answers = 0
        with tempfile.TemporaryDirectory() as folder:
            for index in range(histories):
                seen, compared = await _history(options.seed + index, commands, Path(folder))
                positions, answers = positions + seen, answers + compared
                note(f"history {index + 1}/{histories}: {seen} positions, {compared} answers equal")
        return positions, answers

    positions, answers = asyncio.run(all_of_them())
    return {"histories": histories, "commands_each": commands, "positions": positions, "answers_equal": answers}


if __name__ == "__main__":
    main("as-of", run)
