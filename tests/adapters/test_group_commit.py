import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from uuid import UUID

import pytest

from adapters.jetstream import connection
from adapters.jetstream.api import DIRECT_GET, encode
from adapters.jetstream.connection import connect, ensure_stream
from adapters.jetstream.group_commit import PLAIN_MAX
from adapters.jetstream.log import JetStreamLog
from adapters.jetstream.requests import Requests
from adapters.jetstream.server import EmbeddedServer
from adapters.jetstream.wire import WireClient, header_of
from core.kernel.commit import Entry
from core.kernel.errors import OutcomeUnknown, Unavailable
from core.kernel.ports import Conflict
from tests.adapters.lossy_wire import Proxy
from tests.given import new_id

DEADLINE_S = 10.0
BODY = b"x" * 100


class Bench:
    """A broker that syncs every append, a log that groups, and eyes on what it stored."""

    def __init__(self, broker: EmbeddedServer, client: WireClient, log: JetStreamLog) -> None:
        self.broker = broker
        self.client = client
        self.log = log

    async def batches(self) -> dict[str, list[int]]:
        """The positions of every stored batch by its name; "" for what came plainly."""
        requests = Requests(self.client)
        await requests.start()
        found: dict[str, list[int]] = {}
        for position in range(1, await self.log.head() + 1):
            reply = await requests.one(DIRECT_GET, encode({"seq": position}))
            found.setdefault(header_of(reply.headers, b"Nats-Batch-Id").decode(), []).append(position)
        requests.close()
        return found


class CountForgettingClient(WireClient):
    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        await super()._process_msg(sid, subject, reply, data.replace(b'"count":', b'"size":'), headers)


@asynccontextmanager
async def joined(
    broker: EmbeddedServer, *, port: int = 0, deadline_s: float = 5.0, in_flight_max: int = 4096
) -> AsyncIterator[Bench]:
    url = f"nats://127.0.0.1:{port or broker.port}"
    client = await connect(url, user=broker.user, password=broker.password, name="test")
    await ensure_stream(client)
    log = await JetStreamLog.open(client, append_deadline_s=deadline_s, in_flight_max=in_flight_max, grouped=True)
    try:
        yield Bench(broker, client, log)
    finally:
        await log.close()
        await client.close()


@asynccontextmanager
async def started(data_dir: Path) -> AsyncIterator[EmbeddedServer]:
    broker = EmbeddedServer(data_dir, profile="durable")
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop(grace_s=1.0)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with started(tmp_path) as broker:
        yield broker


@pytest.fixture
async def bench(broker: EmbeddedServer) -> AsyncIterator[Bench]:
    async with joined(broker) as bench:
        yield bench


def subject(number: int) -> str:
    return f"hive.log.task.{number}"


def name(number: int) -> str:
    return str(UUID(int=number))


def appends(log: JetStreamLog, numbers: Sequence[int], *, body: bytes = BODY) -> list[asyncio.Task[int]]:
    """One append each on subjects of their own, all asked for in one turn of the loop."""
    return [asyncio.ensure_future(log.append(subject(n), name(n), body, expected=0)) for n in numbers]


async def outcomes(tasks: Sequence[asyncio.Task[int]]) -> list[int | BaseException]:
    async with asyncio.timeout(DEADLINE_S):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_one_append_and_a_few_are_plain(bench: Bench) -> None:
    assert await bench.log.append(subject(0), new_id(), BODY, expected=0) == 1
    assert await outcomes(appends(bench.log, range(1, PLAIN_MAX + 1))) == list(range(2, PLAIN_MAX + 2))
    assert list(await bench.batches()) == [""]


async def test_many_appends_of_one_turn_are_one_batch_behind_the_first(bench: Bench) -> None:
    positions = await outcomes(appends(bench.log, range(100)))
    assert positions == list(range(1, 101))
    alone, together = (await bench.batches()).values()
    assert (alone, together) == ([1], list(range(2, 101)))


async def test_each_position_holds_its_own_commit_though_plain_appends_come_between(bench: Bench) -> None:
    async with joined(bench.broker) as other:
        numbers = count()

        async def one_by_one() -> list[tuple[int, int]]:
            return [
                (number, await other.log.append(subject(number), name(number), b"%d" % number, expected=0))
                for number in (next(numbers) for _ in range(100))
            ]

        async def caller() -> list[tuple[int, int]]:
            return [
                (number, await bench.log.append(subject(number), name(number), b"%d" % number, expected=0))
                for number in (next(numbers) for _ in range(20))
            ]

        answers = await asyncio.gather(one_by_one(), *(caller() for _ in range(100)))
    stored = {position: number for answer in answers for number, position in answer}
    assert sorted(stored) == list(range(1, 2101))
    entries = [await bench.log.entry(position) for position in stored]
    assert entries == [Entry(p, subject(n), name(n), b"%d" % n) for p, n in stored.items()]
    batches = await bench.batches()
    assert len(batches.pop("")) < 500
    assert all(batch == list(range(batch[0], batch[-1] + 1)) for batch in batches.values())


