"""/ws: who comes in, what is told, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from core.services.dispatch import Principal
from core.task import TaskQueued
from entrypoints.websocket import connection, sockets
from tests.entrypoints.sockets import KEY, Served, asked, batch, call, initialized, received, served, told
from tests.given import submitted, until

DEADLINE_S = 10.0


@pytest.fixture
async def one() -> AsyncIterator[Served]:
    async with served() as one:
        yield one


async def refused(one: Served, path: str = "/ws", **how: Any) -> tuple[int, str]:
    """Status and code of a handshake that must fail."""
    with pytest.raises(InvalidStatus) as error:
        async with one.connect(path, **how):
            pass
    response = error.value.response
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, json.loads(response.body or b"")["code"]


async def closed(ws: ClientConnection) -> tuple[int, str]:
    """Code and reason of a connection's end."""
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.suppress(ConnectionClosed):
            async for _ in ws:
                pass
    assert ws.close_code is not None
    return ws.close_code, ws.close_reason or ""


# --- who comes in ---


async def test_without_a_key_that_is_known_nobody_comes_in(one: Served) -> None:
    assert await refused(one, key=None) == (401, "unauthenticated")
    assert await refused(one, key="hive_x_y") == (401, "unauthenticated")
    assert await refused(one, "/ws?ticket=x", key=None) == (401, "unauthenticated")
    assert await refused(one, "/ws?token=x") == (422, "unknown_field")


async def test_a_page_of_another_site_does_not_come_in_even_with_a_ticket(one: Served) -> None:
    ticket = one.door.socket_ticket(Principal("ada"))
    assert await refused(one, origin="http://evil.example") == (403, "forbidden_origin")
    assert await refused(one, f"/ws?ticket={ticket}", key=None, origin="http://evil.example") == (
        403,
        "forbidden_origin",
    )
    async with one.connect(f"/ws?ticket={ticket}", key=None, origin=f"http://{one.place}") as ws:
        await initialized(ws)


async def test_a_ticket_opens_once(one: Served) -> None:
    async with httpx.AsyncClient(base_url=f"http://{one.place}", trust_env=False) as client:
        assert (await client.post("/api/ticket", json={})).status_code == 401
        answer = await client.post("/api/ticket", json={}, headers={"Authorization": f"Bearer {KEY.text}"})
    assert answer.status_code == 201
    assert answer.json()["expires_in_s"] == 60
    path = f"/ws?ticket={answer.json()['ticket']}"
    async with one.connect(path, key=None) as ws:
        await initialized(ws)
        assert await call(ws, "ping") == "pong"
    assert await refused(one, path, key=None) == (401, "unauthenticated")


async def test_a_plain_request_is_told_to_upgrade(one: Served) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        plain = await client.get(f"http://{one.place}/ws", headers={"Authorization": f"Bearer {KEY.text}"})
        assert (plain.status_code, plain.json()["code"]) == (426, "upgrade_required")
        odd = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "8", "Sec-WebSocket-Key": "x"}
        unsound = await client.get(f"http://{one.place}/ws", headers={"Authorization": f"Bearer {KEY.text}", **odd})
        assert (unsound.status_code, unsound.json()["code"]) == (400, "invalid_handshake")


async def test_there_is_a_bound_on_connections() -> None:
    async with served(connections_max=2) as one:
        async with one.connect(), one.connect():
            assert await refused(one) == (503, "too_many_connections")
        await until(lambda: len(one.sockets) == 0)
        async with one.connect() as ws:
            await initialized(ws)


# --- calls ---


async def test_nothing_before_initialize_and_the_connection_stays(one: Served) -> None:
    async with one.connect() as ws:
        assert (await asked(ws, "ping"))["error"]["code"] == -32600
        await initialized(ws)
        assert await call(ws, "ping") == "pong"


async def test_what_is_sent_without_waiting_is_answered_all_the_same(one: Served) -> None:
    async with one.connect() as ws:
        await initialized(ws)
        for number in range(200):
            await ws.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": "ping"}))
        answers = [json.loads(await received(ws)) for _ in range(200)]
        assert sorted(answer["id"] for answer in answers) == list(range(200))


