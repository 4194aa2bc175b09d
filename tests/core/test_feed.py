from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given as when_given
from hypothesis import settings
from hypothesis import strategies as st

from core.agent import AgentSpawned
from core.kernel.commit import Event
from core.kernel.errors import TooMany, Unavailable
from core.kernel.ports import Stored
from core.services import groups
from core.services.told import Filter
from core.task import TaskAssigned, TaskCancelled, TaskCompleted, TaskFailed, TaskProgressed, TaskQueued
from core.task.events import AttemptEnded
from tests.core.feeding import Client, World, framed, framed_otherwise, small_bounds
from tests.given import CORRELATION, assigned, quiet, running, spawned, submitted, until

TASKS, AGENTS = ("0a", "0b"), ("a1", "a2")
FILTERS = (
    Filter(),
    Filter(noun="task"),
    Filter(noun="agent", verb="spawned"),
    Filter(verb="queued"),
    Filter(id="0a"),
    Filter(id="0a", type="hivebus.task.assigned"),
    Filter(agent="a1"),
    Filter(agent="a2", verb="progressed"),
    Filter(correlation_id=CORRELATION, type="task.queued"),
    Filter(correlation_id="another"),
    Filter(id="nobody"),
)


def ended(**changed: Any) -> AttemptEnded:
    return AttemptEnded(**{"fence": 1, "agent_id": "a1", "outcome": "failed", "error": "no"} | changed)


@st.composite
def commits(draw: st.DrawFn) -> tuple[str, str, tuple[Event, ...]]:
    if draw(st.integers(0, 3)) == 0:
        return "agent", draw(st.sampled_from(AGENTS)), (spawned(),)
    agent = draw(st.sampled_from(AGENTS))
    fence = draw(st.integers(0, 12))
    events = draw(
        st.sampled_from(
            [
                (submitted(), TaskQueued()),
                (assigned(agent_id=agent),),
                (TaskProgressed(fence=fence),),
                (ended(agent_id=agent), TaskFailed(error="no", outcome="failed")),
                (TaskCompleted(fence=fence, agent_id=agent, started_ms=1, result={}),),
                (TaskCancelled(),),
            ]
        )
    )
    return "task", draw(st.sampled_from(TASKS)), events


steps = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), commits(), st.integers(0, 5)),
        st.tuples(st.just("subscribe"), st.sampled_from(FILTERS), st.none() | st.floats(0, 1)),
        st.tuples(st.sampled_from(["pause", "go on", "leave", "come back"]), st.integers(0, 7), st.none()),
        st.tuples(st.just("turns"), st.integers(1, 12), st.none()),
    ),
    max_size=40,
)


async def lived(steps: list[tuple[str, Any, Any]]) -> tuple[World, list[Client]]:
    """A world after these steps, everybody being told everything in the end."""
    world = World()
    clients: list[Client] = []
    async with running(world.feed.run()):
        for step, what, how in steps:
            if step == "commit":
                noun, aggregate_id, events = what
                await world.record(noun, aggregate_id, *events, park=how == 0, hear=how > 1)
            elif step == "turns":
                await quiet(what)
            elif step == "subscribe":
                clients.append(Client(world, what, None if how is None else round(how * world.position)))
            elif clients:
                client = clients[what % len(clients)]
                match step:
                    case "pause":
                        client.ready = False
                    case "go on":
                        client.ready = True
                    case "leave":
                        client.leave()
                    case _:
                        client.come_back()
        for client in clients:
            client.ready = True
            client.come_back()
        await until(lambda: all(client.position == world.position for client in clients), "everybody to know the end")
        await quiet()
    return world, clients


@settings(max_examples=300)
@when_given(steps)
def test_each_subscriber_is_told_exactly_what_the_store_holds_for_it_in_order(
    steps: list[tuple[str, Any, Any]],
) -> None:
    with small_bounds():
        world, clients = asyncio.run(lived(steps))
    for client in clients:
        assert client.events == world.matching(client.filter, client.began)


async def test_all_live_subscribers_of_a_filter_get_the_very_same_frame() -> None:
    world = World()
    async with running(world.feed.run()):
        clients = [Client(world, Filter(noun="task"), None) for _ in range(3)]
        other = Client(world, Filter(id="0b"), None)
        await world.record("task", "0a", submitted())
        await until(lambda: all(client.frames for client in clients))
        await world.record("task", "0a", TaskQueued())
        await until(lambda: all(len(client.frames) == 2 for client in clients))
        assert clients[0].frames[1] is clients[1].frames[1] is clients[2].frames[1]
        assert other.events == []
    assert clients[0].events == [(1, 0), (2, 0)]


