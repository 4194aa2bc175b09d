"""What every Channel promises. A subclass gives the fixtures `channel` and `other`, two ends of one exchange."""

import asyncio
from collections import Counter
from collections.abc import Callable

from core.services.channel import Channel, Message

DEADLINE_S = 10.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for comes through a socket
            await asyncio.sleep(0.005)


class ChannelContract:
    async def test_a_message_arrives_with_its_headers_by_lower_case_names(
        self, channel: Channel, other: Channel
    ) -> None:
        heard: list[Message] = []
        await channel.listen("hive.cmd.>", heard.append)
        assert await published(other, "hive.cmd.task.submit", b"{}", {"Idempotency-Key": "a: b"})
        await until(lambda: bool(heard))
        assert heard == [Message("hive.cmd.task.submit", "", b"{}", {"idempotency-key": "a: b"})]

    async def test_an_answer_goes_where_it_is_sent_and_nowhere_else(self, channel: Channel, other: Channel) -> None:
        mine: list[Message] = []
        another: list[Message] = []
        await other.listen("_INBOX_client.a.*", mine.append)
        await other.listen("_INBOX_client.b.*", another.append)
        await settled(other)
        channel.answer("_INBOX_client.a.1", b"1", {})
        channel.answer("_INBOX_client.a.2", b"2", {"Nats-Service-Error": "x"})
        await until(lambda: len(mine) == 2)
        assert [(message.data, dict(message.headers)) for message in mine] == [
            (b"1", {}),
            (b"2", {"nats-service-error": "x"}),
        ]
        assert another == []

    async def test_of_a_queue_group_one_gets_each_message_and_outside_of_it_everybody(
        self, channel: Channel, other: Channel
    ) -> None:
        heard: Counter[str] = Counter()
        for name, end in (("one", channel), ("two", other)):
            await end.listen("hive.cmd.>", lambda message, name=name: heard.update([name]), queue="q")  # type: ignore[misc]
            await end.listen("hive.cmd.>", lambda message: heard.update(["all"]))
            await settled(end)
        for _ in range(100):
            channel.publish("hive.cmd.a", b"", {})
        await until(lambda: heard["one"] + heard["two"] == 100 and heard["all"] == 200)

    async def test_whoever_leaves_has_got_all_that_was_sent_before_and_gets_nothing_more(
        self, channel: Channel, other: Channel
    ) -> None:
        heard: list[bytes] = []
        first = await channel.listen("hive.cmd.a", lambda message: heard.append(message.data))
        second = await channel.listen("hive.cmd.b", lambda message: heard.append(message.data))
        await settled(channel)
        for number in range(1000):
            other.publish("hive.cmd.a", b"%d" % number, {})
            other.publish("hive.cmd.b", b"%d" % number, {})
        await settled(other)
        await channel.leave(first, second)
        assert heard == [b"%d" % number for number in range(1000) for _ in range(2)]
        other.publish("hive.cmd.a", b"late", {})
        await settled(other)
        await settled(channel)
        assert len(heard) == 2000


async def published(channel: Channel, subject: str, payload: bytes, headers: dict[str, str]) -> bool:
    await settled(channel)
    return channel.publish(subject, payload, headers)


async def settled(channel: Channel) -> None:
    """What was sent and listened to on this end has reached the exchange: leaving says so, as it waits for it."""
    await channel.leave(await channel.listen("settled", lambda message: None))
