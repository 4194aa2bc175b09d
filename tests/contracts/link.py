"""What every link between a scheduler and its hosts promises. A link's test file is a subclass with one fixture."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import Struct

from adapters.clock import SystemClock
from adapters.memory.log import MemoryLog
from adapters.memory.store import MemoryStore
from core.agent import SpawnAgent
from core.host import FirstAgent, LeaveHost, LoseHost, RegisterHost
from core.kernel.command_bus import Accepted, Caller, CommandBus
from core.kernel.errors import Forbidden, Invalid, NotFound, Refused, TooLarge, Unavailable
from core.kernel.ids import uuid7
from core.services.agent_host import AgentHost
from core.services.host_door import HostDoor
from core.services.link import Beat, BeatAnswer, Cancel, Control, Gateway, Run
from core.task import CompleteTask, StartTask
from tests.given import CODEC, REGISTRY, HandExecutor, running, submit, until

HOST = "h"
SESSION = "s.1"


def an_order(host: AgentHost, task_id: str = "t", **changed: Any) -> Run:
    fields: dict[str, Any] = {
        "task_id": task_id,
        "fence": 7,
        "term": 3,
        "session": host.session,
        "agent_id": "a",
        "attempt": 1,
        "type": "greet",
        "executor": "command",
        "parameters": {"argv": ["true"], "text": "ü 🐝"},
        "timeout_s": 60.0,
        "correlation_id": "c",
    }
    return Run(**(fields | changed))


def registration(**changed: Any) -> RegisterHost:
    fields: dict[str, Any] = {
        "host_id": HOST,
        "name": "box",
        "session": SESSION,
        "executors": ["command"],
        "slots": 4,
    }
    return RegisterHost(**(fields | changed))


class Bench:
    """A bus over a log in memory, and a scheduler that answers beats as it is told to."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.clock = SystemClock()
        self.bus = CommandBus(self.log, REGISTRY, CODEC, self.clock, MemoryStore())
        self.door = HostDoor(self.bus, REGISTRY)
        self.leading = True
        self.heard: list[Beat] = []
        self.answer = BeatAnswer(alive=True, term=3, lease_s=20.0)
        self.problem: Exception | None = None

    async def beat(self, beat: Beat) -> BeatAnswer:
        """What core.services.scheduler.Scheduler.beat promises."""
        if not self.leading:
            raise Unavailable("No scheduler leads yet.", code="no_leader", retry_after_s=1)
        self.heard.append(beat)
        return self.answer

    async def does(self, command: Struct) -> Accepted:
        return await self.bus.execute(command, Caller(actor="ada"))


class Link(Struct):
    """Both ends: what a host holds, and what a scheduler holds. `join` connects a host to the scheduler's end."""

    bench: Bench
    control: Control
    gateway: Gateway
    join: Any


