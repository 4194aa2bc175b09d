import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import pytest

from adapters.jetstream.connection import connect, ensure_stream
from adapters.jetstream.log import JetStreamLog
from adapters.jetstream.pidfile import Running
from adapters.jetstream.server import EmbeddedServer, find_binary
from core.kernel.errors import OutcomeUnknown, StartRefused, Unavailable
from core.kernel.ports import Conflict
from tests.adapters.lossy_wire import Proxy
from tests.given import new_id

TASK = "hive.log.task.1"
DEADLINE_S = 10.0

STARTS_A_BROKER = """
import asyncio, pathlib, sys
from adapters.jetstream.server import EmbeddedServer

async def main():
    broker = EmbeddedServer(pathlib.Path(sys.argv[1]))
    await broker.start()
    print(broker.pid, flush=True)
    await broker.wait()

asyncio.run(main())
"""


@asynccontextmanager
async def started(data_dir: Path, **options: int) -> AsyncIterator[EmbeddedServer]:
    broker = EmbeddedServer(data_dir, **options)  # type: ignore[arg-type]
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop(grace_s=1.0)


@asynccontextmanager
async def log_on(broker: EmbeddedServer, *, port: int = 0, deadline_s: float = 5.0) -> AsyncIterator[JetStreamLog]:
    url = f"nats://127.0.0.1:{port or broker.port}"
    client = await connect(url, user=broker.user, password=broker.password, name="test")
    await ensure_stream(client)
    log = await JetStreamLog.open(client, append_deadline_s=deadline_s)
    watch = asyncio.ensure_future(log.watch())
    try:
        yield log
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await log.close()
        await client.close()


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await condition():  # noqa: ASYNC110 - what is waited for happens in another process
            await asyncio.sleep(0.01)


async def ended(process: Running) -> bool:
    return process.process() is None


@contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def dead_process() -> Running:
    with running(sys.executable, "-c", "input()") as process:
        return Running.of(process.pid)


def given_pid_file(data_dir: Path, *, broker: Running, parent: Running) -> None:
    home = data_dir / "broker"
    home.mkdir(exist_ok=True)
    (home / "nats-server.pid").write_bytes(msgspec.json.encode({"broker": broker, "parent": parent}))


# The process


async def test_credentials_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    async with started(tmp_path) as broker:
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "broker").iterdir()}
        assert broker.password in (tmp_path / "broker" / "nats-server.conf").read_text()
        assert (tmp_path / "broker").stat().st_mode & 0o777 == 0o700
    assert modes["nats-server.conf"] == modes["passwords.json"] == modes["nats-server.pid"] == 0o600


async def test_passwords_persist_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    async with started(tmp_path) as first:
        pass
    async with started(tmp_path) as second:
        assert (second.password, second.system_password) == (first.password, first.system_password)
        with pytest.raises(StartRefused, match="refused the user"):
            await connect(second.url, user=second.user, password="wrong", name="test", deadline_s=0.3)
        system = await connect(second.url, user=second.system_user, password=second.system_password, name="test")
        await system.close()


async def test_any_path_will_do_for_a_data_directory(tmp_path: Path) -> None:
    async with started(tmp_path / 'with "quotes", $HOME # and spaces') as broker, log_on(broker) as log:
        assert await log.append(TASK, new_id(), b"x", expected=0) == 1


async def test_a_chosen_port_stays_the_same_unless_somebody_took_it(tmp_path: Path) -> None:
    async with started(tmp_path) as broker:
        port = broker.port
    async with started(tmp_path) as again:
        assert again.port == port
    with socket.create_server(("127.0.0.1", port)):
        async with started(tmp_path) as elsewhere:
            assert elsewhere.port != port


