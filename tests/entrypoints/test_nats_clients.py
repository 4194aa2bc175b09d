"""The real program and a client that knows only what `hivebus env` prints."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.errors import NoRespondersError

from adapters.jetstream.server import EmbeddedServer
from core.actions import registry
from tests.entrypoints.program import RunningProgram
from tests.nats_examples import printed

DEADLINE_S = 15.0
TASK = {"type": "greet", "executor": "command", "parameters": {"argv": ["echo", "hello"]}}
STUBBORN = TASK | {"parameters": {"argv": ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]}}
NOBODYS = TASK | {"requires": ["gpu"]}


class Nats:
    """A client of the broker, and what the broker forbade it."""

    def __init__(self, client: Client, errors: list[str]) -> None:
        self.client = client
        self.errors = errors

    async def ask(self, name: str, body: Any = None, **headers: str) -> dict[str, Any]:
        """The answer to a command."""
        data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        reply = await self.client.request(f"hive.cmd.{name}", data, timeout=DEADLINE_S, headers=names or None)
        answer: dict[str, Any] = json.loads(reply.data)
        return answer

    async def forbidden(self, count: int) -> None:
        await until(lambda: len(self.errors) >= count, f"{count} refusals of the broker, of {self.errors}")


@asynccontextmanager
async def connected(program: RunningProgram, **more: Any) -> AsyncIterator[Nats]:
    values = printed(program.root)
    errors: list[str] = []

    async def on_error(error: Exception) -> None:
        errors.append(str(error).lower())

    login = {"user": values["NATS_USER"], "password": values["NATS_PASSWORD"]}
    inbox = {"inbox_prefix": values["NATS_INBOX_PREFIX"].encode()}
    options: dict[str, Any] = login | inbox | {"error_cb": on_error} | more
    client = Client()
    try:
        await client.connect(values["NATS_URL"], **options)
        yield Nats(client, errors)
    finally:
        await client.close()


async def until(condition: Any, what: str) -> Any:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_S
    while not (value := condition()):
        assert loop.time() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.01)
    return value


async def test_a_task_is_submitted_run_and_told_of(program: RunningProgram) -> None:
    async with connected(program) as me:
        heard: list[Any] = []

        async def hear(message: Any) -> None:
            heard.append(message)

        await me.client.subscribe("hive.event.task.*.*", cb=hear)
        await me.client.flush()
        answer = await me.ask("task.submit", TASK, X_Correlation_Id="together")
        assert (answer["accepted"], answer["status"], answer["correlation_id"]) == (True, "queued", "together")
        task_id = answer["task_id"]
        await until(lambda: any(message.subject.startswith("hive.event.task.completed.") for message in heard), "it")
        subjects = [message.subject.removeprefix("hive.event.task.").removesuffix(f".{task_id}") for message in heard]
        assert subjects == ["submitted", "queued", "assigned", "completed"]
        said = [json.loads(message.data) for message in heard]
        assert said[0]["actor"] == "nats:client"
        # What was told live is what can be read later, to the byte's meaning.
        assert said == program.events(after=answer["position"] - 1, id=task_id)
        assert program.ended(task_id)["result"]["stdout"] == "hello\n"
        assert me.errors == []


async def test_every_client_command_answers_over_nats_with_the_code_that_rest_gives(program: RunningProgram) -> None:
    async with connected(program) as me:
        for spec in registry().client_commands():
            assert spec.route is not None
            over_nats = await me.ask(spec.name, {"nonsense": 1})
            path = spec.route.path.replace("{task_id}", "0a").replace("{agent_id}", "0a")
            body = None if spec.route.method == "DELETE" else {"nonsense": 1}
            query = {"nonsense": "1"} if body is None else None
            over_rest = program.request(spec.route.method, path, json=body, params=query).json()
            assert (over_nats["accepted"], over_nats["refused"]) == (False, True)
            assert (over_nats["code"], over_nats["pointer"]) == (over_rest["code"], over_rest["pointer"])
        spawned = await me.ask("agent.spawn", {"type": "shell", "name": "second"})
        retired = await me.ask("agent.retire", {"agent_id": spawned["agent_id"]})
        assert (spawned["accepted"], retired["accepted"]) == (True, True)


async def test_an_idempotency_key_is_one_task_for_ever_and_another_body_is_refused(program: RunningProgram) -> None:
    async with connected(program) as me:
        first = await me.ask("task.submit", NOBODYS, Idempotency_Key="once")
        again = await me.ask("task.submit", NOBODYS, idempotency_key="once")
        assert again == first | {"repeated": True}
        other = await me.ask("task.submit", NOBODYS | {"name": "other"}, Idempotency_Key="once")
        assert (other["accepted"], other["code"]) == (False, "idempotency_key_reused")
        secret = await me.ask("task.submit", TASK | {"parameters": {"argv": ["x"], "env": {"API_KEY": "abc"}}})
        assert (secret["code"], secret["pointer"]) == ("literal_secret", "/parameters/env/API_KEY")


async def test_a_publish_without_a_reply_is_carried_out_and_its_outcome_is_an_event(program: RunningProgram) -> None:
    async with connected(program) as me:
        before = program.get("/api/status")["positions"]["recorded"]
        await me.client.publish(
            "hive.cmd.task.submit", json.dumps(NOBODYS).encode(), headers={"X-Correlation-Id": "plain"}
        )
        task = (await until(lambda: program.events(after=before, correlation_id="plain"), "its event"))[0]
        task_id = task["subject"].removeprefix("task/")
        await me.ask("task.cancel", {"task_id": task_id})
        await me.client.publish("hive.cmd.agent.retire", b'{"agent_id": "no-such"}')
        await me.client.publish("hive.cmd.task.submit", b"{}")
        agent = await me.ask("agent.spawn", {"type": "shell"})
        await me.ask("agent.retire", {"agent_id": agent["agent_id"]})
        metrics = await until(
            lambda: (
                (text := metrics_of(program))
                and 'requests_total{action="task.submit",outcome="missing_field",transport="nats"}' in text
                and 'requests_total{action="agent.retire",outcome="unknown_agent",transport="nats"}' in text
                and text
            ),
            "what was malformed to be counted",
        )
        assert 'hivebus_requests_total{action="task.submit",outcome="ok",transport="nats"}' in metrics


def metrics_of(program: RunningProgram) -> str:
    return program.request("GET", program.urls["metrics"] + "/metrics").text


async def test_a_refused_publish_leaves_its_refusal_on_the_log(program: RunningProgram) -> None:
    async with connected(program) as me:
        task = await me.ask("task.submit", NOBODYS, Idempotency_Key="refused-later")
        again = json.dumps(NOBODYS | {"priority": "high"}).encode()
        await me.client.publish("hive.cmd.task.submit", again, headers={"Idempotency-Key": "refused-later"})
        [event] = await until(
            lambda: program.events(after=task["position"], type="command.refused", limit=1), "the refusal"
        )
        assert (event["actor"], event["data"]["code"]) == ("nats:client", "idempotency_key_reused")


# --- what a client may not do -----------------------------------------------------------------------------------------

FORBIDDEN_TO_PUBLISH = (
    *("hive.log.task.0a", "hive.host.cmd.task.complete", "hive.host.x.run", "hive.event.task.completed.0a", "hive.cmd"),
    *("$JS.API.INFO", "$JS.API.STREAM.PURGE.HIVE", "$JS.API.STREAM.DELETE.HIVE", "$JS.API.STREAM.INFO.HIVE"),
    *("$JS.API.STREAM.MSG.GET.HIVE", "$JS.API.DIRECT.GET.HIVE", "$JS.API.CONSUMER.CREATE.HIVE", "$KV.x.y"),
    *("$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.HIVE.CONNZ", "$SYS.REQ.USER.INFO", "$SRV.OTHER", "_INBOX.a.b"),
    *("_INBOX_client.a.b", "anything"),
)
FORBIDDEN_TO_HEAR = (
    *(">", "hive.>", "hive.log.>", "hive.cmd.>", "hive.cmd.task.submit", "hive.host.>", "_INBOX.>", "*.>"),
    *("$JS.>", "$JS.ACK.>", "$JS.EVENT.>", "$SYS.>", "$SRV.>", "$KV.>", "*.event.>"),
)


async def test_a_client_may_publish_commands_and_nothing_else(program: RunningProgram) -> None:
    async with connected(program) as me:
        for subject in FORBIDDEN_TO_PUBLISH:
            await me.client.publish(subject, b"{}")
        await me.forbidden(len(FORBIDDEN_TO_PUBLISH))
        assert all("permissions violation for publish" in error for error in me.errors)
        assert [subject for subject in FORBIDDEN_TO_PUBLISH if f'"{subject.lower()}"' not in " ".join(me.errors)] == []


async def test_a_client_may_hear_events_and_its_own_answers_and_nothing_else(program: RunningProgram) -> None:
    async with connected(program) as me:
        for subject in FORBIDDEN_TO_HEAR:
            await me.client.subscribe(subject)
            await me.client.subscribe(subject, queue="hivebus")
        await me.forbidden(2 * len(FORBIDDEN_TO_HEAR))
        assert all("permissions violation for subscription" in error for error in me.errors)
        assert [subject for subject in FORBIDDEN_TO_HEAR if f'"{subject.lower()}"' not in " ".join(me.errors)] == []


@pytest.mark.parametrize("reply", ["$JS.API.STREAM.PURGE.HIVE", "hive.log.task.0a", "hive.cmd.task.submit", "_INBOX.a"])
async def test_a_client_cannot_make_the_program_publish_for_it(program: RunningProgram, reply: str) -> None:
    async with connected(program) as me:
        before = (await me.ask("task.submit", NOBODYS))["position"]
        for subject in ("hive.cmd.task.submit", "hive.cmd.no.such", "$SRV.INFO.hivebus"):
            await me.client.publish(subject, json.dumps(NOBODYS).encode(), reply=reply)
        after = (await me.ask("task.submit", NOBODYS))["position"]
    assert after == before + 1, "nothing came to the log, and the log is still there"
    assert program.events(after=0, limit=1)[0]["sequence"] == "1"


async def test_who_has_no_inbox_of_its_own_gets_no_answer_and_nothing_is_done(program: RunningProgram) -> None:
    async with connected(program, inbox_prefix=b"_INBOX") as stranger:
        with pytest.raises(nats.errors.TimeoutError):
            await stranger.client.request(
                "hive.cmd.task.submit", json.dumps(NOBODYS).encode(), timeout=1, headers={"X-Correlation-Id": "deaf"}
            )
        assert "permissions violation for subscription" in stranger.errors[0]
    async with connected(program) as me:
        position = (await me.ask("task.submit", NOBODYS))["position"]
    await until(lambda: program.get("/api/status")["positions"]["recorded"] >= position, "the record")
    assert program.events(after=0, correlation_id="deaf") == []


async def test_a_wrong_password_is_refused(program: RunningProgram) -> None:
    with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
        async with connected(program, password="wrong", allow_reconnect=False):
            pass


async def test_a_payload_over_the_bound_is_refused_by_the_broker(program: RunningProgram) -> None:
    async with connected(program) as me:
        with pytest.raises(nats.errors.MaxPayloadError):
            await me.ask("task.submit", b" " * (1024 * 1024 + 1))
        filled = json.dumps(NOBODYS | {"name": "x"}).encode()
        assert (await me.ask("task.submit", filled + b" " * (1_000_000 - len(filled))))["accepted"]


# --- its life ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def own(data_dir: Path) -> Iterator[RunningProgram]:
    with RunningProgram(data_dir) as running:
        yield running


async def test_passwords_are_the_owners_and_stay_through_a_restart(own: RunningProgram) -> None:
    before = printed(own.root)
    assert set(before) == {
        *("HIVEBUS_URL", "HIVEBUS_KEY", "NATS_URL", "NATS_USER", "NATS_PASSWORD", "NATS_INBOX_PREFIX")
    }
    for name in ("connection.json", "broker/passwords.json", "broker/nats-server.conf"):
        assert stat.S_IMODE((own.root / name).stat().st_mode) == 0o600, name
    stored = json.loads((own.root / "broker" / "passwords.json").read_text())
    assert len(set(stored.values())) == len(stored)
    # A data directory from before there was this user.
    own.terminate()
    (own.root / "broker" / "passwords.json").write_text(json.dumps({**stored, "client": ""}))
    own.start()
    after = json.loads((own.root / "broker" / "passwords.json").read_text())
    assert {name: after[name] for name in ("hivebus", "system")} == {
        name: stored[name] for name in ("hivebus", "system")
    }
    assert printed(own.root)["NATS_PASSWORD"] == after["client"] != before["NATS_PASSWORD"]


async def test_a_client_goes_on_after_the_broker_was_killed(own: RunningProgram) -> None:
    async with connected(own, max_reconnect_attempts=-1, reconnect_time_wait=0.1) as me:
        first = await me.ask("task.submit", NOBODYS)
        broker = own.broker_pid
        assert broker
        os.kill(broker, signal.SIGKILL)
        await until(lambda: own.broker_pid not in (None, broker) and me.client.is_connected, "the broker")

        async def asked() -> dict[str, Any] | None:
            try:
                return await me.ask("task.submit", NOBODYS, Idempotency_Key="after")
            except (nats.errors.Error, OSError):
                return None

        async with asyncio.timeout(DEADLINE_S):
            while not ((answer := await asked()) and answer["accepted"]):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
        assert answer["position"] > first["position"]


async def test_a_stop_answers_what_it_took_and_then_nobody_answers(own: RunningProgram) -> None:
    async with connected(own) as me:
        # The stop waits for this one, so the broker is still there when nobody serves any more.
        own.reaches((await me.ask("task.submit", STUBBORN))["task_id"], "running")
        outcomes: list[dict[str, Any] | BaseException] = []
        async with asyncio.timeout(DEADLINE_S):
            while not any(isinstance(outcome, BaseException) for outcome in outcomes):
                asked = [asyncio.create_task(me.ask("task.submit", NOBODYS)) for _ in range(20)]
                if len(outcomes) == 100:
                    own.signal(signal.SIGTERM)
                outcomes += await asyncio.gather(*asked, return_exceptions=True)
    answers = [outcome for outcome in outcomes if isinstance(outcome, dict)]
    assert len(answers) >= 100
    assert all(answer["accepted"] for answer in answers)
    assert {type(outcome) for outcome in outcomes if not isinstance(outcome, dict)} == {NoRespondersError}
    assert own.wait() == 0


async def test_with_a_broker_of_ones_own_its_user_is_handed_on_and_is_the_actor(tmp_path: Path, data_dir: Path) -> None:
    broker = EmbeddedServer(tmp_path / "broker", profile="fast")
    await broker.start()
    try:
        own = {"NATS_URL": broker.url, "NATS_USER": broker.user, "NATS_PASSWORD": broker.password}
        clients = {"NATS_CLIENT_USER": "client", "NATS_CLIENT_PASSWORD": broker.client_password}
        settings = {f"HIVEBUS_{name}": value for name, value in (own | clients).items()}
        with RunningProgram(data_dir, **settings) as program:
            async with connected(program) as me:
                answer = await me.ask("task.submit", NOBODYS)
                [event] = await until(lambda: program.events(id=answer["task_id"], type="task.submitted"), "the event")
                assert event["actor"] == "nats:client"
    finally:
        await broker.stop()
