"""The module `hivebus` with the real program, which may be killed at any moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hivebus
import pytest

from core.actions import registry
from entrypoints.client.actions import WRITES, reads
from projections.catalogue import QUERIES
from tests.entrypoints.program import RunningProgram
from tests.given import until

NOOP = {"type": "noop", "executor": "python", "parameters": {"function": "noop"}}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProgram]:
    with RunningProgram(tmp_path_factory.mktemp("hive") / "data") as running:
        yield running


@pytest.fixture(autouse=True)
def here(program: RunningProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVEBUS_DATA_DIR", str(program.root))
    for name in ("HIVEBUS_URL", "HIVEBUS_KEY"):
        monkeypatch.delenv(name, raising=False)


def stored(program: RunningProgram, noun: str) -> list[str]:
    """The ids of all events of a noun, in their order."""
    ids: list[str] = []
    after = 0
    while page := program.events(after=after, noun=noun, limit=1000):
        ids += [event["id"] for event in page]
        after = int(page[-1]["sequence"])
    return ids


async def test_a_kill_in_the_middle_doubles_no_command_and_skips_or_repeats_no_event(program: RunningProgram) -> None:
    count, seen, answers = 200, [], []

    async def follow(bus: hivebus.Bus) -> None:
        async for event in bus.events(after=0, noun="task"):
            seen.append(event["id"])

    async def submit(bus: hivebus.Bus, number: int) -> None:
        answers.append(await bus.submit(**NOOP, name=f"number {number}", correlation_id="kill"))

    async with hivebus.connect() as bus:
        following = asyncio.create_task(follow(bus))
        submitting = [asyncio.create_task(submit(bus, number)) for number in range(count)]
        await until(lambda: len(answers) >= count // 4, "a quarter of the answers")
        await asyncio.to_thread(program.kill)
        assert len(answers) < count
        await asyncio.to_thread(program.start)
        await asyncio.gather(*submitting)
        ended = await asyncio.gather(*(bus.result(answer["task_id"], timeout_s=40) for answer in answers))
        assert Counter(task["status"] for task in ended) == {"completed": count}
        listed = await bus.call("task.list", correlation_id="kill", limit=1000)
        assert listed["pagination"]["total"] == count
        assert sorted(task["name"] for task in listed["tasks"]) == sorted(f"number {number}" for number in range(count))
        await until(lambda: len(seen) >= 4 * count, "the events")
        following.cancel()
    assert seen == stored(program, "task")[: len(seen)]
    assert len(set(seen)) == len(seen)


async def test_a_stored_position_resumes_in_another_life_of_the_program_that_follows(program: RunningProgram) -> None:
    async with hivebus.connect() as bus:
        accepted = await bus.submit(**NOOP)
        first = bus.events(after=accepted["position"] - 1, noun="task", id=accepted["task_id"])
        async for event in first:
            assert event["type"] == "hivebus.task.submitted"
            break
        await bus.result(accepted["task_id"], timeout_s=20)
    async with hivebus.connect() as bus:
        words = []
        assert first.position is not None
        async for event in bus.events(after=first.position, noun="task", id=accepted["task_id"]):
            words.append(event["type"].removeprefix("hivebus.task."))
            if words[-1] == "completed":
                break
    # The commit of the submit holds two events: its second one was not handed out, so the commit is told again.
    assert words[:2] == ["submitted", "queued"]


async def test_events_begin_now_without_a_position_and_a_filter_leaves_out_the_others(program: RunningProgram) -> None:
    async with hivebus.connect() as bus:
        submitted, completed = bus.events(verb="submitted"), bus.events(noun="task", verb="completed")
        taking = asyncio.create_task(one_of(submitted)), asyncio.create_task(one_of(completed))
        await until(lambda: None not in (submitted.position, completed.position), "both subscriptions")
        answer = await bus.submit(**NOOP)
        events = [await task for task in taking]
    assert [event["subject"] for event in events] == [f"task/{answer['task_id']}"] * 2
    assert [event["type"] for event in events] == ["hivebus.task.submitted", "hivebus.task.completed"]
    assert int(events[0]["sequence"]) == answer["position"]


async def one_of(events: hivebus.Events) -> dict[str, Any]:
    async for event in events:
        return event
    raise AssertionError("it ended")


async def test_refusals_are_the_errors_of_the_tree(program: RunningProgram) -> None:
    async with hivebus.connect() as bus:
        with pytest.raises(hivebus.Unprocessable) as secret:
            await bus.submit(type="deploy", executor="command", parameters={"argv": ["deploy", "--token=abcdefgh"]})
        assert (secret.value.code, secret.value.pointer) == ("literal_secret", "/parameters/argv/1")
        assert secret.value.remedy
        with pytest.raises(hivebus.NotFound) as nobody:
            await bus.task("nobody")
        assert nobody.value.code == "unknown_task"
        with pytest.raises(hivebus.NotFound) as nothing:
            await bus.call("task.sumbit")
        assert nothing.value.code == "unknown_action"
        with pytest.raises(hivebus.Unprocessable) as field:
            await bus.submit(type="hello", parameters={}, colour="red")
        assert (field.value.code, field.value.pointer) == ("unknown_field", "/colour")
        ended = await bus.result((await bus.submit(**NOOP))["task_id"], timeout_s=20)
        with pytest.raises(hivebus.Refused) as late:
            await bus.cancel(ended["id"])
        assert late.value.code == "illegal_transition"
        one = await bus.submit(**NOOP, idempotency_key="once")
        again = await bus.submit(**NOOP, idempotency_key="once")
        assert (again["task_id"], again["repeated"]) == (one["task_id"], True)
        with pytest.raises(hivebus.KeyReused):
            await bus.submit(hivebus.SubmitTask(**NOOP, name="another"), idempotency_key="once")


async def test_a_task_that_goes_on_is_not_ended_and_a_cancelled_one_is(program: RunningProgram) -> None:
    async with hivebus.connect() as bus:
        sleeper = await bus.submit(type="sleep", executor="command", parameters={"argv": ["sleep", "60"]})
        with pytest.raises(hivebus.NotYet) as late:
            await bus.result(sleeper["task_id"], timeout_s=0.3)
        assert "has not ended within" in late.value.sentence
        waiting = asyncio.create_task(bus.result(sleeper["task_id"], timeout_s=30))
        await bus.execute(hivebus.CancelTask(task_id=sleeper["task_id"]))
        assert (await waiting)["status"] == "cancelled"


async def test_queries_as_structs_look_at_any_position(program: RunningProgram) -> None:
    async with hivebus.connect() as bus:
        answer = await bus.submit(**NOOP, name="looked at")
        await bus.result(answer["task_id"], timeout_s=20)
        now = await bus.query(hivebus.ShowTask(task_id=answer["task_id"]))
        then = await bus.query(hivebus.ShowTask(task_id=answer["task_id"]), at=answer["position"])
        assert (then["status"], now["status"]) == ("queued", "completed")
        assert (await bus.query(hivebus.ListAgents()))["agents"]


async def test_a_wrong_key_and_a_server_elsewhere_are_told_apart(program: RunningProgram, tmp_path: Path) -> None:
    with pytest.raises(hivebus.Unauthenticated) as wrong:
        async with hivebus.connect(key="hive_0_wrong"):
            pass
    assert (wrong.value.code, wrong.value.status) == ("unauthenticated", 401)
    for url in program.urls["ui"], program.urls["api"]:
        async with hivebus.connect(url, program.key) as bus:
            assert (await bus.call("system.status"))["status"] == "healthy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIVEBUS_DATA_DIR", str(tmp_path))
        with pytest.raises(hivebus.Unreachable, match="No server runs with the data directory"):
            async with hivebus.connect():
                pass


def test_every_action_is_known_as_a_read_or_a_write() -> None:
    assert {query.name for query in QUERIES} <= reads()
    assert {command.name for command in registry().client_commands()} == WRITES
    assert not reads() & WRITES


async def test_what_is_sent_again_as_a_read_is_an_action_that_only_reads(program: RunningProgram) -> None:
    async with hivebus.connect() as bus:
        for name in reads() - {"rpc.discover"}:
            with contextlib.suppress(hivebus.Unprocessable):  # a query that needs a field
                await bus.call(name)


async def test_a_loop_that_is_too_slow_is_let_go_and_misses_nothing(program: RunningProgram) -> None:
    count, text = 120, "x" * 50_000
    async with hivebus.connect() as bus:
        events = bus.events(noun="task", verb="submitted")
        taken: list[str] = []

        async def take() -> None:
            async for event in events:
                taken.append(event["data"]["name"])
                if len(taken) == 1:
                    # Nothing is read meanwhile: over 1 MiB lies with the program, which closes with 1013.
                    while await drops(bus) == before:
                        assert len(taken) == 1
                if len(taken) == count:
                    return

        before = await drops(bus)
        taking = asyncio.create_task(take())
        await until(lambda: events.position is not None, "the subscription")
        parameters = {"function": "echo", "arguments": {"text": text}}
        for number in range(count):
            await bus.submit(type="echo", executor="python", parameters=parameters, name=str(number))
        async with asyncio.timeout(40):
            await taking
    assert taken == [str(number) for number in range(count)]


async def drops(bus: hivebus.Bus) -> int:
    """How many slow clients the program has let go."""
    status = await bus.call("system.status")
    return int(status["websocket"]["drops"])