async def test_a_taken_port_is_refused_with_the_words_of_the_broker(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        broker = EmbeddedServer(tmp_path, port=stranger.getsockname()[1])
        with pytest.raises(StartRefused, match="address already in use") as caught:
            await broker.start()
    assert "port" in caught.value.remedy
    assert not (tmp_path / "broker" / "nats-server.pid").exists()


async def test_waiting_for_the_broker_gives_its_exit_code(tmp_path: Path) -> None:
    async with started(tmp_path) as broker:
        os.kill(broker.pid, signal.SIGKILL)
        async with asyncio.timeout(DEADLINE_S):
            assert await broker.wait() == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death signal is Linux's")
async def test_the_broker_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    with running(sys.executable, "-c", STARTS_A_BROKER, tmp_path) as parent:
        assert parent.stdout is not None
        broker = Running.of(int(await asyncio.to_thread(parent.stdout.readline)))
        assert not await ended(broker)
        parent.send_signal(signal.SIGKILL)
        await eventually(lambda: ended(broker))


async def test_a_second_program_on_the_same_data_directory_is_refused(tmp_path: Path) -> None:
    async with started(tmp_path) as broker, log_on(broker) as log:
        with pytest.raises(StartRefused, match=f"Process {os.getpid()}"):
            await EmbeddedServer(tmp_path).start()
        assert await log.healthy()


async def test_a_broker_that_a_dead_process_left_is_ended(tmp_path: Path) -> None:
    async with started(tmp_path):
        pass
    with running(find_binary(), "-c", tmp_path / "broker" / "nats-server.conf") as left_over:
        given_pid_file(tmp_path, broker=Running.of(left_over.pid), parent=dead_process())
        async with started(tmp_path) as broker, log_on(broker) as log:
            assert left_over.wait(timeout=DEADLINE_S) is not None
            assert await log.healthy()


@pytest.mark.parametrize(("names_config", "same_start"), [(True, False), (False, True)])
async def test_a_stranger_under_the_recorded_pid_is_left_alone(
    tmp_path: Path, names_config: bool, same_start: bool
) -> None:
    config = str(tmp_path / "broker" / "nats-server.conf")
    with running(sys.executable, "-c", "input()", config if names_config else "other") as stranger:
        process = Running.of(stranger.pid)
        recorded = process if same_start else Running(process.pid, process.started - 5)
        given_pid_file(tmp_path, broker=recorded, parent=dead_process())
        async with started(tmp_path):
            assert stranger.poll() is None


# The log over a broker that dies, halts or loses answers


async def test_entries_and_followers_outlive_a_broker_that_is_killed(tmp_path: Path) -> None:
    async with started(tmp_path) as broker, log_on(broker) as log:
        following = log.follow(after=0)
        await log.append(TASK, new_id(), b"before", expected=0)
        assert [entry.body for entry in await anext(following)] == [b"before"]
        os.kill(broker.pid, signal.SIGKILL)
        await broker.wait()
        await eventually(lambda: _unhealthy(log))
        with pytest.raises(Unavailable) as caught:
            await log.append(TASK, new_id(), b"meanwhile", expected=1)
        assert caught.value.code == "log_unavailable"
        async with started(tmp_path, port=broker.port):
            await eventually(log.healthy)
            assert [entry.body for entry in await log.read(TASK)] == [b"before"]
            assert await log.append(TASK, new_id(), b"after", expected=1) == 2
            async with asyncio.timeout(DEADLINE_S):
                assert [entry.body for entry in await anext(following)] == [b"after"]


async def test_appends_in_flight_when_the_broker_is_killed_are_stored_once(tmp_path: Path) -> None:
    async with started(tmp_path) as broker, log_on(broker) as log:
        ids = [new_id() for _ in range(500)]
        appends = [
            asyncio.ensure_future(log.append(f"hive.log.task.{n}", commit_id, b"x", expected=0))
            for n, commit_id in enumerate(ids)
        ]
        await asyncio.wait(appends, return_when=asyncio.FIRST_COMPLETED)
        os.kill(broker.pid, signal.SIGKILL)
        await broker.wait()
        async with started(tmp_path, port=broker.port):
            outcomes = await asyncio.gather(*appends, return_exceptions=True)
            await eventually(log.healthy)
            for n, (commit_id, outcome) in enumerate(zip(ids, outcomes, strict=True)):
                stored = [(entry.position, entry.commit_id) for entry in await log.read(f"hive.log.task.{n}")]
                assert outcome == stored[0][0] if stored else isinstance(outcome, Unavailable)
                assert stored in ([], [(outcome, commit_id)])


async def test_an_acknowledgement_lost_with_its_connection_is_resolved(tmp_path: Path) -> None:
    async with started(tmp_path) as broker, log_on(broker) as direct, Proxy(broker.port) as proxy:
        async with log_on(broker, port=proxy.port) as log:
            proxy.loses_answers = True
            append = asyncio.ensure_future(log.append(TASK, new_id(), b"once", expected=0))
            await anext(direct.follow(after=0))
            proxy.loses_answers = False
            proxy.cut()
            assert await append == 1
        assert await direct.head() == 1


async def test_a_lost_acknowledgement_is_resolved_though_others_appended_since(tmp_path: Path) -> None:
    async with started(tmp_path) as broker, log_on(broker) as direct, Proxy(broker.port) as proxy:
        async with log_on(broker, port=proxy.port, deadline_s=4.0) as log:
            proxy.loses_answers = True
            append = asyncio.ensure_future(log.append(TASK, new_id(), b"ours", expected=0))
            await anext(direct.follow(after=0))
            await direct.append(TASK, new_id(), b"theirs", expected=1)
            proxy.loses_answers = False
            assert await append == 1
        assert [entry.body for entry in await direct.read(TASK)] == [b"ours", b"theirs"]


async def test_a_lost_append_is_sent_again_or_conflicts_with_the_rival_that_won(tmp_path: Path) -> None:
    async with started(tmp_path) as broker, log_on(broker) as direct, Proxy(broker.port) as proxy:
        async with log_on(broker, port=proxy.port) as log:
            proxy.loses_requests = True
            stored = asyncio.ensure_future(log.append(TASK, new_id(), b"alone", expected=0))
            beaten = asyncio.ensure_future(log.append("hive.log.task.2", new_id(), b"second", expected=0))
            await asyncio.wait({stored, beaten}, timeout=0.05)
            await direct.append("hive.log.task.2", new_id(), b"first", expected=0)
            proxy.loses_requests = False
            proxy.cut()
            assert await stored == 2
            with pytest.raises(Conflict) as caught:
                await beaten
        assert [entry.body for entry in caught.value.newer] == [b"first"]
        assert await direct.head() == 2


async def test_what_cannot_be_resolved_in_time_is_unknown_and_not_failed(tmp_path: Path) -> None:
    async with started(tmp_path) as broker, log_on(broker) as direct, Proxy(broker.port) as proxy:
        async with log_on(broker, port=proxy.port, deadline_s=0.5) as log:
            proxy.loses_answers = True
            commit_id = new_id()
            with pytest.raises(OutcomeUnknown) as unknown:
                await log.append(TASK, commit_id, b"once", expected=0)
            assert unknown.value.remedy
            proxy.loses_answers = False
            proxy.cut()
            await eventually(log.healthy)
            with pytest.raises(Conflict) as caught:
                await log.append(TASK, commit_id, b"once", expected=0)
        assert [entry.commit_id for entry in caught.value.newer] == [commit_id]
        assert await direct.head() == 1


async def test_a_halted_broker_is_noticed_within_two_seconds_and_resumes(tmp_path: Path) -> None:
    async with started(tmp_path) as broker, log_on(broker) as log:
        following = log.follow(after=0)
        await log.append(TASK, new_id(), b"before", expected=0)
        await anext(following)
        os.kill(broker.pid, signal.SIGSTOP)
        halted_at = time.monotonic()
        pending = asyncio.ensure_future(log.append(TASK, new_id(), b"during", expected=1))
        try:
            await eventually(lambda: _unhealthy(log))
            assert time.monotonic() - halted_at < 4.0
            refused_at = time.monotonic()
            with pytest.raises(Unavailable) as caught:
                await log.append("hive.log.task.2", new_id(), b"refused", expected=0)
            assert time.monotonic() - refused_at < 0.5
            assert (caught.value.code, caught.value.retry_after_s) == ("log_unavailable", 1)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        assert await pending == 2
        await eventually(log.healthy)
        assert await log.append(TASK, new_id(), b"after", expected=2) == 3
        bodies: list[bytes] = []
        async with asyncio.timeout(DEADLINE_S):
            while len(bodies) < 2:
                bodies += [entry.body for entry in await anext(following)]
        assert bodies == [b"during", b"after"]


async def test_more_appends_than_may_be_in_flight_wait_their_turn(tmp_path: Path) -> None:
    async with started(tmp_path) as broker:
        client = await connect(broker.url, user=broker.user, password=broker.password, name="test")
        await ensure_stream(client)
        log = await JetStreamLog.open(client, in_flight_max=4)
        appends = [
            asyncio.ensure_future(log.append(f"hive.log.task.{n}", new_id(), b"x", expected=0)) for n in range(64)
        ]
        await asyncio.wait(appends, timeout=0)
        for append in appends[::2]:
            append.cancel()
        outcomes = await asyncio.gather(*appends, return_exceptions=True)
        assert all(isinstance(outcome, int) for outcome in outcomes[1::2])
        again = [log.append(f"hive.log.task.{n}", new_id(), b"x", expected=0) for n in range(64, 128)]
        assert all(isinstance(outcome, int) for outcome in await asyncio.gather(*again))
        await log.close()
        await client.close()


async def test_a_connection_to_nowhere_is_refused_in_time() -> None:
    with pytest.raises(StartRefused, match="accepted no connection"):
        await connect("nats://127.0.0.1:9", user="u", password="p", name="test", deadline_s=0.2)


# The stream


async def test_a_stream_that_was_configured_otherwise_is_refused(tmp_path: Path) -> None:
    async with started(tmp_path) as broker:
        client = await connect(broker.url, user=broker.user, password=broker.password, name="test")
        await client.jetstream().add_stream(name="HIVE", subjects=["hive.log.>"], max_age=60)
        with pytest.raises(StartRefused, match="max_age"):
            await ensure_stream(client)
        await client.close()


async def test_a_follower_ends_where_the_log_has_a_hole(tmp_path: Path) -> None:
    async with started(tmp_path) as broker, log_on(broker) as log:
        await log.append(TASK, new_id(), b"trimmed", expected=0)
        await log.append("hive.log.task.2", new_id(), b"kept", expected=0)
        client = await connect(broker.url, user=broker.user, password=broker.password, name="operator")
        await client.jetstream().purge_stream("HIVE", subject=TASK)
        await client.close()
        following = log.follow(after=0)
        with pytest.raises(Unavailable) as caught:
            await anext(following)
        assert caught.value.code == "log_hole"
        assert await anext(following, None) is None
        assert [entry.position for entry in await anext(log.follow(after=1))] == [2]


async def _unhealthy(log: JetStreamLog) -> bool:
    return not await log.healthy()