async def test_who_is_live_is_told_how_far_nothing_was_for_it() -> None:
    world = World()
    async with running(world.feed.run()):
        client = Client(world, Filter(id="nobody"), None)
        await world.record("task", "0a", submitted())
        await world.record("task", "0a", TaskQueued())
        await until(lambda: client.position == 2)
    assert client.events == []


async def test_two_ways_out_of_one_filter_have_frames_of_their_own_and_one_subscription_id() -> None:
    world = World()
    client = Client(world, Filter(type="hivebus.task.queued"), None)
    again = world.feed.subscribe(Filter(type="task.queued"), None, client, framed)
    other = world.feed.subscribe(Filter(type="task.queued"), None, client, framed_otherwise)
    assert client.subscription is not None
    assert client.subscription.id == again.id == other.id
    assert client.subscription.group is again.group is not other.group
    assert Filter(id="x").subscription_id != Filter(noun="x").subscription_id


async def test_nothing_is_written_before_the_start_of_a_subscription() -> None:
    world = World()
    await world.record("task", "0a", submitted())
    async with running(world.feed.run()):
        told = Client(world, Filter(), 0)
        held = Client(world, Filter(), 0)
        held.leave()
        held.subscription = world.feed.subscribe(Filter(), 0, held, framed)
        await until(lambda: told.position == 1)
        await quiet()
        assert held.frames == []
        world.feed.start(held.subscription)
        await until(lambda: held.position == 1)
    assert held.events == [(1, 0)]


async def test_a_subscriber_that_takes_nothing_is_left_alone_and_holds_up_nobody() -> None:
    world = World()
    for _ in range(20):
        await world.record("task", "0a", submitted())
    async with running(world.feed.run()):
        stalled, well = Client(world, Filter(), 0), Client(world, Filter(), 0)
        stalled.ready = False
        await until(lambda: well.position == 20)
        await quiet()
        assert stalled.frames == []


async def test_a_position_ahead_of_the_store_is_waited_for() -> None:
    world = World()
    async with running(world.feed.run()):
        client = Client(world, Filter(), 2)
        for _ in range(3):
            await world.record("task", "0a", submitted())
        await until(lambda: client.position == 3)
    assert client.events == [(3, 0)]


async def test_the_events_of_a_task_that_name_its_agent() -> None:
    world = World()
    fence = await world.record("task", "0a", TaskAssigned("a1", "h", "s", 1, 1))
    await world.record("task", "0a", TaskProgressed(fence=fence))
    await world.record("task", "0b", TaskProgressed(fence=fence))
    await world.record("task", "0a", ended(fence=fence), TaskFailed(error="no", outcome="failed"))
    await world.record("task", "0a", TaskCancelled())
    await world.record("agent", "a1", AgentSpawned("shell", "one", "command", [], 1))
    async with running(world.feed.run()):
        client = Client(world, Filter(agent="a1"), 0)
        await until(lambda: client.position == 6)
    # The progress of another task with that fence is no progress of this agent.
    assert client.events == [(1, 0), (2, 0), (4, 0), (4, 1), (6, 0)]


async def test_a_store_that_is_away_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    away = True
    read = world.store.read

    async def sometimes(*, after: int, limit: int) -> list[Stored]:
        if away:
            raise Unavailable("The database is away.")
        return await read(after=after, limit=limit)

    world.store.read = sometimes  # type: ignore[method-assign]
    for _ in range(3):
        await world.record("task", "0a", submitted())
    async with running(world.feed.run()):
        client = Client(world, Filter(), 0)
        await until(lambda: "Subscribers wait: The database is away." in caplog.text)
        away = False
        await until(lambda: client.position == 3)
    assert client.events == [(1, 0), (2, 0), (3, 0)]


async def test_there_is_a_bound_on_different_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "GROUPS_MAX", 2)
    world = World()
    first = Client(world, Filter(id="1"), None)
    Client(world, Filter(id="2"), None)
    Client(world, Filter(id="2"), None)
    with pytest.raises(TooMany, match="2 different filters"):
        Client(world, Filter(id="3"), None)
    assert (world.feed.subscriptions, world.feed.groups) == (3, 2)
    first.leave()
    Client(world, Filter(id="3"), None)
    assert world.feed.groups == 2


async def test_a_large_past_comes_in_batches_that_end_with_a_commit() -> None:
    world = World()
    for _ in range(7):
        await world.record("task", "0a", submitted(), TaskQueued())
    with small_bounds():
        async with running(world.feed.run()):
            client = Client(world, Filter(), 0)
            await until(lambda: client.position == 7)
    assert len(client.frames) > 3
    assert all(json.loads(frame)[3][-1][1] == 1 for frame in client.frames)
    assert len(client.events) == 14
