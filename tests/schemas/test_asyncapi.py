"""The AsyncAPI document: every command and event, and what really goes over the wires."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from core import task as t
from core.actions import registry
from core.scheduling.fleet import Fleet
from entrypoints.rpc.log_messages import LogMessages
from entrypoints.rpc.notifications import Notifications
from entrypoints.schemas.connection import NOTIFICATIONS
from entrypoints.schemas.declared import declared, documents
from tests.entrypoints.program import RunningProgram
from tests.entrypoints.test_nats_clients import TASK, connected
from tests.given import History, assigned, spawned, started, submitted

DOCUMENT = documents("0.0.0").asyncapi
MESSAGES = DOCUMENT["components"]["messages"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProgram]:
    with RunningProgram(tmp_path_factory.mktemp("hive") / "data") as running:
        yield running


def complaints(message: str, payload: Any) -> list[str]:
    judge = Draft202012Validator(MESSAGES[message]["payload"] | {"components": DOCUMENT["components"]})
    return [f"{error.json_path}: {error.message}" for error in judge.iter_errors(payload)]


def test_every_command_and_every_event_has_its_subject() -> None:
    addresses = {channel["address"] for channel in DOCUMENT["channels"].values()}
    program = registry()
    assert {f"hive.cmd.{spec.name}" for spec in program.client_commands()} <= addresses
    assert {f"hive.event.{spec.name}.{{id}}" for spec in program.event_specs.values()} <= addresses
    assert {f"hive.cmd.{name}" for name in declared().actions if f"hive.cmd.{name}" in addresses} == {
        f"hive.cmd.{spec.name}" for spec in program.client_commands()
    }


async def test_answers_over_nats_are_as_described(program: RunningProgram) -> None:
    async with connected(program) as me:
        accepted = await me.ask("task.submit", TASK)
        repeated = [await me.ask("task.submit", TASK, Idempotency_Key="again") for _ in range(2)][-1]
        refused = await me.ask("task.cancel", {"task_id": "nobody"})
    assert complaints("task_submit_accepted", accepted) == []
    assert repeated["repeated"] is True
    assert complaints("task_submit_accepted", repeated) == []
    assert complaints("refusal", refused) == []
    assert complaints("task_submit_accepted", refused) != []


def test_notifications_are_as_described() -> None:
    made = History(folding=False)
    made.commit("agent", "a", spawned())
    made.commit("agent", "a", started())
    made.commit("task", "x", submitted(), t.TaskQueued())
    made.commit("task", "x", assigned())
    made.commit("task", "x", t.TaskProgressed(fence=4, progress=0.5, current_step="half", steps_completed=1))
    made.commit("task", "x", t.TaskCompleted(fence=4, agent_id="a", started_ms=0, result={}))
    notifications = Notifications(Fleet)
    messages = LogMessages()
    messages.emit(logging.LogRecord("hivebus", logging.WARNING, "", 0, "The disk is full.", (), None))
    told = [one for commit in made.commits for one in notifications.of(commit)] + messages.take()
    assert {one.method for one in told} == {"agent/status", "task/progress", "log/message"}
    for one in told:
        frame = {"jsonrpc": "2.0", "method": one.method, "params": one.params}
        assert complaints(one.method.replace("/", "_"), frame) == []
        assert set(one.params) == set(_fields(one.method))


def _fields(method: str) -> list[str]:
    [params] = [found.params for found in NOTIFICATIONS if found.method == method]
    return list(params.__annotations__)


def test_an_example_is_a_message_as_described() -> None:
    shown = [
        (name, example["payload"]) for name, message in MESSAGES.items() for example in message.get("examples", ())
    ]
    assert len(shown) >= 5
    assert [(name, found) for name, payload in shown if (found := complaints(name, payload))] == []