class LinkContract:
    """Subclasses give the fixture `link`."""

    @pytest.fixture
    async def host(self, link: Link) -> AsyncIterator[tuple[AgentHost, HandExecutor]]:
        """A host that lives at the far end."""
        hand = HandExecutor()
        host = AgentHost(HOST, "box", {"command": hand}, link.control, link.bench.clock, beat_s=0.2)
        await link.join(host)
        async with running(host.live()):
            await until(lambda: bool(link.bench.heard), "the first beat")
            yield host, hand

    # Commands

    async def test_a_command_is_answered_with_the_position_of_its_commit(self, link: Link) -> None:
        position = await link.control.execute(registration(), correlation_id="c", cause=0)
        entry = await link.bench.log.entry(position)
        assert entry is not None
        commit = CODEC.decode(entry)
        assert (commit.noun, commit.aggregate_id, commit.body.actor) == ("host", HOST, f"host:{HOST}")
        assert commit.body.correlation_id == "c"

    async def test_the_same_command_id_is_the_same_commit(self, link: Link) -> None:
        command_id = str(uuid7())
        await link.control.execute(registration(), correlation_id="c")
        leave = LeaveHost(host_id=HOST, session=SESSION)
        first = await link.control.execute(leave, correlation_id="c", command_id=command_id)
        assert await link.control.execute(leave, correlation_id="c", command_id=command_id) == first
        assert await link.bench.log.head() == first

    async def test_a_host_brings_its_agents_once(self, link: Link) -> None:
        agents = (FirstAgent("shell", "shell@box", 2), FirstAgent("python", "python", 8))
        for number in (1, 2):
            await link.control.execute(registration(session=f"s.{number}", agents=agents), correlation_id="c")
        commits = [CODEC.decode(entry) for n in range(1, 10) if (entry := await link.bench.log.entry(n)) is not None]
        spawned = [event for commit in commits if commit.noun == "agent" for event in commit.events]
        assert [(event.type, event.name, event.slots) for event in spawned] == [
            ("shell", "shell@box", 2),
            ("python", "python", 8),
        ]

    async def test_a_refusal_is_the_same_error_at_the_far_end(self, link: Link) -> None:
        task_id = (await link.bench.does(submit())).aggregate_id
        done = CompleteTask(task_id=task_id, fence=99, started_ms=1, result={})
        with pytest.raises(Refused) as refused:
            await link.control.execute(done, correlation_id="c")
        assert refused.value.code == "stale_fence"
        assert refused.value.sentence.startswith("Fence 99 does not hold this task any more")
        assert refused.value.remedy == "Stop the attempt; what it did is not accepted."

    async def test_what_the_log_does_not_know_is_not_found(self, link: Link) -> None:
        with pytest.raises(NotFound) as unknown:
            await link.control.execute(StartTask(task_id="nobody", fence=1, started_ms=1), correlation_id="c")
        assert unknown.value.code == "unknown_task"

    @pytest.mark.parametrize(
        "command",
        [
            SpawnAgent(type="shell"),
            LoseHost(host_id=HOST, session=SESSION, reason="x"),
            registration(host_id="another"),
            LeaveHost(host_id="another", session=SESSION),
        ],
        ids=["of a client", "of the scheduler", "registers another", "leaves for another"],
    )
    async def test_what_a_host_may_not_say_is_forbidden_and_leaves_nothing(self, link: Link, command: Struct) -> None:
        with pytest.raises(Forbidden):
            await link.control.execute(command, correlation_id="c")
        assert await link.bench.log.head() == 0

    async def test_a_result_that_no_commit_can_hold_is_too_large(self, link: Link) -> None:
        task_id = (await link.bench.does(submit())).aggregate_id
        for size in (300_000, 2_000_000):
            done = CompleteTask(task_id=task_id, fence=99, started_ms=1, result={"text": "x" * size})
            with pytest.raises((TooLarge, Refused)) as error:
                await link.control.execute(done, correlation_id="c")
            assert isinstance(error.value, Refused | Invalid)
        assert await link.bench.log.head() >= 1

    async def test_many_commands_at_once_are_all_answered(self, link: Link) -> None:
        sessions = [registration(session=f"s.{number}") for number in range(100)]
        positions = await asyncio.gather(*(link.control.execute(s, correlation_id="c") for s in sessions))
        assert sorted(positions) == list(range(1, 101))

    # Beats

    async def test_a_beat_reaches_the_scheduler_whole_and_its_answer_the_host(self, link: Link) -> None:
        beat = Beat(host_id=HOST, session=SESSION, registered_at=4, running=(("t", 7), ("u", 9)))
        run = Run(
            task_id="t",
            fence=7,
            term=3,
            session=SESSION,
            agent_id="a",
            attempt=2,
            type="greet",
            executor="command",
            parameters={"argv": ["x"], "env": {"A": {"secret": "NAME"}}},
            timeout_s=1.5,
            correlation_id="c",
        )
        link.bench.answer = BeatAnswer(
            alive=True, term=3, lease_s=20.0, run=(run,), cancel=(Cancel("u", 9, 5.0),), void=(("v", 1),)
        )
        assert await link.control.beat(beat) == link.bench.answer
        assert link.bench.heard == [beat]

    async def test_while_nobody_leads_a_beat_is_unavailable(self, link: Link) -> None:
        link.bench.leading = False
        beat = Beat(host_id=HOST, session=SESSION, registered_at=4, running=())
        with pytest.raises(Unavailable):
            await link.control.beat(beat)
        link.bench.leading = True
        assert (await link.control.beat(beat)).alive

    async def test_what_must_run_reaches_the_host_though_it_is_more_than_one_message_holds(self, link: Link) -> None:
        beat = Beat(host_id=HOST, session=SESSION, registered_at=4, running=())
        large = tuple(
            Run(
                task_id=f"t{number}",
                fence=number,
                term=3,
                session=SESSION,
                agent_id="a",
                attempt=1,
                type="greet",
                executor="command",
                parameters={"stdin": "x" * 250_000},
                timeout_s=1.0,
                correlation_id="c",
            )
            for number in range(1, 9)
        )
        link.bench.answer = BeatAnswer(alive=True, term=3, run=large)
        got: list[Run] = []
        while len(got) < len(large):
            link.bench.answer = BeatAnswer(alive=True, term=3, run=large[len(got) :])
            answer = await link.control.beat(beat)
            assert answer.run, "a beat that brings nothing more"
            got += answer.run
        assert tuple(got) == large

    # From the scheduler to the host

    async def test_an_order_reaches_its_host(self, link: Link, host: tuple[AgentHost, HandExecutor]) -> None:
        agent_host, hand = host
        order = an_order(agent_host)
        link.gateway.run(HOST, order)
        link.gateway.run("nobody", an_order(agent_host, "u"))
        await until(lambda: len(hand.going) == 1, "the attempt")
        assert hand.going[0].attempt.parameters == order.parameters
        assert agent_host.running == 1

    async def test_a_cancel_reaches_its_host(self, link: Link, host: tuple[AgentHost, HandExecutor]) -> None:
        agent_host, hand = host
        link.gateway.run(HOST, an_order(agent_host))
        await until(lambda: len(hand.going) == 1, "the attempt")
        link.gateway.cancel(HOST, Cancel("t", 6, 1.0))
        link.gateway.cancel(HOST, Cancel("t", 7, 2.5))
        await until(hand.going[0].token.cancelled.is_set, "the cancel")
        assert (hand.going[0].token.reason, hand.going[0].token.grace_s) == ("cancelled", 2.5)
