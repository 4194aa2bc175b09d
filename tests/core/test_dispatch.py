from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec import Struct

from adapters.memory.blobs import MemoryBlobs
from adapters.memory.log import MemoryLog
from adapters.memory.store import MemoryStore
from core.actions import AGGREGATES
from core.agent import RetireAgent, SpawnAgent
from core.host import RegisterHost
from core.kernel.codec import Codec
from core.kernel.command_bus import CommandBus
from core.kernel.commit import subject_of
from core.kernel.errors import (
    Forbidden,
    HivebusError,
    Invalid,
    KeyReused,
    NotFound,
    NotYet,
    Refused,
    TooMany,
    Unprocessable,
)
from core.kernel.ids import derive, from_key, uuid7
from core.kernel.registry import QuerySpec, Registry, Route, Scope
from core.kernel.times import rfc3339
from core.replay import Picked, ReplayStarted, StartReplay
from core.services import dispatch, replays
from core.services.dispatch import BATCH_MAX, Dispatcher, Envelope, Look, Principal
from core.services.positions import PositionGate
from core.services.recorder import Recorder
from core.services.vault import Vault
from core.task import CancelTask, CompleteTask
from tests.given import NOW_MS, ManualClock, running, submit, until

ADA = Principal("ada")


class ShowTask(Struct, frozen=True):
    """A question about one task."""

    task_id: str


class Reader(Struct):
    """A look at views that know the tasks of the commits they have seen."""

    at: int | None
    now_ms: int
    position: int
    seen: Sequence[str]


async def show_task(query: ShowTask, reader: Reader) -> dict[str, Any]:
    if query.task_id not in reader.seen:
        raise NotFound(f"There is no task {query.task_id}.", code="unknown_task")
    return {"id": query.task_id, "at": reader.at, "now_ms": reader.now_ms, "position": reader.position}


SHOW = QuerySpec("task.show", ShowTask, show_task, Route("GET", "/api/tasks/{task_id}"), "")


