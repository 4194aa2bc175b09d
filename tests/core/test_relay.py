import json
from collections.abc import Sequence

import pytest

from adapters.memory.channel import MemoryChannel
from core.kernel.commit import Body, Entry, Event, commit_id_of, fingerprint_of, subject_of
from core.services.channel import Message
from core.services.relay import Relay
from core.task import CancelRequested, TaskCancelled
from tests.given import CODEC, NOW_MS, assigned, command_id, quiet, running, submitted, until


class World:
    """A relay, what subscribers heard, and what it counted."""

    def __init__(self, *, held_max: int = 100) -> None:
        self.channel = MemoryChannel()
        self.published = self.dropped = 0
        self.heard: list[Message] = []
        self.relay = Relay(
            self.channel, held_max=held_max, on_published=self._on_published, on_dropped=self._on_dropped
        )

    def _on_published(self, count: int) -> None:
        self.published += count

    def _on_dropped(self, count: int) -> None:
        self.dropped += count

    async def subscribe(self, subject: str = "hive.event.>") -> None:
        await self.channel.listen(subject, self.heard.append)

    @property
    def sequences(self) -> list[str]:
        return [json.loads(message.data)["sequence"] for message in self.heard]


def commit(position: int, *events: Event, noun: str = "task", aggregate_id: str = "0a") -> tuple[Entry, Body]:
    subject = subject_of(noun, aggregate_id)
    key = command_id(position)
    commit_id = str(commit_id_of(key, subject))
    raw = CODEC.encode(
        id=commit_id,
        command="some.command",
        command_id=str(key),
        fingerprint=fingerprint_of("some.command", position),
        actor="ada",
        on_behalf_of=None,
        correlation_id="together",
        causation_id=str(key),
        occurred_at=NOW_MS,
        version=1,
        events=events,
    )
    return Entry(position, subject, commit_id, raw), CODEC.body(raw)


async def relayed(world: World, commits: Sequence[tuple[Entry, Body]], count: int) -> None:
    async with running(world.relay.run()):
        world.relay.offer(commits)
        await until(lambda: world.published + world.dropped == count, "all events, passed on or dropped")


async def test_each_event_of_a_commit_is_a_cloud_event_on_a_subject_of_its_own() -> None:
    world = World()
    await world.subscribe()
    await relayed(world, [commit(7, CancelRequested(reason="enough", grace_s=5.0), TaskCancelled(reason="enough"))], 2)
    assert [message.subject for message in world.heard] == [
        "hive.event.task.cancel_requested.0a",
        "hive.event.task.cancelled.0a",
    ]
    assert world.heard[0].headers == {"content-type": "application/cloudevents+json"}
    said = json.loads(world.heard[1].data)
    assert said == {
        "specversion": "1.0",
        "id": said["id"],
        "source": "/hivebus",
        "type": "hivebus.task.cancelled",
        "subject": "task/0a",
        "time": "2027-01-15T08:00:00.000Z",
        "datacontenttype": "application/json",
        "sequence": "7",
        "correlationid": "together",
        "causationid": str(command_id(7)),
        "actor": "ada",
        "data": {"reason": "enough"},
    }
    assert said["id"].endswith("/1")
    assert (world.published, world.dropped) == (2, 0)


async def test_events_come_in_the_order_of_their_positions() -> None:
    world = World(held_max=1000)
    await world.subscribe("hive.event.task.assigned.*")
    async with running(world.relay.run()):
        for start in range(0, 300, 100):
            world.relay.offer([commit(position, assigned()) for position in range(start, start + 100)])
            await quiet(2)
        await until(lambda: len(world.heard) == 300)
    assert world.sequences == [str(position) for position in range(300)]


async def test_what_does_not_fit_is_dropped_and_counted_and_the_gap_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    world = World(held_max=3)
    await world.subscribe()
    commits = [commit(position, assigned(), assigned()) for position in range(1, 6)]
    await relayed(world, commits, 10)
    assert (world.published, world.dropped) == (6, 4)
    assert world.sequences == ["1", "1", "2", "2", "3", "3"]
    assert [record.getMessage() for record in caplog.records] == [
        "4 events were not passed on; GET /api/events has them."
    ]


async def test_while_the_broker_is_away_events_are_dropped_and_afterwards_they_are_not() -> None:
    world = World()
    await world.subscribe()
    world.channel.connected = False
    await relayed(world, [commit(1, assigned())], 1)
    world.channel.reconnect()
    await relayed(world, [commit(2, assigned())], 2)
    assert world.sequences == ["2"]
    assert (world.published, world.dropped) == (1, 1)


async def test_words_that_are_not_ours_never_stand_in_a_subject() -> None:
    world = World()
    await world.subscribe(">")
    entry, body = commit(1, submitted(), aggregate_id="a.b")
    named, bad = commit(2, submitted())
    record = bad.events[0]
    forged = type(record)("task.x 5\r\nPUB hive.log.task.1 0\r\n", record.schema, record.data)
    bad.events[0] = forged
    await relayed(world, [(entry, body), (named, bad)], 2)
    assert (world.heard, world.dropped) == ([], 2)