async def test_a_message_in_fragments_is_one_message(one: Served) -> None:
    async with one.connect() as ws:
        await initialized(ws)
        await ws.send(['{"jsonrpc": "2.0", "id"', ': 7, "method": "pi', 'ng"}'])
        assert json.loads(await received(ws)) == {"jsonrpc": "2.0", "id": 7, "result": "pong"}


async def test_a_message_over_1_mib_ends_the_connection_with_1009(one: Served) -> None:
    async with one.connect(max_size=None) as ws:
        await ws.send("x" * (1024 * 1024 + 1))
        assert (await closed(ws))[0] == 1009


# --- subscriptions ---


async def test_the_answer_comes_before_the_first_batch_and_the_past_before_the_present(one: Served) -> None:
    for _ in range(3):
        await one.world.record("task", "0a", submitted(), TaskQueued())
    async with one.connect() as ws:
        await initialized(ws)
        answer = await call(ws, "events/subscribe", after=1, filter={"noun": "task"})
        assert answer["position"] == 1
        await one.world.record("task", "0b", submitted())
        events = await told(ws, 4)
        assert [position for position, _ in events] == [2, 2, 3, 3, 4]


async def test_without_a_position_only_what_comes_is_told(one: Served) -> None:
    await one.world.record("task", "0a", submitted())
    async with one.connect() as ws:
        await initialized(ws)
        answer = await call(ws, "events/subscribe")
        assert answer["position"] == 1
        await one.world.record("task", "0a", TaskQueued())
        params = await batch(ws)
        assert (params["from"], params["to"], params["subscription_id"]) == (1, 2, answer["subscription_id"])
        assert [event["type"] for event in params["events"]] == ["hivebus.task.queued"]


async def test_who_comes_back_with_its_last_to_has_everything_once(one: Served) -> None:
    heard: list[tuple[int, str]] = []
    last = 0
    for _ in range(5):
        async with one.connect() as ws:
            await initialized(ws)
            await call(ws, "events/subscribe", after=last)
            for _ in range(4):
                await one.world.record("task", "0a", submitted(), TaskQueued())
            params = await batch(ws)
            heard += [(int(event["sequence"]), event["id"]) for event in params["events"]]
            last = params["to"]
    async with one.connect() as ws:
        await initialized(ws)
        await call(ws, "events/subscribe", after=last)
        if last < one.world.position:
            heard += await told(ws, one.world.position)
    assert [position for position, _ in heard] == [position for position in range(1, 21) for _ in range(2)]
    assert len({id_ for _, id_ in heard}) == 40


async def test_a_subscription_ends_when_it_is_ended_or_its_connection_is(one: Served) -> None:
    async with one.connect() as ws:
        await initialized(ws)
        first = await call(ws, "events/subscribe", filter={"id": "0a"})
        again = await asked(ws, "events/subscribe", filter={"id": "0a"})
        assert (again["error"]["data"]["code"], again["error"]["data"]["subscription_id"]) == (
            "already_subscribed",
            first["subscription_id"],
        )
        await call(ws, "events/unsubscribe", subscription_id=first["subscription_id"])
        twice = await asked(ws, "events/unsubscribe", subscription_id=first["subscription_id"])
        assert twice["error"]["data"]["code"] == "unknown_subscription"
        for number in range(16):
            await call(ws, "events/subscribe", filter={"id": str(number)})
        more = await asked(ws, "events/subscribe", filter={"id": "16"})
        assert (more["error"]["code"], more["error"]["data"]["code"]) == (-32002, "too_many_subscriptions")
        wrong = await asked(ws, "events/subscribe", filter={"agent_id": "x"})
        assert (wrong["error"]["code"], wrong["error"]["data"]["field"]) == (-32602, "/filter/agent_id")
    await until(lambda: one.world.feed.subscriptions == 0 and one.world.feed.groups == 0)


