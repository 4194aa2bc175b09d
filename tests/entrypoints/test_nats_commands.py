"""The service without a broker: bounds, inboxes and draining, with commands that end when the test says so."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from msgspec import Struct

from adapters.memory.channel import MemoryChannel
from core.kernel.errors import HivebusError, OutcomeUnknown, Refused
from core.kernel.subjects import PAYLOAD_MAX_BYTES
from core.services.channel import Message
from core.services.dispatch import Dispatcher, Envelope, Principal
from core.task import CancelTask, SubmitTask
from entrypoints.nats import commands as commands_module
from entrypoints.nats.commands import Commands
from tests.given import REGISTRY, ManualClock, quiet, until

TASK = json.dumps({"type": "greet", "executor": "command", "parameters": {"argv": ["true"]}}).encode()
INBOX = "_INBOX_client.abc.1"


class SlowDispatcher:
    """A dispatcher that shows what it was given, and answers when it is told to."""

    def __init__(self) -> None:
        self.given: list[tuple[Struct, Principal, Envelope]] = []
        self._answers: list[asyncio.Future[dict[str, Any]]] = []

    async def command(self, command: Struct, principal: Principal, envelope: Envelope) -> dict[str, Any]:
        self.given.append((command, principal, envelope))
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        return await answer

    def let_go(self, outcome: dict[str, Any] | Exception) -> None:
        for answer in self._answers:
            if not answer.done():
                if isinstance(outcome, Exception):
                    answer.set_exception(outcome)
                else:
                    answer.set_result(outcome)


class World:
    """The service, a client's inbox, and the dispatcher behind it."""

    def __init__(self, *, in_flight_max: int = 8) -> None:
        self.channel = MemoryChannel()
        self.dispatcher = SlowDispatcher()
        self.service = Commands(
            self.channel,
            REGISTRY,
            cast("Dispatcher", self.dispatcher),
            ManualClock(),
            Principal("nats:client"),
            version="1.2.3",
            in_flight_max=in_flight_max,
        )
        self.everything: list[Message] = []

    async def served(self) -> World:
        await self.service.serve()
        await self.channel.listen(">", self.everything.append)
        return self

    def send(self, name: str, data: bytes = TASK, *, reply: str = INBOX, **headers: str) -> None:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.channel.send(Message(f"hive.cmd.{name}", reply, data, names))

    @property
    def answers(self) -> list[dict[str, Any]]:
        return [json.loads(message.data) for message in self.everything if message.subject == INBOX]


async def test_a_request_reaches_the_dispatcher_as_over_rest_and_its_answer_the_inbox() -> None:
    world = await World().served()
    world.send("task.submit", idempotency_key="k", x_correlation_id="c")
    await until(lambda: len(world.dispatcher.given) == 1)
    [(command, principal, envelope)] = world.dispatcher.given
    assert isinstance(command, SubmitTask)
    assert command.parameters == {"argv": ["true"]}
    assert (principal, envelope) == (Principal("nats:client"), Envelope(idempotency_key="k", correlation_id="c"))
    world.dispatcher.let_go({"task_id": "0a", "position": 7})
    await until(lambda: len(world.answers) == 1)
    assert world.answers == [{"accepted": True, "task_id": "0a", "position": 7}]


async def test_a_publish_without_a_reply_is_carried_out_and_nothing_is_sent() -> None:
    world = await World().served()
    world.send("task.cancel", b'{"task_id": "0a"}', reply="")
    await until(lambda: len(world.dispatcher.given) == 1)
    assert world.dispatcher.given[0][0] == CancelTask(task_id="0a")
    world.dispatcher.let_go(Refused("No."))
    await quiet()
    assert [message.subject for message in world.everything] == ["hive.cmd.task.cancel"]


async def test_over_the_bound_a_request_is_refused_at_once_and_the_others_go_on() -> None:
    world = await World(in_flight_max=3).served()
    for _ in range(5):
        world.send("task.submit")
    await until(lambda: len(world.answers) == 2)
    assert {answer["code"] for answer in world.answers} == {"too_many"}
    assert world.answers[0]["retry_after_s"] == 1.0
    await until(lambda: len(world.dispatcher.given) == 3)
    world.dispatcher.let_go({"position": 1})
    await until(lambda: len(world.answers) == 5)
    await quiet()
    world.send("task.submit")
    await until(lambda: len(world.dispatcher.given) == 4)
    await world.service.drain(0.0)


async def test_the_bytes_under_way_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands_module, "IN_FLIGHT_BYTES_MAX", 2 * len(TASK))
    world = await World().served()
    for _ in range(3):
        world.send("task.submit")
    await until(lambda: [answer["code"] for answer in world.answers] == ["too_many"])
    await until(lambda: len(world.dispatcher.given) == 2)
    world.dispatcher.let_go({"position": 1})
    await until(lambda: len(world.answers) == 3)
    await quiet()
    world.send("task.submit")
    await until(lambda: len(world.dispatcher.given) == 3)
    await world.service.drain(0.0)


