"""How tests speak: given these events, when this command, then those events. And a clock that moves when it is told."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from msgspec import Struct
from sqlalchemy import Select

from adapters.sql.views import SqlReader, SqlViews
from core.actions import AGGREGATES, registry
from core.agent import AgentSpawned, AgentStarted
from core.host import HostRegistered
from core.kernel.codec import Codec
from core.kernel.command_bus import Caller
from core.kernel.commit import Commit, Entry, Event, Moment, commit_id_of, fingerprint_of, subject_of
from core.kernel.errors import HivebusError
from core.kernel.ids import derive
from core.kernel.outcomes import CommandUnchanged
from core.kernel.registry import CommandSpec, Context
from core.projection import Row, View
from core.task import Retry, SubmitTask, TaskAssigned, TaskSubmitted

NOW_MS = 1_800_000_000_000
DEADLINE_S = 10.0
ROOT = UUID("01a31c2b-0000-7000-8000-000000000000")
CORRELATION = "01a31c2b-c000-7000-8000-000000000000"

REGISTRY = registry()
CODEC = Codec(REGISTRY)


def command_id(number: int) -> UUID:
    """The id of the n-th command of a test."""
    return UUID(int=ROOT.int + number)


def caller(number: int = 1, *, actor: str = "ada", **more: Any) -> Caller:
    """Somebody who sends the n-th command."""
    return Caller(actor=actor, command_id=command_id(number), **more)


# --- builders ---------------------------------------------------------------------------------------------------------


def submit(**changed: Any) -> SubmitTask:
    """A command that a fresh system takes."""
    given_fields: dict[str, Any] = {"type": "greet", "agent_type": "shell", "parameters": {"argv": ["true"]}}
    return SubmitTask(**(given_fields | changed))


def submitted(**changed: Any) -> TaskSubmitted:
    """What `submit()` leads to."""
    fields: dict[str, Any] = {
        "type": "greet",
        "executor": "command",
        "parameters": {"argv": ["true"]},
        "requires": [],
        "priority": 5,
        "timeout_s": 60.0,
        "retry": Retry(),
        "project": "default",
        "agent_type": "shell",
    }
    return TaskSubmitted(**(fields | changed))


def assigned(**changed: Any) -> TaskAssigned:
    """An assignment to agent `a` on the first session of host `h`."""
    fields: dict[str, Any] = {"agent_id": "a", "host_id": "h", "session": "s1", "term": 1, "attempt": 1}
    return TaskAssigned(**(fields | changed))


def spawned(**changed: Any) -> AgentSpawned:
    """A shell agent with one slot."""
    fields: dict[str, Any] = {
        "type": "shell",
        "name": "shelly",
        "executor": "command",
        "capabilities": ["shell"],
        "slots": 1,
    }
    return AgentSpawned(**(fields | changed))


def started(**changed: Any) -> AgentStarted:
    """The agent lives on the first session of host `h`."""
    return AgentStarted(**({"host_id": "h", "session": "s1", "term": 1} | changed))


def registered(**changed: Any) -> HostRegistered:
    """The first session of a host that runs programs and functions, with room for eight."""
    fields: dict[str, Any] = {"name": "box", "session": "s1", "executors": ["command", "python"], "slots": 8}
    return HostRegistered(**(fields | changed))


# --- given, when, then ------------------------------------------------------------------------------------------------


def fold(noun: str, events: Iterable[Event], *, after: Any = None, position: int = 0, now_ms: int = NOW_MS) -> Any:
    """The state after events, each a commit of its own: the n-th stands at position n."""
    evolve = REGISTRY.aggregates[noun].evolve
    for place, event in enumerate(events, position + 1):
        after = evolve(after, event, Moment(place, now_ms, CORRELATION))
    return after


def given(*events: Event) -> Given:
    """Events of one aggregate, each a commit of its own, at the positions 1, 2, 3..."""
    return Given(events)


class Given:
    """A history."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events

    def when(self, command: Struct, *, now_ms: int = NOW_MS, number: int = 1, actor: str = "ada") -> When:
        """Decide a command about it."""
        spec = REGISTRY.command_of(command)
        context = Context(now_ms, str(derive(command_id(number), spec.noun)), command_id(number), actor, CORRELATION)
        return When(spec, command, fold(spec.noun, self.events), context, len(self.events))


class When:
    """A decision, not yet taken."""

    def __init__(self, spec: CommandSpec, command: Struct, state: Any, context: Context, position: int) -> None:
        self._spec = spec
        self._command = command
        self._state = state
        self._context = context
        self._position = position

    def then(self, *events: Event) -> Any:
        """It decides exactly these; the state after them."""
        assert list(self._spec.decide(self._command, self._state, self._context)) == list(events)
        return fold(self._spec.noun, events, after=self._state, position=self._position)

    def then_raises(self, error: type[HivebusError], *, code: str, pointer: str | None = None) -> HivebusError:
        """It says no, with this code; the error."""
        with pytest.raises(error) as caught:
            self._spec.decide(self._command, self._state, self._context)
        assert (type(caught.value), caught.value.code, caught.value.pointer) == (error, code, pointer)
        return caught.value


