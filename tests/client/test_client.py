"""The module `hivebus` against a server that breaks connections, is busy, and says no."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import hivebus
import pytest
from msgspec import Struct

from core.kernel import errors
from entrypoints.client.actions import fields_of
from entrypoints.client.connector import PAUSE_MAX_S, Pauses
from entrypoints.client.problems import error_of, error_of_rpc
from tests.client.peer import KEY, Peer, event, hang_up, refusal, say
from tests.given import until

GONE = "http://127.0.0.1:9"


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with Peer() as peer:
        yield peer


def bus_of(peer: Peer, **more: Any) -> hivebus.Bus:
    return hivebus.connect(peer.url, KEY, **more)


# --- calls ------------------------------------------------------------------------------------------------------------


async def test_a_command_whose_answer_is_lost_is_sent_again_under_the_same_key(peer: Peer) -> None:
    peer.next("task.submit", hang_up, hang_up)
    async with bus_of(peer) as bus:
        answer = await bus.submit(type="hello", parameters={})
    first, second, third = peer.calls("task.submit")
    assert first == second == third == answer["params"]
    assert len(first["idempotency_key"]) == 36
    assert peer.connections == 3


async def test_each_command_has_a_key_of_its_own_and_a_given_one_is_kept(peer: Peer) -> None:
    async with bus_of(peer) as bus:
        await asyncio.gather(*(bus.submit(type="hello", parameters={}) for _ in range(3)))
        await bus.execute(hivebus.CancelTask(task_id="t"), idempotency_key="mine")
        await bus.call("task.list", limit=5)
    assert len({call["idempotency_key"] for call in peer.calls("task.submit")}) == 3
    assert peer.calls("task.cancel") == [{"task_id": "t", "idempotency_key": "mine"}]
    assert peer.calls("task.list") == [{"limit": 5}]


async def test_an_action_that_this_version_does_not_know_is_not_sent_twice_without_a_key(peer: Peer) -> None:
    peer.next("swarm.scale", hang_up, hang_up)
    async with bus_of(peer) as bus:
        with pytest.raises(hivebus.OutcomeUnknown) as unknown:
            await bus.call("swarm.scale", replicas=3)
        assert "ended before swarm.scale was answered" in unknown.value.sentence
        assert len(peer.calls("swarm.scale")) == 1
        await bus.call("swarm.scale", replicas=3, idempotency_key="mine")
    assert len(peer.calls("swarm.scale")) == 3


async def test_a_busy_server_is_asked_again_when_it_says(peer: Peer) -> None:
    no_log = say(refusal(503, "log_unavailable", retry_after_s=0))
    peer.next("task.submit", say(refusal(429, "too_many", retry_after_s=0.01)), no_log)
    async with bus_of(peer) as bus:
        await bus.submit(type="hello", parameters={})
        assert len({call["idempotency_key"] for call in peer.calls("task.submit")}) == 1
        assert len(peer.calls("task.submit")) == 3
        peer.next("task.list", say(refusal(429, "too_many", retry_after_s=1000)))
        with pytest.raises(hivebus.TooMany) as busy:
            await bus.call("task.list")
    assert busy.value.retry_after_s == 1000


async def test_a_refusal_comes_with_its_class_code_sentence_remedy_and_pointer(peer: Peer) -> None:
    peer.next("task.submit", say(refusal(422, "literal_secret", field="/parameters/argv/1")))
    async with bus_of(peer) as bus:
        with pytest.raises(hivebus.Unprocessable) as refused:
            await bus.submit(hivebus.SubmitTask(type="hello", parameters={}))
    error = refused.value
    assert (error.status, error.code, error.sentence) == (422, "literal_secret", "It is literal_secret.")
    assert (error.remedy, error.pointer) == ("Wait.", "/parameters/argv/1")


async def test_a_key_that_is_not_known_is_told_at_once(peer: Peer) -> None:
    with pytest.raises(hivebus.Unauthenticated) as refused:
        async with hivebus.connect(peer.url, "hive_0_wrong"):
            pass
    assert (refused.value.code, refused.value.remedy) == ("unauthenticated", "Look.")


async def test_a_server_that_never_answered_is_told_at_once_and_one_that_went_away_after_the_patience(
    peer: Peer,
) -> None:
    with pytest.raises(hivebus.Unreachable, match=r"No server answers at ws://127.0.0.1:9/ws: .+"):
        async with hivebus.connect(GONE, KEY):
            pass
    async with bus_of(peer, patience_s=0.6) as bus:
        await peer.__aexit__(None, None, None)
        async with asyncio.timeout(10):
            with pytest.raises(hivebus.Unreachable, match="No server answers") as away:
                await bus.call("task.list")
        assert away.value.remedy
        await peer.__aenter__()
        assert (await bus.call("task.list"))["method"] == "task.list"


async def test_what_cannot_be_sent_is_told_before_it_is_sent(peer: Peer) -> None:
    async with bus_of(peer) as bus:
        with pytest.raises(hivebus.TooLarge):
            await bus.submit(type="hello", parameters={"text": "x" * 1024 * 1024})
        with pytest.raises(hivebus.Unprocessable, match="cannot be sent"):
            await bus.submit(type="hello", parameters={"value": object()})
        with pytest.raises(TypeError, match="Greeting is no command"):
            await bus.execute(Greeting())
    assert peer.calls("task.submit") == []
    with pytest.raises(hivebus.Unreachable, match="closed"):
        await bus.call("task.list")


@pytest.mark.parametrize("url", ["", "127.0.0.1:3001", "ftp://127.0.0.1"])
async def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises(hivebus.Invalid, match="no address of a server"):
        async with hivebus.connect(url, KEY):
            pass


class Greeting(Struct):
    """No command of ours."""


# --- events -----------------------------------------------------------------------------------------------------------


async def take(events: hivebus.Events, count: int) -> list[str]:
    taken: list[str] = []
    async for item in events:
        taken.append(item["id"])
        if len(taken) == count:
            break
    return taken


async def test_events_come_in_order_each_once_through_broken_connections(peer: Peer) -> None:
    peer.hang_up_after.extend([2, 1, 3])
    await peer.append(*([event(position)] for position in range(1, 9)))
    async with bus_of(peer) as bus:
        events = bus.events(after=0, noun="task")
        assert await take(events, 8) == [f"{position}/0" for position in range(1, 9)]
    asked = peer.calls("events/subscribe")
    assert [call["after"] for call in asked] == [0, 2, 3, 6]
    assert {str(call["filter"]) for call in asked} == {"{'noun': 'task'}"}


async def test_a_batch_that_repeats_what_was_handed_out_repeats_nothing(peer: Peer) -> None:
    await peer.append(*([event(position)] for position in range(1, 5)))
    peer.next("events/subscribe", say({"result": {"subscription_id": "s", "position": 0}}))
    async with bus_of(peer) as bus:
        events = bus.events(after=2)
        assert await take(events, 2) == ["3/0", "4/0"]


async def test_the_position_passes_a_commit_with_its_last_event_and_goes_on_where_a_loop_was_left(peer: Peer) -> None:
    peer.batch = 10
    await peer.append([event(1)], [event(2), event(2, 1)], [event(3)])
    async with bus_of(peer) as bus:
        events = bus.events(after=0)
        positions = []
        async for item in events:
            positions.append((item["id"], events.position))
            if item["id"] == "2/0":
                break
        async for item in events:
            positions.append((item["id"], events.position))
            if item["id"] == "3/0":
                break
    assert positions == [("1/0", 1), ("2/0", 1), ("2/1", 2), ("3/0", 3)]


async def test_a_position_moves_on_over_what_the_filter_leaves_out(peer: Peer) -> None:
    peer.hang_up_after.append(1)
    peer.batch = 10
    await peer.append([event(1)], [], [], [])
    async with bus_of(peer) as bus:
        events = bus.events(after=0)
        taking = asyncio.create_task(take(events, 2))
        async with asyncio.timeout(10):
            await until(lambda: len(peer.calls("events/subscribe")) == 2, "the second subscription")
        assert events.position == 4
        await peer.append([event(5)])
        assert await taking == ["1/0", "5/0"]


async def test_a_subscription_that_is_refused_says_so(peer: Peer) -> None:
    peer.next("events/subscribe", say(refusal(422, "unknown_field", field="/filter/color")))
    async with bus_of(peer) as bus:
        with pytest.raises(hivebus.Unprocessable):
            await take(bus.events(), 1)


# --- ends of tasks ----------------------------------------------------------------------------------------------------


async def test_a_result_that_came_before_the_wait_began_is_not_missed(peer: Peer) -> None:
    """The first look finds it running at position 1; the end stands at 2 when the stream begins."""

    def shown(status: str, position: int) -> Any:
        return say({"result": {"id": "t", "status": status, "position": position}})

    await peer.append([event(1)], [event(2, type_="task.completed")])
    peer.next("task.show", shown("running", 1), shown("running", 1), shown("completed", 2))
    async with bus_of(peer) as bus, asyncio.timeout(10):
        task = await bus.result("t")
        assert task["status"] == "completed"
        assert [call.get("min_position") for call in peer.calls("task.show")] == [None, 1, 2]
        peer.next("task.show", *[shown("running", 2)] * 2)
        with pytest.raises(hivebus.NotYet) as late:
            await bus.result("t", timeout_s=0.2)
        assert "has not ended within" in late.value.sentence


async def test_whoever_still_waits_when_the_bus_is_closed_is_told(peer: Peer) -> None:
    peer.next("task.show", *[say({"result": {"id": "t", "status": "running", "position": 0}})] * 2)
    async with bus_of(peer) as bus:
        waiting = asyncio.create_task(bus.result("t"))
        following = asyncio.create_task(take(bus.events(), 1))
        await until(lambda: len(peer.calls("events/subscribe")) == 2, "both subscriptions")
    async with asyncio.timeout(10):
        for task in waiting, following:
            with pytest.raises(hivebus.Unreachable, match="The bus is closed"):
                await task


# --- what it is made of -----------------------------------------------------------------------------------------------


def test_pauses_double_from_one_second_to_a_bound_and_jitter_takes_up_to_half() -> None:
    longest, shortest = Pauses(lambda: 0.0), Pauses(lambda: 1.0)
    assert [longest.next() for _ in range(7)] == [1, 2, 4, 8, 16, PAUSE_MAX_S, PAUSE_MAX_S]
    assert [shortest.next() for _ in range(3)] == [0.5, 1, 2]
    longest.start_again()
    assert longest.next() == 1


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.HivebusError)]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not errors.StartRefused])
def test_an_error_comes_back_as_what_it_was(kind: type[errors.HivebusError]) -> None:
    error = kind("No.", remedy="Do.", pointer="/a", retry_after_s=2.0, position=7)
    again = error_of(error.as_problem())
    assert type(again) is kind
    assert again.as_problem() == error.as_problem()
    data = {"code": error.code, "field": "/a", "reason": "No.", "remedy": "Do.", "status": error.status}
    told = {"code": error.jsonrpc, "message": "No.", "data": data | {"retry_after_s": 2.0, "position": 7}}
    assert error_of_rpc(told).as_problem() == error.as_problem()


def test_an_error_of_a_proxy_keeps_its_status() -> None:
    error = error_of({}, status=418)
    assert (error.status, error.sentence) == (418, "The server answered with status 418.")
    assert error_of_rpc({"code": -32603, "message": "Oh."}).sentence == "Oh."


def test_a_struct_says_what_differs_from_its_defaults() -> None:
    task = hivebus.SubmitTask(type="hello", parameters={}, retry=hivebus.Retry(max_attempts=1))
    assert set(fields_of(task)) == {"type", "parameters", "retry"}


async def test_a_batch_that_skips_a_position_is_not_taken(peer: Peer) -> None:
    await peer.append(*([event(position)] for position in range(1, 5)))
    peer.next("events/subscribe", say({"result": {"subscription_id": "s", "position": 3}}))
    async with bus_of(peer) as bus:
        assert await take(bus.events(after=2), 2) == ["3/0", "4/0"]
    assert len(peer.calls("events/subscribe")) == 2
