"""A broker that somebody else runs: every way in, and a sentence with a remedy for every way not in."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.jetstream.broker import Access
from adapters.jetstream.connection import connect_to, ensure_stream
from adapters.jetstream.log import JetStreamLog
from adapters.jetstream.wire import publish_frame
from core.kernel.errors import StartRefused
from core.kernel.ids import uuid7
from tests.certificates import Authority, Signed
from tests.cluster import PASSWORD, SYSTEM_PASSWORD, SYSTEM_USER, USER, Node, free_port, single

Start = Callable[..., Node]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a server with a configuration of its own."""
    nodes: list[Node] = []

    def started(**options: Any) -> Node:
        node = Node(f"s{len(nodes)}", tmp_path, lambda node: single(node, **options), routed=False)
        nodes.append(node)
        node.start()
        return node

    yield started
    for node in nodes:
        node.kill()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


@pytest.fixture
def signed(authority: Authority) -> Signed:
    return authority.sign("server")


def with_tls(signed: Signed, more: str = "") -> str:
    return f'cert_file: "{signed.certificate}", key_file: "{signed.key}"{more}'


def access(*nodes: Node, scheme: str = "nats", **changed: Any) -> Access:
    urls = tuple(f"{scheme}://127.0.0.1:{node.port}" for node in nodes)
    return Access(**({"urls": urls, "user": USER, "password": PASSWORD, "tls": scheme == "tls"} | changed))


async def appended(to: Access) -> int:
    """The position of a first append, over everything that the program does to get there."""
    client = await connect_to(to, name="test", deadline_s=5.0)
    try:
        await ensure_stream(client, replicas=0)
        log = await JetStreamLog.open(client)
        position = await log.append("hive.log.task.1", uuid7(), b"x", expected=0)
        await log.close()
        return position
    finally:
        await client.close()


async def joined(to: Access, deadline_s: float) -> None:
    client = await connect_to(to, name="test", deadline_s=deadline_s)
    try:
        await ensure_stream(client, replicas=0)
    finally:
        await client.close()


async def refused(to: Access, *, deadline_s: float = 5.0) -> StartRefused:
    """The refusal, in which no secret may stand."""
    with pytest.raises(StartRefused) as caught:
        await joined(to, deadline_s)
    said = f"{caught.value.sentence} {caught.value.remedy} {caught.value!r} {to!r}"
    assert caught.value.remedy
    assert "\n" not in caught.value.sentence
    assert to.password not in said
    return caught.value


async def test_a_user_with_a_password_gets_in(start: Start) -> None:
    assert await appended(access(start())) == 1


async def test_a_server_that_is_away_is_passed_over(start: Start) -> None:
    server = start()
    away = Access(urls=(f"nats://127.0.0.1:{free_port()}", *access(server).urls), user=USER, password=PASSWORD)
    assert await appended(away) == 1


async def test_a_certificate_of_the_given_authority_is_trusted(
    start: Start, authority: Authority, signed: Signed
) -> None:
    server = start(tls=with_tls(signed))
    assert await appended(access(server, scheme="tls", ca=authority.path)) == 1


async def test_a_client_certificate_is_shown_where_it_is_asked_for(
    start: Start, authority: Authority, signed: Signed
) -> None:
    server = start(tls=with_tls(signed, f', ca_file: "{authority.path}", verify: true'))
    without = access(server, scheme="tls", ca=authority.path)
    said = await refused(without)
    assert "did not accept this client's certificate" in said.sentence
    assert "HIVEBUS_NATS_CERT" in said.remedy
    own = authority.sign("client")
    assert (
        await appended(access(server, scheme="tls", ca=authority.path, certificate=own.certificate, key=own.key)) == 1
    )


async def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        to = Access(urls=(f"nats://127.0.0.1:{taken.getsockname()[1]}",), user=USER, password=PASSWORD)
        said = await refused(to, deadline_s=0.3)
    assert "accepted no connection within 0.3 s" in said.sentence
    assert "127.0.0.1" in said.sentence


async def test_a_wrong_password_is_said_at_once(start: Start) -> None:
    said = await refused(access(start(), password="sesame-1234"), deadline_s=60.0)
    assert said.sentence.endswith("refused the user 'hivebus'.")
    assert "HIVEBUS_NATS_PASSWORD" in said.remedy


async def test_no_login_where_one_is_needed(start: Start) -> None:
    with pytest.raises(StartRefused, match="refused a login without a user"):
        await connect_to(access(start(), user="", password=""), name="test", deadline_s=60.0)


async def test_one_server_that_refuses_is_passed_over(start: Start) -> None:
    stranger = start(users='{ user: "other", password: "other" }')
    assert await appended(access(stranger, start())) == 1


async def test_a_certificate_that_nobody_trusts(start: Start, signed: Signed) -> None:
    said = await refused(access(start(tls=with_tls(signed)), scheme="tls"), deadline_s=60.0)
    assert "certificate that cannot be verified" in said.sentence
    assert "HIVEBUS_NATS_CA" in said.remedy