# --- a history of many aggregates -------------------------------------------------------------------------------------


class History:
    """Commits as the log would hold them, through the real codec, and the real deciders to make more of them."""

    def __init__(self, *, now_ms: int = NOW_MS) -> None:
        self.now_ms = now_ms
        self.entries: list[Entry] = []
        self.commits: list[Commit] = []
        self.states: dict[tuple[str, str], Any] = {}
        self._versions: dict[str, int] = {}
        self._numbers = count(1)

    @property
    def head(self) -> int:
        """The last position."""
        return len(self.entries)

    def commit(self, noun: str, aggregate_id: str, *events: Event, command: str = "test", actor: str = "ada") -> Commit:
        """Append one commit of these events."""
        number = next(self._numbers)
        subject = subject_of(noun, aggregate_id)
        version = self._versions[subject] = self._versions.get(subject, 0) + 1
        key = command_id(number)
        body = CODEC.encode(
            id=str(commit_id_of(key)),
            command=command,
            command_id=str(key),
            fingerprint=fingerprint_of(command, number),
            actor=actor,
            correlation_id=CORRELATION,
            causation_id=str(key),
            occurred_at=self.now_ms,
            version=version,
            events=events,
        )
        self.entries.append(Entry(self.head + 1, subject, str(commit_id_of(key)), body))
        made = CODEC.decode(self.entries[-1])
        self.commits.append(made)
        if noun in REGISTRY.aggregates:
            for event in made.events:
                if not isinstance(event, CommandUnchanged):
                    state = self.states.get((noun, aggregate_id))
                    self.states[noun, aggregate_id] = REGISTRY.aggregates[noun].evolve(state, event, made.moment)
        return made

    def execute(self, command: Struct) -> Commit | None:
        """Decide a command and append what it decides, None where that is nothing. Raises what the decision raises."""
        spec = REGISTRY.command_of(command)
        key = command_id(1_000_000 + self.head)
        aggregate_id = str(derive(key, spec.noun)) if spec.creates else getattr(command, spec.target or "")
        context = Context(self.now_ms, aggregate_id, key, "ada", CORRELATION)
        events = spec.decide(command, self.states.get((spec.noun, aggregate_id)), context)
        return self.commit(spec.noun, aggregate_id, *events, command=spec.name) if events else None


# --- views ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def projected(path: Path, views: Sequence[View], history: History) -> AsyncIterator[SqlViews]:
    """Views in a file that have folded a history."""
    opened = await SqlViews.open(path / "views.db", views)
    try:
        await opened.apply(history.commits, history.head)
        yield opened
    finally:
        await opened.close()


async def ask(
    views: SqlViews, read: Callable[[Any, SqlReader], Any], query: Struct, *, at: int | None = None, now_ms: int = NOW_MS
) -> Any:
    """The answer to a query, as of now or of a position."""
    async with views.reader(at=at, now_ms=now_ms) as reader:
        return await read(query, reader)


async def rows_of(views: SqlViews, statement: Select[Any]) -> list[Row]:
    """The rows of a statement, as plain dicts."""
    async with views.reader(at=None, now_ms=NOW_MS) as reader:
        return [dict(row) for row in await reader.rows(statement)]


# --- time -------------------------------------------------------------------------------------------------------------


class ManualClock:
    """A clock that stands until it is moved; whoever sleeps on it wakes when its time has come."""

    def __init__(self, now_ms: int = NOW_MS) -> None:
        self._start_ms = now_ms
        self._passed_s = 0.0
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return self._start_ms + round(self._passed_s * 1000)

    def monotonic(self) -> float:
        return self._passed_s

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._passed_s + seconds, next(self._order), future))
        await future

    @property
    def sleeping(self) -> int:
        """How many wait for this clock."""
        return sum(not future.done() for _, _, future in self._sleepers)

    def advance(self, seconds: float) -> None:
        """Move on."""
        self._passed_s += seconds
        while self._sleepers and self._sleepers[0][0] <= self._passed_s:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)


async def until(condition: Callable[[], bool], what: str = "the condition") -> None:
    """Let the loop turn until something holds; an AssertionError after the deadline."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_S
    while not condition():
        assert loop.time() < deadline, f"{what} did not come within {DEADLINE_S} s"
        await asyncio.sleep(0)


async def quiet(turns: int = 50) -> None:
    """Let everything run that can run without time passing: for what must not happen."""
    for _ in range(turns):
        await asyncio.sleep(0)


@asynccontextmanager
async def running(*services: Any) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Loops that run inside the block; one that ends by an error fails the test, unless it was awaited there."""
    tasks = [asyncio.create_task(service) for service in services]
    try:
        yield tasks
    finally:
        failed = [task.exception() for task in tasks if task.done() and not task.cancelled()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for error in failed:
        if error is not None:
            raise error


ALL_EVENTS = {spec.name: spec for aggregate in AGGREGATES for spec in aggregate.events.values()}