async def test_a_batch_holds_at_most_500_commits(bench: Bench) -> None:
    assert await outcomes(appends(bench.log, range(1201))) == list(range(1, 1202))
    assert [len(batch) for batch_id, batch in (await bench.batches()).items() if batch_id] == [500, 500, 200]


async def test_a_batch_holds_at_most_four_mebibytes(bench: Bench) -> None:
    body = b"x" * (200 * 1024)
    assert await outcomes(appends(bench.log, range(41), body=body)) == list(range(1, 42))
    assert [len(batch) for batch_id, batch in (await bench.batches()).items() if batch_id] == [20, 20]


async def test_of_a_batch_with_one_conflict_only_that_one_conflicts(bench: Bench) -> None:
    await bench.log.append(subject(50), new_id(), b"first", expected=0)
    answers = await outcomes(appends(bench.log, range(100)))
    conflict = answers.pop(50)
    assert isinstance(conflict, Conflict)
    assert [entry.body for entry in conflict.newer] == [b"first"]
    assert answers == list(range(2, 101))
    # Given room again, the next ones are a batch as if nothing had been.
    assert await outcomes(appends(bench.log, range(100, 200))) == list(range(101, 201))
    assert [len(batch) for batch_id, batch in (await bench.batches()).items() if batch_id] == [99]


async def test_two_commits_on_one_subject_in_one_turn_leave_the_others_in_their_batch(bench: Bench) -> None:
    tasks = appends(bench.log, range(50))
    rival = asyncio.ensure_future(bench.log.append(subject(20), new_id(), b"rival", expected=0))
    answers = await outcomes([*tasks, rival, *appends(bench.log, range(50, 60))])
    conflict = answers.pop(50)
    assert isinstance(conflict, Conflict)
    assert [entry.position for entry in conflict.newer] == [answers[20]]
    assert sorted(position for position in answers if isinstance(position, int)) == list(range(1, 61))
    assert [len(batch) for batch_id, batch in (await bench.batches()).items() if batch_id] == [59]


async def test_a_lost_answer_of_a_batch_is_resolved_for_each_commit(bench: Bench) -> None:
    async with Proxy(bench.broker.port) as proxy, joined(bench.broker, port=proxy.port) as lossy:
        following = bench.log.follow(after=0)
        proxy.loses_answers = True
        tasks = appends(lossy.log, range(40))
        seen = 0
        async with asyncio.timeout(DEADLINE_S):
            while seen < 40:
                seen += len(await anext(following))
        proxy.loses_answers = False
        proxy.cut()
        assert await outcomes(tasks) == list(range(1, 41))
    assert await bench.log.head() == 40


async def test_a_batch_that_was_lost_is_sent_again_or_conflicts_with_who_won(bench: Bench) -> None:
    async with Proxy(bench.broker.port) as proxy, joined(bench.broker, port=proxy.port) as lossy:
        proxy.loses_requests = True
        tasks = appends(lossy.log, range(40))
        await asyncio.wait(tasks, timeout=0.05)
        await bench.log.append(subject(30), new_id(), b"winner", expected=0)
        proxy.loses_requests = False
        proxy.cut()
        answers = await outcomes(tasks)
    conflict = answers.pop(30)
    assert isinstance(conflict, Conflict)
    assert [entry.body for entry in conflict.newer] == [b"winner"]
    assert sorted(position for position in answers if isinstance(position, int)) == list(range(2, 41))


async def test_a_lost_connection_resolves_what_was_sent_and_refuses_what_waited(bench: Bench) -> None:
    async with Proxy(bench.broker.port) as proxy, joined(bench.broker, port=proxy.port) as lossy:
        proxy.loses_answers = True
        sent = appends(lossy.log, range(40))
        await asyncio.wait(sent, timeout=0.05)
        waiting = appends(lossy.log, range(40, 60))
        await asyncio.wait(waiting, timeout=0.05)
        proxy.loses_answers = False
        proxy.cut()
        assert [type(answer) for answer in await outcomes(waiting)] == [Unavailable] * 20
        assert sorted(await asyncio.gather(*sent)) == list(range(1, 41))
    assert await bench.log.head() == 40