@pytest.mark.parametrize(
    "reply",
    [
        *("$JS.API.STREAM.PURGE.HIVE", "hive.log.task.1", "hive.cmd.task.submit", "_INBOX.abc", "_INBOX_other.abc"),
        *("_INBOX_client", "_INBOX_client.", "_INBOX_client.>", "_INBOX_client.*", "_INBOX_clients.a"),
    ],
)
@pytest.mark.parametrize("subject", ["hive.cmd.task.submit", "$SRV.PING", "$SRV.INFO.hivebus"])
async def test_nothing_is_sent_to_a_subject_that_is_no_inbox_of_the_client(subject: str, reply: str) -> None:
    """The program may publish anywhere; a client must not borrow that by naming where its answer goes."""
    world = await World(in_flight_max=0).served()
    world.channel.send(Message(subject, reply, TASK, {}))
    await quiet()
    assert [message.subject for message in world.everything] == [subject]
    assert world.dispatcher.given == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            Refused("It has ended.", code="illegal_transition", remedy="Leave it.", pointer="/task_id"),
            {
                **{"accepted": False, "refused": True, "code": "illegal_transition", "reason": "It has ended."},
                **{"remedy": "Leave it.", "pointer": "/task_id"},
            },
        ),
        (
            OutcomeUnknown("Not acknowledged.", remedy="Send it again under its key."),
            {
                **{"accepted": None, "refused": None, "code": "outcome_unknown", "reason": "Not acknowledged."},
                "remedy": "Send it again under its key.",
            },
        ),
        (
            RuntimeError("a bug with /etc/passwd in it"),
            {
                **{"accepted": False, "refused": True, "code": "internal"},
                "reason": "Something broke inside Hivebus; it is in the program's log.",
                "remedy": "Try again; if it lasts, report it with the log's lines.",
            },
        ),
    ],
    ids=["a refusal", "an unknown outcome", "a bug"],
)
async def test_what_went_wrong_is_said_with_its_code_and_never_as_a_failure_that_is_not_known(
    error: Exception, said: dict[str, Any]
) -> None:
    world = await World().served()
    world.send("task.submit")
    await until(lambda: len(world.dispatcher.given) == 1)
    world.dispatcher.let_go(error)
    await until(lambda: len(world.answers) == 1)
    assert world.answers == [said]
    status = str(error.status) if isinstance(error, HivebusError) else "500"
    assert world.everything[-1].headers == {"nats-service-error": said["code"], "nats-service-error-code": status}


@pytest.mark.parametrize(
    ("name", "data", "headers", "code"),
    [
        ("task.explode", TASK, {}, "unknown_command"),
        ("task.complete", b"{}", {}, "unknown_command"),
        ("*", TASK, {}, "unknown_command"),
        ("task.submit", b"", {}, "missing_field"),
        ("task.submit", b"{", {}, "malformed_json"),
        ("task.submit", b'{"parameters":' * 50_000, {}, "malformed_json"),
        ("task.submit", b"[]", {}, "invalid_field"),
        ("task.submit", b'{"type": "a", "parameters": {}, "colour": 1}', {}, "unknown_field"),
        ("task.submit", b" " * (PAYLOAD_MAX_BYTES + 1), {}, "too_large"),
        ("task.submit", TASK, {"idempotency_key": "x" * 201}, "invalid_request"),
        ("task.submit", TASK, {"x_correlation_id": "a b"}, "invalid_request"),
    ],
)
async def test_what_is_no_command_is_told_so(name: str, data: bytes, headers: dict[str, str], code: str) -> None:
    world = await World().served()
    world.send(name, data, **headers)
    await until(lambda: len(world.answers) == 1)
    assert (world.answers[0]["accepted"], world.answers[0]["code"]) == (False, code)
    assert world.answers[0]["remedy"]
    assert world.dispatcher.given == []


async def test_draining_answers_what_is_under_way_and_takes_nothing_new() -> None:
    world = await World().served()
    world.send("task.submit")
    await until(lambda: len(world.dispatcher.given) == 1)
    draining = asyncio.create_task(world.service.drain(5.0))
    await quiet()
    world.send("task.submit")
    world.channel.send(Message("$SRV.PING", INBOX, b"", {}))
    await quiet()
    assert (len(world.dispatcher.given), world.answers, draining.done()) == (1, [], False)
    world.dispatcher.let_go({"position": 3})
    assert await draining == 0
    assert world.answers == [{"accepted": True, "position": 3}]


async def test_what_does_not_end_within_the_grace_is_counted() -> None:
    world = await World().served()
    world.send("task.submit")
    await until(lambda: len(world.dispatcher.given) == 1)
    assert await world.service.drain(0.0) == 1


async def test_discovery_lists_every_command_and_counts_what_they_did() -> None:
    world = await World().served()
    world.send("task.explode")
    world.send("task.submit", b"{}")
    world.send("task.submit")
    await until(lambda: len(world.dispatcher.given) == 1 and len(world.answers) == 2)
    world.dispatcher.let_go({"position": 1})
    await until(lambda: len(world.answers) == 3)
    world.everything.clear()
    for verb in ("PING", "INFO", "STATS"):
        world.channel.send(Message(f"$SRV.{verb}.hivebus", INBOX, b"", {}))
    ping, info, stats = world.answers
    assert (ping["type"], ping["name"], ping["version"]) == ("io.nats.micro.v1.ping_response", "hivebus", "1.2.3")
    assert {info["id"], stats["id"]} == {ping["id"]}
    wanted = {f"hive.cmd.{spec.name}" for spec in REGISTRY.client_commands()}
    assert {endpoint["subject"] for endpoint in info["endpoints"]} == wanted
    assert all(endpoint["metadata"]["description"] for endpoint in info["endpoints"])
    counted = {endpoint["name"]: endpoint for endpoint in stats["endpoints"]}
    submitted = counted["task_submit"]
    assert (submitted["num_requests"], submitted["num_errors"], submitted["last_error"]) == (2, 1, "missing_field")
    assert submitted["processing_time"] > 0
    assert submitted["average_processing_time"] == submitted["processing_time"] // 2
    assert counted["task_cancel"]["num_requests"] == 0
    world.everything.clear()
    world.channel.send(Message(f"$SRV.PING.hivebus.{ping['id']}", INBOX, b"", {}))
    world.channel.send(Message("$SRV.PING.hivebus.another", INBOX, b"", {}))
    assert world.answers == [ping]