class Views:
    """Views that have folded the log up to a position."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.position = 0

    @asynccontextmanager
    async def reader(self, *, at: int | None, now_ms: int) -> AsyncIterator[Reader]:
        seen = self._log._entries[: self.position if at is None else at]
        subjects = [entry.subject for entry in seen if entry is not None]
        yield Reader(at, now_ms, self.position if at is None else at, [name.rpartition(".")[2] for name in subjects])


class NoSecrets:
    """The secrets of a machine that knows one."""

    def get(self, name: str) -> str | None:
        return None

    def names(self) -> list[str]:
        return []

    def values(self) -> Mapping[str, str]:
        return {"correct horse battery": "PASSPHRASE"}


class World:
    """A door with everything behind it in memory; the views move when they are told to."""

    def __init__(self, *, live_tasks_max: int = 100) -> None:
        self.log, self.store, self.blobs, self.clock = MemoryLog(), MemoryStore(), MemoryBlobs(), ManualClock()
        self.views = Views(self.log)
        self.applied = PositionGate()
        registry = Registry(AGGREGATES, [SHOW])
        self.codec = Codec(registry)
        self.bus = CommandBus(self.log, registry, self.codec, self.clock, self.store)
        self.live = 0
        self.fitting: list[str] = []
        self.picked_at: int | None = None
        self.door = Dispatcher(
            self.bus,
            registry,
            self.views,
            self.store,
            Vault(self.blobs, b"key"),
            NoSecrets(),
            self.clock,
            self.applied,
            pick=self.pick,
            live_tasks=lambda: self.live,
            live_tasks_max=live_tasks_max,
        )

    async def pick(self, asked: ReplayStarted, reader: Any) -> Picked:
        """What the test says that fits."""
        self.picked_at = reader.at
        return Picked(len(self.fitting), 0, self.fitting[: asked.limit])

    async def cancelled(self) -> str:
        """A task that was cancelled while it waited."""
        task_id: str = (await self.says(submit()))["task_id"]
        await self.says(CancelTask(task_id=task_id))
        return task_id

    async def says(self, command: Struct, *, who: Principal = ADA, **envelope: Any) -> dict[str, Any]:
        return await self.door.command(command, who, Envelope(**envelope))

    async def asks(self, task_id: str, **look: Any) -> dict[str, Any]:
        return await self.door.query(SHOW, ShowTask(task_id), Look(**look))

    def project(self, position: int) -> None:
        """The views have reached a position."""
        self.views.position = position
        self.applied.advance(position)

    async def record(self) -> None:
        """The store has everything that the log has."""
        head = await self.log.head()
        recorder = Recorder(self.log, self.store, self.codec, self.clock)
        async with running(recorder.run()):
            await until(lambda: recorder.position == head, "the record")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(dispatch, "READ_YOUR_WRITE_S", 0.02)
    monkeypatch.setattr(replays, "VIEWS_WITHIN_S", 0.02)
    return World()


# Commands


async def test_a_command_is_answered_with_its_position_and_what_became_of_it(world: World) -> None:
    answer = await world.says(submit(), idempotency_key="k", correlation_id="c")
    task_id = str(derive(from_key("ada", "k"), "task"))
    assert answer == {
        "task_id": task_id,
        "position": 1,
        "status": "queued",
        "created_at": rfc3339(NOW_MS),
        "correlation_id": "c",
    }
    assert await world.says(CancelTask(task_id=task_id), correlation_id="c") == {
        "task_id": task_id,
        "position": 2,
        "status": "cancelled",
        "time": rfc3339(NOW_MS),
        "correlation_id": "c",
        "message": "The task is cancelled.",
        "previous_status": "queued",
    }


async def test_spawning_and_retiring_tell_who_it_was(world: World) -> None:
    spawned = await world.says(SpawnAgent(type="shell", name="shelly"))
    assert (spawned["status"], spawned["type"], spawned["name"]) == ("starting", "shell", "shelly")
    retired = await world.says(RetireAgent(agent_id=spawned["agent_id"]))
    assert (retired["status"], retired["previous_status"]) == ("draining", "starting")


async def test_a_repeat_under_one_key_is_answered_like_the_first_and_says_that_it_is_one(world: World) -> None:
    first = await world.says(submit(), idempotency_key="k")
    world.clock.advance(5)
    assert await world.says(submit(), idempotency_key="k") == first | {"repeated": True}
    cancelled = await world.says(CancelTask(task_id=first["task_id"]), idempotency_key="k2")
    again = await world.says(CancelTask(task_id=first["task_id"]), idempotency_key="k2")
    assert again == cancelled | {
        "repeated": True,
        "previous_status": None,
        "unknown": {"previous_status": "this is the answer to a repeat"},
    }
    assert await world.log.head() == 2


async def test_a_key_belongs_to_its_actor(world: World) -> None:
    first = await world.says(submit(), idempotency_key="k")
    other = await world.says(submit(), who=Principal("bob"), idempotency_key="k")
    assert (first["task_id"] != other["task_id"], "repeated" in other) == (True, False)
    with pytest.raises(KeyReused):
        await world.says(submit(priority=9), idempotency_key="k")


async def test_without_a_key_the_same_words_are_two_tasks(world: World) -> None:
    first, second = await world.says(submit()), await world.says(submit())
    assert first["task_id"] != second["task_id"]


async def test_a_key_may_issue_only_what_its_scopes_allow(world: World) -> None:
    register = RegisterHost(host_id="h", name="box", session="s", executors=[], slots=1)
    with pytest.raises(Forbidden):
        await world.says(register)
    with pytest.raises(Forbidden):
        await world.says(submit(), who=Principal("h", frozenset({Scope.HOST})))
    assert await world.log.head() == 0


async def test_over_the_bound_of_live_tasks_only_new_ones_are_refused(world: World) -> None:
    task_id = (await world.says(submit()))["task_id"]
    world.live = 100
    with pytest.raises(TooMany) as caught:
        await world.says(submit())
    assert (caught.value.code, caught.value.retry_after_s) == ("too_many_tasks", 5)
    assert (await world.says(CancelTask(task_id=task_id)))["status"] == "cancelled"
    world.live = 99
    await world.says(submit())


async def test_a_refusal_reaches_the_caller_and_the_log(world: World) -> None:
    first = await world.says(submit())
    host = Principal("host", frozenset({Scope.HOST}))
    complete = CompleteTask(task_id=first["task_id"], fence=9, started_ms=NOW_MS, result={})
    with pytest.raises(Refused) as caught:
        await world.says(complete, who=host)
    assert caught.value.code == "stale_fence"
    assert (await world.log.entry(2)) is not None


# Secrets and large values


@pytest.mark.parametrize(
    ("command", "pointer"),
    [
        (submit(parameters={"argv": ["x"], "env": {"API_KEY": "abc"}}), "/parameters/env/API_KEY"),
        (submit(parameters={"argv": ["curl", "correct horse battery"]}), "/parameters/argv/1"),
        (submit(name="the correct horse battery"), "/name"),
        (submit(labels={"token": "abc"}), "/labels/token"),
        (CancelTask(task_id="t", reason="sk-abcdefghijklmnop1234"), "/reason"),
    ],
    ids=["a name", "a known value", "in a name", "in a label", "in a reason"],
)
async def test_a_literal_secret_is_refused_wherever_it_stands_and_nothing_is_stored(
    world: World, command: Struct, pointer: str
) -> None:
    with pytest.raises(Unprocessable) as caught:
        await world.says(command)
    assert (caught.value.code, caught.value.pointer) == ("literal_secret", pointer)
    assert await world.log.head() == 0


async def test_private_and_large_values_are_sealed_before_they_are_committed(world: World) -> None:
    large, env = "x" * 100_000, {"NOTE": {"private": "my diary"}}
    await world.says(submit(parameters={"argv": ["cat"], "env": env, "stdin": large}), idempotency_key="k")
    entry = await world.log.entry(1)
    assert entry is not None
    assert b"diary" not in entry.body
    assert len(entry.body) < 2_000
    again = await world.says(
        submit(parameters={"argv": ["cat"], "env": {"NOTE": {"private": "my diary"}}, "stdin": large}),
        idempotency_key="k",
    )
    assert again["repeated"]
    with pytest.raises(KeyReused):
        await world.says(
            submit(parameters={"argv": ["cat"], "env": {"NOTE": {"private": "yours"}}, "stdin": large}),
            idempotency_key="k",
        )


# Batches


async def test_each_item_of_a_batch_has_its_own_answer(world: World) -> None:
    broken = Invalid("Item 1 is no object.", code="malformed_json")
    items: list[Struct | HivebusError] = [submit(), broken, submit(agent_type="painter"), submit(priority=9)]
    answer = await world.door.batch(items, ADA, Envelope(idempotency_key="k"))
    batch_id = from_key("ada", "k")
    tasks = [str(derive(derive(batch_id, str(index)), "task")) for index in range(4)]
    made = {"status": "queued", "created_at": rfc3339(NOW_MS), "correlation_id": str(batch_id)}
    third = answer["items"][2]["error"]
    assert answer == {
        "items": [
            {"index": 0, "task_id": tasks[0], "position": 1} | made,
            {"index": 1, "error": broken.as_problem()},
            {"index": 2, "error": third},
            {"index": 3, "task_id": tasks[3], "position": 2} | made,
        ],
        "accepted": 2,
        "refused": 2,
        "correlation_id": str(batch_id),
        "position": 2,
    }
    assert (third["code"], third["status"]) == ("executor_required", 422)


async def test_a_batch_said_again_under_its_key_adds_nothing(world: World) -> None:
    items = [submit(priority=number) for number in range(3)]
    first = await world.door.batch(items, ADA, Envelope(idempotency_key="k"))
    again = await world.door.batch(items, ADA, Envelope(idempotency_key="k"))
    assert again["items"] == [item | {"repeated": True} for item in first["items"]]
    assert await world.log.head() == 3


async def test_a_batch_keeps_the_order_of_its_items_on_the_log(world: World) -> None:
    answer = await world.door.batch([submit(priority=n % 10) for n in range(200)], ADA, Envelope())
    assert [item["position"] for item in answer["items"]] == list(range(1, 201))


async def test_a_batch_is_bounded(world: World) -> None:
    with pytest.raises(TooMany):
        await world.door.batch([submit()] * (BATCH_MAX + 1), ADA, Envelope())
    assert await world.log.head() == 0


# Waiting for the views


async def test_who_wants_to_wait_is_answered_when_the_views_have_it(world: World) -> None:
    waiting = asyncio.create_task(world.says(submit(), wait_s=5.0))
    await until(lambda: world.applied.waiting == 1, "the wait")
    world.project(1)
    assert (await waiting)["position"] == 1


async def test_after_the_deadline_the_position_is_told(world: World) -> None:
    with pytest.raises(NotYet) as caught:
        await world.says(submit(), wait_s=0.0)
    assert (caught.value.status, caught.value.extra, await world.log.head()) == (504, {"position": 1}, 1)


async def test_a_batch_waits_for_its_last_position(world: World) -> None:
    waiting = asyncio.create_task(world.door.batch([submit(), submit()], ADA, Envelope(wait_s=5.0)))
    await until(lambda: world.applied.waiting == 1, "the wait")
    world.project(1)
    assert not waiting.done()
    world.project(2)
    assert (await waiting)["position"] == 2


# Questions


async def test_a_query_without_a_position_sees_now(world: World) -> None:
    task_id = (await world.says(submit()))["task_id"]
    world.project(1)
    world.clock.advance(7)
    assert await world.asks(task_id) == {"id": task_id, "at": None, "now_ms": NOW_MS + 7_000, "position": 1}


async def test_an_acknowledged_id_is_never_unknown_the_query_waits_for_the_views(world: World) -> None:
    task_id = (await world.says(submit()))["task_id"]
    asking = asyncio.create_task(world.asks(task_id))
    await until(lambda: world.applied.waiting == 1, "the wait")
    world.project(1)
    assert (await asking)["id"] == task_id


async def test_an_id_that_the_log_does_not_know_is_unknown_at_once(world: World) -> None:
    with pytest.raises(NotFound):
        await world.asks("nobody")
    assert world.applied.waiting == 0


async def test_an_acknowledged_id_that_stays_away_is_an_error_that_says_so(world: World) -> None:
    task_id = (await world.says(submit()))["task_id"]
    with pytest.raises(NotYet):
        await world.asks(task_id)


async def test_a_query_waits_for_the_position_it_asks_for(world: World) -> None:
    task_id = (await world.says(submit()))["task_id"]
    for look in ({"min_position": 1}, {"at": "1"}):
        asking = asyncio.create_task(world.asks(task_id, **look))
        await until(lambda: world.applied.waiting == 1, "the wait")
        world.project(1)
        assert (await asking)["id"] == task_id
        world.applied._position = world.views.position = 0
        with pytest.raises(NotYet):
            await world.asks(task_id, **look)


async def test_a_position_is_asked_for_with_the_time_at_which_it_was_recorded(world: World) -> None:
    first = (await world.says(submit()))["task_id"]
    world.clock.advance(10)
    await world.record()
    await world.says(submit())
    world.clock.advance(10)
    await world.record()
    world.project(2)
    world.clock.advance(10)
    then = {"id": first, "at": 1, "position": 1}
    assert await world.asks(first, at="1") == then | {"now_ms": NOW_MS + 10_000}
    time_ms = NOW_MS + 19_999
    assert await world.asks(first, at=rfc3339(time_ms) or "") == then | {"now_ms": time_ms}
    late_ms = NOW_MS + 20_000
    assert (await world.asks(first, at=rfc3339(late_ms) or ""))["at"] == 2
    with pytest.raises(NotFound):
        await world.asks(first, at=rfc3339(NOW_MS) or "")


async def test_what_was_recorded_at_a_time_is_waited_for_too(world: World) -> None:
    first = (await world.says(submit()))["task_id"]
    await world.record()
    world.clock.advance(10)
    with pytest.raises(NotYet):
        await world.asks(first, at=rfc3339(NOW_MS + 5_000) or "")
    world.project(1)
    assert (await world.asks(first, at=rfc3339(NOW_MS + 5_000) or ""))["at"] == 1


@pytest.mark.parametrize("at", ["yesterday", "2026-01-31", "-1", "1.5", "2027-13-01T00:00:00Z"])
async def test_what_is_neither_a_position_nor_a_time_is_refused(world: World, at: str) -> None:
    with pytest.raises(Unprocessable) as caught:
        await world.asks("t", at=at)
    assert caught.value.pointer == "/at"


async def test_the_future_is_not_known(world: World) -> None:
    with pytest.raises(Unprocessable):
        await world.asks("t", at=rfc3339(NOW_MS + 1) or "")


# Replays of many


async def test_each_task_of_a_replay_has_its_own_answer(world: World) -> None:
    """Given a cancelled task, one that waits and one that nobody knows, when replayed, then one is a new task."""
    cancelled, waiting = await world.cancelled(), (await world.says(submit()))["task_id"]
    world.fitting = [cancelled, waiting, str(uuid7(NOW_MS))]
    world.project(100)
    answer = await world.says(StartReplay(status="cancelled"), idempotency_key="k")
    started = answer["position"] - 1
    [again, *refused] = answer.pop("tasks")
    assert (again["replay_of"], again["status"], again["task_id"] != cancelled) == (cancelled, "queued", True)
    assert [item["error"]["code"] for item in refused] == ["not_replayable", "unknown_task"]
    assert (answer["replayed"], answer["errors"], answer["matched"], answer["remaining"]) == (1, 2, 3, 0)
    assert world.picked_at == started


async def test_a_replay_under_its_key_picks_as_of_its_own_position_again(world: World) -> None:
    world.fitting = [await world.cancelled()]
    world.project(100)
    first = await world.says(StartReplay(status="cancelled"), idempotency_key="k")
    looked_at, head = world.picked_at, await world.log.head()
    again = await world.says(StartReplay(status="cancelled"), idempotency_key="k")
    assert (world.picked_at, await world.log.head()) == (looked_at, head)
    assert again == first | {"repeated": True, "tasks": [first["tasks"][0] | {"repeated": True}]}
    with pytest.raises(KeyReused):
        await world.says(StartReplay(status="expired"), idempotency_key="k")


async def test_another_replay_of_the_same_task_finds_it_done_unless_it_is_forced(world: World) -> None:
    world.fitting = [await world.cancelled()]
    world.project(100)
    [first] = (await world.says(StartReplay(status="cancelled")))["tasks"]
    [second] = (await world.says(StartReplay(status="cancelled"), who=Principal("bob")))["tasks"]
    [forced] = (await world.says(StartReplay(status="cancelled", force=True)))["tasks"]
    assert (second["task_id"], second["repeated"]) == (first["task_id"], True)
    assert (forced["task_id"] != first["task_id"], "repeated" in forced) == (True, False)


async def test_a_replay_that_was_trimmed_is_not_made_a_second_time(world: World) -> None:
    world.fitting = [await world.cancelled()]
    world.project(100)
    [first] = (await world.says(StartReplay(status="cancelled")))["tasks"]
    await world.record()
    subject = subject_of("task", first["task_id"])
    await world.log.purge(subject, through=first["position"])
    world.bus.forget(subject)
    [second] = (await world.says(StartReplay(status="cancelled")))["tasks"]
    assert (second["task_id"], second["position"], second["repeated"]) == (first["task_id"], first["position"], True)


async def test_a_dry_run_leaves_nothing_and_needs_the_right_to_replay(world: World) -> None:
    world.fitting = [await world.cancelled()]
    head = await world.log.head()
    answer = await world.says(StartReplay(status="cancelled", dry_run=True))
    assert (answer["replay_id"], answer["replayed"], answer["matched"]) == (None, 0, 1)
    assert [item["replay_of"] for item in answer["tasks"]] == world.fitting
    assert (await world.log.head(), world.picked_at) == (head, None)
    with pytest.raises(Forbidden):
        await world.says(StartReplay(status="cancelled", dry_run=True), who=Principal("host", frozenset({Scope.HOST})))


async def test_a_replay_waits_for_views_that_hold_its_own_position(world: World) -> None:
    world.fitting = [await world.cancelled()]
    with pytest.raises(NotYet):
        await world.says(StartReplay(status="cancelled"), idempotency_key="k")
    world.project(100)
    answer = await world.says(StartReplay(status="cancelled"), idempotency_key="k")
    assert (answer["replayed"], answer["repeated"]) == (1, True)