async def test_a_client_that_stops_reading_is_closed_with_1013_and_where_to_resume(
    one: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sockets, "HELD_BYTES_MAX", 128 * 1024)
    large = submitted(parameters={"text": "x" * 60_000})
    sock = socket.create_connection(("127.0.0.1", one.listener.port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    async with one.connect(sock=sock, max_queue=1, max_size=None) as ws, one.connect(max_size=None) as well:
        for client in (ws, well):
            await initialized(client)
        answer = await call(ws, "events/subscribe")
        await call(well, "events/subscribe")
        ws.transport.pause_reading()
        while not one.sockets.drops:
            position = await one.world.record("task", "0a", large)
            await told(well, position)
        ws.transport.resume_reading()
        last, events = 0, []
        with contextlib.suppress(ConnectionClosed):
            async for message in ws:
                params = json.loads(message)["params"]
                assert params["from"] == last
                last = params["to"]
                events += params["events"]
        assert ws.close_code == 1013
        assert json.loads(ws.close_reason or "") == {"resume": {answer["subscription_id"]: last}}
        assert [int(event["sequence"]) for event in events] == list(range(1, last + 1))
    assert "did not keep up" in caplog.text


async def test_a_client_that_takes_nothing_for_too_long_is_closed_however_little_it_holds(
    one: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "STALLED_S", 0.2)
    monkeypatch.setattr(connection, "LINGER_S", 0.1)
    large = submitted(parameters={"text": "x" * 60_000})
    sock = socket.create_connection(("127.0.0.1", one.listener.port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    stalled = one.connect(sock=sock, max_queue=1, max_size=None, close_timeout=0.1)
    async with one.connect(max_size=None) as well, stalled as ws:
        for client in (ws, well):
            await initialized(client)
            await call(client, "events/subscribe")
        ws.transport.pause_reading()
        while not one.sockets.as_document()["slow"]:
            await told(well, await one.world.record("task", "0a", large))
        # It never reads again: in the end it is cut, and nothing of it is left.
        await until(lambda: len(one.sockets) == 1)
    assert one.sockets.drops == 1


# --- heartbeat ---


async def test_who_says_nothing_for_two_heartbeats_is_closed_and_who_answers_stays() -> None:
    async with served(ping_s=0.1) as one, one.connect() as well:
        reader, writer = await asyncio.open_connection("127.0.0.1", one.listener.port)
        writer.write(
            f"GET /ws HTTP/1.1\r\nHost: {one.place}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
            f"Authorization: Bearer {KEY.text}\r\n\r\n".encode()
        )
        async with asyncio.timeout(DEADLINE_S):
            said = await reader.read()
        frames = said.partition(b"\r\n\r\n")[2]
        assert frames.startswith(b"\x89\x00\x89\x00\x88")
        assert frames[6:8] == (1011).to_bytes(2, "big")
        writer.close()
        await writer.wait_closed()
        await initialized(well)
        await (await well.ping())


# --- notifications ---


async def test_only_who_asked_for_notifications_gets_them(one: Served) -> None:
    async with one.connect() as watching, one.connect() as other:
        await initialized(watching, notifications=True)
        await initialized(other)
        assert json.loads(await received(watching))["method"] == "system/metrics"
        await one.world.record("task", "0a", submitted(), TaskQueued())
        message = json.loads(await received(watching))
        assert (message["method"], message["params"]["status"]) == ("task/progress", "queued")
        one.messages.emit(logging.LogRecord("hivebus", logging.WARNING, "", 0, "It is late.", (), None))
        message = json.loads(await received(watching))
        assert (message["method"], message["params"]["message"]) == ("log/message", "It is late.")
        assert await call(other, "ping") == "pong"


# --- the end ---


async def test_all_are_closed_with_1012_when_the_program_ends(one: Served) -> None:
    async with one.connect() as ws, one.connect() as other:
        await initialized(ws)
        ended = asyncio.gather(closed(ws), closed(other))
        assert await one.sockets.drain() == 0
        assert {code for code, _ in await ended} == {1012}
    assert await refused(one) == (503, "not_ready")
