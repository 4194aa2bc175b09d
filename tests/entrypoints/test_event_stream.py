"""GET /api/events with Accept: text/event-stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from core.task import TaskQueued
from entrypoints.http import event_stream
from tests.entrypoints.problem import problem
from tests.entrypoints.sockets import Served, served
from tests.given import submitted, until


@pytest.fixture
async def one() -> AsyncIterator[Served]:
    async with served() as one:
        yield one


Block = dict[str, str]


@asynccontextmanager
async def streamed(one: Served, query: str = "", **headers: str) -> AsyncIterator[AsyncIterator[Block]]:
    """The blocks of a stream, comments under the name ''."""
    async with (
        httpx.AsyncClient(base_url=f"http://{one.place}", trust_env=False) as client,
        client.stream("GET", f"/api/events{query}", headers=headers, timeout=10) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"

        async def blocks() -> AsyncIterator[Block]:
            block: Block = {}
            async for line in response.aiter_lines():
                if line:
                    name, _, value = line.partition(":")
                    block[name] = value.strip()
                elif block:
                    yield block
                    block = {}

        yield blocks()


async def told(blocks: AsyncIterator[Block], count: int) -> list[Block]:
    """The next so many events."""
    found: list[Block] = []
    async with asyncio.timeout(10):
        async for block in blocks:
            if "data" in block:
                found.append(block)
                if len(found) == count:
                    break
    return found


async def test_events_are_told_with_type_id_and_data_first_those_there_are(one: Served) -> None:
    await one.world.record("task", "0a", submitted(), TaskQueued())
    async with streamed(one) as blocks:
        first, second = await told(blocks, 2)
        assert (first["event"], second["event"]) == ("hivebus.task.submitted", "hivebus.task.queued")
        assert (first["id"], second["id"]) == ("1/0", "1")
        assert json.loads(first["data"])["subject"] == "task/0a"
        await one.world.record("task", "0b", submitted())
        assert [block["id"] for block in await told(blocks, 1)] == ["2"]
    await until(lambda: len(one.streams) == 0 and one.world.feed.subscriptions == 0)


@pytest.mark.parametrize(
    ("last", "then"), [("0", ["1/0", "1", "2/0", "2"]), ("1/0", ["1", "2/0", "2"]), ("1", ["2/0", "2"]), ("2/0", ["2"])]
)
async def test_a_stream_goes_on_behind_the_last_event_id_which_wins_over_after(
    one: Served, last: str, then: list[str]
) -> None:
    for _ in range(2):
        await one.world.record("task", "0a", submitted(), TaskQueued())
    async with streamed(one, "?after=2", **{"Last-Event-ID": last}) as blocks:
        assert [block["id"] for block in await told(blocks, len(then))] == then


async def test_filters_are_those_of_the_other_forms(one: Served) -> None:
    for id_ in ("0a", "0b"):
        await one.world.record("task", id_, submitted(), TaskQueued())
    async with streamed(one, "?id=0b&type=task.queued") as blocks:
        assert [block["id"] for block in await told(blocks, 1)] == ["2"]
    async with streamed(one, "?noun=task&verb=submitted") as blocks:
        # Of those commits nothing more is due to this client: it goes on behind them.
        assert [block["id"] for block in await told(blocks, 2)] == ["1", "2"]


async def test_a_quiet_stream_says_how_far_it_looked_and_that_it_lives(
    one: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "COMMENT_S", 0.01)
    monkeypatch.setattr(event_stream, "LOOK_UP_S", 0.01)
    await one.world.record("task", "0a", submitted())
    async with streamed(one, "?id=nobody") as blocks:
        seen: list[Block] = []
        async with asyncio.timeout(10):
            async for block in blocks:
                seen.append(block)
                if {"": ""} in seen and {"id": "1"} in seen:
                    break


@pytest.mark.parametrize(
    ("query", "headers", "pointer"),
    [
        ("?after=x", {}, "/after"),
        ("?agent_id=x", {}, "/agent_id"),
        ("?limit=5", {}, "/limit"),
        ("", {"Last-Event-ID": "1/2/3"}, "/last-event-id"),
        ("", {"Last-Event-ID": "9" * 30}, "/last-event-id"),
    ],
)
async def test_a_question_that_means_nothing_is_a_422(
    one: Served, query: str, headers: dict[str, str], pointer: str
) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.get(f"http://{one.place}/api/events{query}", headers=headers)
    body = problem(response, 422, response.json()["code"])
    assert body["pointer"] == pointer


async def test_there_is_a_bound_on_streams(one: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "STREAMS_MAX", 1)
    async with streamed(one), httpx.AsyncClient(trust_env=False) as client:
        problem(await client.get(f"http://{one.place}/api/events"), 503, "too_many_connections")


async def test_a_stream_ends_cleanly_when_the_listener_does(one: Served) -> None:
    async with streamed(one) as blocks:
        assert (await anext(blocks))["retry"] == "1000"
        drained = asyncio.create_task(one.listener.drain(5.0))
        rest = [block async for block in blocks]
        assert await drained == 0
    assert rest == [{"id": "0"}]


async def test_a_client_that_does_not_keep_up_is_told_so_and_let_go(
    one: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = event_stream.Stream()
    monkeypatch.setattr(event_stream, "HELD_BYTES_MAX", 1000)
    assert stream.ready
    for _ in range(5):
        stream.write(b"x" * 400)
    assert (stream.slow, stream.ready, len(await stream.take(1))) == (True, False, 800)


async def test_a_client_that_takes_nothing_is_cut(
    one: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(event_stream, "STALLED_S", 0.1)
    large: Any = submitted(parameters={"text": "x" * 100_000})
    reader, writer = await asyncio.open_connection("127.0.0.1", one.listener.port, limit=1000)
    writer.write(f"GET /api/events HTTP/1.1\r\nHost: {one.place}\r\n\r\n".encode())
    await until(lambda: len(one.streams) == 1)
    while len(one.streams):
        await one.world.record("task", "0a", large)
        await asyncio.sleep(0)
    assert one.world.feed.subscriptions == 0
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
    del reader
    writer.close()