async def test_one_server_with_a_foreign_certificate_is_passed_over(
    start: Start, tmp_path: Path, authority: Authority, signed: Signed
) -> None:
    stranger = start(tls=with_tls(Authority(tmp_path / "other").sign("server")))
    assert await appended(access(stranger, start(tls=with_tls(signed)), scheme="tls", ca=authority.path)) == 1


async def test_a_connection_with_tls_comes_back(start: Start, authority: Authority, signed: Signed) -> None:
    server = start(tls=with_tls(signed))
    client = await connect_to(access(server, scheme="tls", ca=authority.path), name="test")
    await ensure_stream(client)
    log = await JetStreamLog.open(client)
    assert await log.append("hive.log.task.1", uuid7(), b"x", expected=0) == 1
    server.kill()
    server.start()
    async with asyncio.timeout(20):
        assert await log.append("hive.log.task.1", uuid7(), b"y", expected=1) == 2
    await log.close()
    await client.close()


async def test_a_certificate_for_another_address(start: Start, authority: Authority) -> None:
    server = start(tls=with_tls(authority.sign("server", address="127.0.0.9")))
    said = await refused(access(server, scheme="tls", ca=authority.path), deadline_s=60.0)
    assert "127.0.0.1" in said.sentence
    assert "certificate" in said.sentence


async def test_a_server_without_tls_never_gets_the_password(start: Start, authority: Authority) -> None:
    server = start(extra="debug: true, trace: true")
    said = await refused(access(server, scheme="tls", ca=authority.path), deadline_s=60.0)
    assert "does not require TLS" in said.sentence
    assert "CONNECT {" not in server.log.read_text()


async def test_files_that_cannot_be_used(tmp_path: Path, authority: Authority) -> None:
    nowhere = Access(urls=("tls://127.0.0.1:9",), tls=True)
    bad = tmp_path / "bad.pem"
    bad.write_text("no PEM")
    for files, setting in (
        ({"ca": bad}, "HIVEBUS_NATS_CA"),
        ({"ca": tmp_path / "missing"}, "HIVEBUS_NATS_CA"),
        ({"certificate": bad, "key": bad}, "HIVEBUS_NATS_CERT"),
    ):
        with pytest.raises(StartRefused, match="cannot be used") as caught:
            await connect_to(Access(urls=nowhere.urls, tls=True, **files), name="test")
        assert setting in caught.value.sentence


async def test_jetstream_that_is_off(start: Start) -> None:
    said = await refused(access(start(jetstream=False)))
    assert said.sentence == "JetStream is not enabled for the account of this user."
    assert "jetstream" in said.remedy


async def test_jetstream_that_is_off_for_the_account(start: Start) -> None:
    said = await refused(access(start(), user=SYSTEM_USER, password=SYSTEM_PASSWORD))
    assert said.sentence == "JetStream is not enabled for the account of this user."


async def test_three_copies_on_one_server(start: Start) -> None:
    client = await connect_to(access(start()), name="test")
    with pytest.raises(StartRefused, match="cannot keep 3 copies") as caught:
        await ensure_stream(client, replicas=3)
    assert "HIVEBUS_NATS_REPLICAS" in caught.value.remedy
    await client.close()


async def test_messages_that_are_too_small_for_a_commit(start: Start) -> None:
    said = await refused(access(start(extra="max_payload: 65536")))
    assert "65536" in said.sentence
    assert "max_payload" in said.remedy


async def test_a_user_that_may_not_ask_jetstream(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.jetstream.connection.CONNECT_DEADLINE_S", 0.4)
    monkeypatch.setattr("adapters.jetstream.connection.ASK_TRY_S", 0.2)
    server = start(users=f'{{ user: "{USER}", password: "{PASSWORD}", permissions: {{ publish: "x" }} }}')
    said = await refused(access(server))
    assert "did not answer a JetStream request" in said.sentence
    assert "$JS.API" in said.remedy


async def test_a_log_that_nobody_leads_is_not_healthy_though_the_broker_is_heard(start: Start) -> None:
    """Given a connection that hears messages, when nobody answers for the stream, then the log is not healthy."""
    denied = 'permissions: { publish: { deny: "$JS.API.STREAM.INFO.HIVE" } }'
    server = start(users=f'{{ user: "{USER}", password: "{PASSWORD}", {denied} }}')
    client = await connect_to(access(server), name="test")
    log = await JetStreamLog.open(client)
    heard = asyncio.Event()
    await client.listen("tick", lambda *_: heard.set())
    watching = asyncio.ensure_future(log.watch())

    async def tick() -> None:
        heard.clear()
        client.send(publish_frame("tick", "", b""))
        await heard.wait()

    async with asyncio.timeout(10):
        await tick()
        while await log.healthy():
            await tick()
    watching.cancel()
    await log.close()
    await client.close()