async def test_at_most_four_batches_are_unanswered(bench: Bench) -> None:
    async with Proxy(bench.broker.port) as proxy, joined(bench.broker, port=proxy.port) as lossy:
        following = bench.log.follow(after=0)
        proxy.loses_answers = True
        tasks = appends(lossy.log, range(1 + 5 * 500))
        seen = 0
        async with asyncio.timeout(DEADLINE_S):
            while seen < 1 + 4 * 500:
                seen += len(await anext(following))
        later = asyncio.ensure_future(anext(following))
        await asyncio.wait({later}, timeout=0.1)
        assert not later.done()
        later.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_answer_that_does_not_fit_its_batch_is_not_believed(
    broker: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "WireClient", CountForgettingClient)
    async with joined(broker) as bench:
        assert await outcomes(appends(bench.log, range(40))) == list(range(1, 41))


async def test_what_was_sent_is_unknown_and_what_waited_was_never_sent(bench: Bench) -> None:
    async with Proxy(bench.broker.port) as proxy, joined(bench.broker, port=proxy.port, deadline_s=0.6) as lossy:
        proxy.loses_answers = True
        sent = appends(lossy.log, range(40))
        await asyncio.wait(sent, timeout=0.05)
        waiting = appends(lossy.log, range(40, 60))
        answers = await outcomes([*sent, *waiting])
    assert [type(answer) for answer in answers] == [OutcomeUnknown] * 40 + [Unavailable] * 20
    assert await bench.log.head() == 40


async def test_cancelling_callers_takes_back_what_waits_and_nothing_else(bench: Bench) -> None:
    sent = appends(bench.log, range(40))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting = appends(bench.log, range(40, 80))
    await asyncio.sleep(0)
    for task in [*sent, *waiting[::2]]:
        task.cancel()
    answers = await outcomes(waiting[1::2])
    assert sorted(position for position in answers if isinstance(position, int)) == list(range(41, 61))
    assert [len(await bench.log.read(subject(n))) for n in range(80)] == [1] * 40 + [0, 1] * 20


async def test_no_permit_is_lost_by_refusals_cancellations_and_conflicts(broker: EmbeddedServer) -> None:
    async with joined(broker, in_flight_max=32) as bench:
        for turn in range(4):
            tasks = appends(bench.log, range(turn * 50, turn * 50 + 100))
            await asyncio.sleep(0)
            for task in tasks[::7]:
                task.cancel()
            await outcomes(tasks)
        # Then as many as there are permits still leave together.
        positions = await outcomes(appends(bench.log, range(1000, 1032)))
        assert list((await bench.batches()).values())[-1] == positions[1:]


async def test_appends_wait_behind_plain_ones_and_leave_with_their_answers(bench: Bench) -> None:
    first = appends(bench.log, range(10))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second = appends(bench.log, range(10, 20))
    assert await outcomes([*first, *second]) == list(range(1, 21))
    assert list(await bench.batches()) == [""]


def leave_open(bench: Bench, batch_id: str, subjects: Sequence[str]) -> None:
    """The beginning of a batch whose end never comes, as an outage leaves it; the broker forgets it in ten seconds."""
    for place, subject in enumerate(subjects, 1):
        head = f"NATS/1.0\r\nNats-Batch-Id: {batch_id}\r\nNats-Batch-Sequence: {place}\r\n"
        head += "Nats-Expected-Last-Subject-Sequence: 0\r\n\r\n"
        bench.client.send(f"HPUB {subject} {len(head)} {len(head) + 1}\r\n{head}x\r\n".encode())


async def test_what_an_outage_left_half_sent_is_in_nobodys_way(bench: Bench) -> None:
    leave_open(bench, "half", [subject(number) for number in range(30)])
    assert await bench.log.append(subject(0), new_id(), BODY, expected=0) == 1
    assert await outcomes(appends(bench.log, range(1, 100))) == list(range(2, 101))
    assert len(await bench.batches()) == 2


async def test_a_broker_that_takes_no_more_batches_gets_plain_appends(bench: Bench) -> None:
    # Given as many unfinished ones as a stream holds.
    for number in range(50):
        leave_open(bench, f"open{number}", [f"hive.log.open.{number}"])
    assert await outcomes(appends(bench.log, range(100))) == list(range(1, 101))
    assert list(await bench.batches()) == [""]


async def test_closing_the_log_ends_what_is_in_flight_and_refuses_what_waits(bench: Bench) -> None:
    async with Proxy(bench.broker.port) as proxy, joined(bench.broker, port=proxy.port, deadline_s=0.5) as lossy:
        proxy.loses_answers = True
        sent = appends(lossy.log, range(40))
        await asyncio.wait(sent, timeout=0.05)
        waiting = appends(lossy.log, range(40, 60))
        await asyncio.wait(waiting, timeout=0.05)
        await lossy.log.close()
        answers = await outcomes([*sent, *waiting])
    assert [type(answer) for answer in answers] == [OutcomeUnknown] * 40 + [Unavailable] * 20
    assert await bench.log.head() == 40
