"""Scheduler and hosts in different processes: messages over NATS.

    hive.host.cmd.<noun>.<verb>   a host's command, answered after its commit by any process that has a command bus
    hive.host.beat                a host's beat, heard by every scheduler, answered by the one that leads
    hive.host.<host>.run, .cancel from the scheduler to a host; one that is lost costs a beat

Payloads are JSON. The subjects say nothing of who sent what: whoever has the hosts' login is a host.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Struct

from adapters.jetstream.requests import NoAnswer, Requests
from adapters.jetstream.wire import WireClient, publish_frame
from core.kernel import errors
from core.kernel.errors import Forbidden, HivebusError, Invalid, TooLarge, Unavailable
from core.kernel.registry import Registry, Scope
from core.kernel.subjects import HOST_BEAT, HOST_COMMANDS, HOST_ROOT
from core.services.agent_host import AgentHost
from core.services.host_door import HostDoor
from core.services.link import Beat, BeatAnswer, Cancel, Run

QUEUE = "bus"

# Below the broker's max_payload of 1 MiB: a frame above it would cost the connection.
MESSAGE_MAX_BYTES = 768 * 1024
IN_FLIGHT_MAX = 512
ANSWER_S = 10.0
BEAT_S = 2.0

_HOST_ID = re.compile(r"[A-Za-z0-9-]{1,64}").fullmatch
_encode = msgspec.json.Encoder().encode

_logger = logging.getLogger("hivebus.hosts")


class _Asked(Struct, omit_defaults=True):
    """A command on its way."""

    host_id: str
    correlation_id: str
    command: msgspec.Raw
    cause: int = 0
    command_id: str | None = None


class _Problem(Struct, omit_defaults=True):
    """An error on its way back: its class by name, and what it says."""

    kind: str
    code: str
    sentence: str
    remedy: str = ""
    retry_after_s: float | None = None


class _Answer(Struct, omit_defaults=True):
    """One of the two, or neither: nobody leads here."""

    position: int | None = None
    beat: BeatAnswer | None = None
    error: _Problem | None = None


_ERRORS = {
    kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HivebusError)
}


def _problem(error: HivebusError) -> _Answer:
    return _Answer(error=_Problem(type(error).__name__, error.code, error.sentence, error.remedy, error.retry_after_s))


def _raised(problem: _Problem) -> HivebusError:
    kind = _ERRORS.get(problem.kind, HivebusError)
    return kind(problem.sentence, code=problem.code, remedy=problem.remedy, retry_after_s=problem.retry_after_s)


class NatsGateway:
    """The scheduler's way to hosts elsewhere (see core.services.link.Gateway)."""

    def __init__(self, client: WireClient) -> None:
        self._client = client

    def run(self, host_id: str, run: Run) -> None:
        """Send an attempt."""
        self._send(f"{HOST_ROOT}.{host_id}.run", run)

    def cancel(self, host_id: str, cancel: Cancel) -> None:
        """Send a cancellation."""
        self._send(f"{HOST_ROOT}.{host_id}.cancel", cancel)

    def _send(self, subject: str, message: Run | Cancel) -> None:
        payload = _encode(message)
        if not self._client.is_connected:
            return  # what is queued now would arrive after the beat that makes up for it
        if len(payload) > MESSAGE_MAX_BYTES:
            _logger.error("A message to %s of %d bytes is too large to be sent.", subject, len(payload))
            return
        self._client.send(publish_frame(subject, "", payload))


class NatsControl:
    """A host's way to a bus elsewhere (see core.services.link.Control). Its requests have an inbox of their own."""

    def __init__(self, client: WireClient, registry: Registry, host_id: str, *, answer_s: float = ANSWER_S) -> None:
        self._requests = Requests(client)
        self._registry = registry
        self._host_id = host_id
        self._answer_s = answer_s

    async def start(self) -> None:
        """Subscribe the inbox."""
        await self._requests.start()

    def close(self) -> None:
        """Give up what still waits."""
        self._requests.close()

    async def execute(
        self, command: Struct, *, correlation_id: str, cause: int = 0, command_id: str | None = None
    ) -> int:
        """Ask whoever has a command bus."""
        asked = _Asked(self._host_id, correlation_id, msgspec.Raw(_encode(command)), cause, command_id)
        payload = _encode(asked)
        if len(payload) > MESSAGE_MAX_BYTES:
            raise TooLarge(
                f"The command has {len(payload)} bytes; at most {MESSAGE_MAX_BYTES} are sent.",
                remedy="Return less, and keep large values as blobs.",
            )
        name = self._registry.command_of(command).name
        answer = await self._ask(f"{HOST_COMMANDS}.{name}", payload, self._answer_s)
        if answer.position is None:
            raise Unavailable("The bus gave an answer without a position.")
        return answer.position

    async def beat(self, beat: Beat) -> BeatAnswer:
        """Ask the scheduler that leads."""
        answer = await self._ask(HOST_BEAT, _encode(beat), BEAT_S)
        if answer.beat is None:
            raise Unavailable("The scheduler gave an answer without a beat.")
        return answer.beat

    async def _ask(self, subject: str, payload: bytes, timeout_s: float) -> _Answer:
        try:
            reply = await self._requests.one(subject, payload, timeout_s=timeout_s)
            answer = msgspec.json.decode(reply.data, type=_Answer)
        except NoAnswer:
            raise Unavailable(
                "Nobody answered on the broker.",
                code="no_answer",
                retry_after_s=1,
                remedy="The same command id makes a repeat harmless.",
            ) from None
        except msgspec.MsgspecError as error:
            raise Unavailable(f"An answer cannot be read: {error}.", code="no_answer") from None
        if answer.error is not None:
            raise _raised(answer.error)
        return answer


async def listen(client: WireClient, host: AgentHost) -> None:
    """Pass on what a scheduler sends to this host, and beat at once whenever the connection is there again."""

    def on_run(_subject: bytes, _reply: bytes, data: bytes, _headers: bytes) -> None:
        host.run_attempt(msgspec.json.decode(data, type=Run))

    def on_cancel(_subject: bytes, _reply: bytes, data: bytes, _headers: bytes) -> None:
        host.cancel_attempt(msgspec.json.decode(data, type=Cancel))

    await client.listen(f"{HOST_ROOT}.{host.host_id}.run", on_run)
    await client.listen(f"{HOST_ROOT}.{host.host_id}.cancel", on_cancel)
    client.on_back.append(host.nudge)


class Responder:
    """Answers requests on one subject, each in a task of its own, at most 512 at a time; None stays unanswered."""

    def __init__(
        self,
        client: WireClient,
        subject: str,
        answer: Callable[[str, bytes], Awaitable[_Answer | None]],
        *,
        queue: str = "",
    ) -> None:
        self._client = client
        self._subject = subject
        self._answer = answer
        self._queue = queue
        self._number = 0
        self._under_way: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Answer from now on."""
        self._number = await self._client.listen(self._subject, self._on_message, queue=self._queue)

    async def close(self) -> None:
        """Take nothing more, and finish what was taken."""
        self._client.unlisten(self._number)
        if self._under_way:
            await asyncio.wait(self._under_way)

    def _on_message(self, subject: bytes, reply: bytes, data: bytes, _headers: bytes) -> None:
        if len(self._under_way) >= IN_FLIGHT_MAX:
            busy = Unavailable(f"{IN_FLIGHT_MAX} requests of hosts are under way.", code="busy", retry_after_s=1)
            self._send(reply, _problem(busy))
            return
        task = asyncio.create_task(self._serve(subject.decode(), reply, data))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _serve(self, subject: str, reply: bytes, data: bytes) -> None:
        try:
            answer = await self._answer(subject, data)
        except HivebusError as error:
            answer = _problem(error)
        except msgspec.MsgspecError as error:
            answer = _problem(Invalid(f"This message cannot be read: {error}."))
        except Exception:
            _logger.exception("A request on %s failed.", subject)
            answer = _problem(Unavailable("The request failed; the log of the program says why.", code="internal"))
        if answer is not None:
            self._send(reply, answer)

    def _send(self, reply: bytes, answer: _Answer) -> None:
        # After a lost connection nobody waits for this answer any more.
        if reply and self._client.is_connected:
            self._client.send(publish_frame(reply.decode(), "", _encode(answer)))


def commands(client: WireClient, door: HostDoor, registry: Registry) -> Responder:
    """Lets hosts elsewhere through the door. Of all processes that have a bus, one gets each command."""
    structs = {spec.name: spec.struct for spec in registry.commands.values() if spec.scope is Scope.HOST}

    async def answer(subject: str, data: bytes) -> _Answer:
        name = subject.removeprefix(f"{HOST_COMMANDS}.")
        struct = structs.get(name)
        if struct is None:
            raise Forbidden(f"A host may not issue {name}.", remedy="Send it as a client, with a key.")
        asked = msgspec.json.decode(data, type=_Asked)
        if not _HOST_ID(asked.host_id):
            raise Invalid("A host's id is 1 to 64 letters, digits and hyphens.")
        command: Any = msgspec.json.decode(asked.command, type=struct)
        position = await door.execute(
            asked.host_id,
            command,
            correlation_id=asked.correlation_id,
            cause=asked.cause,
            command_id=asked.command_id,
        )
        return _Answer(position=position)

    return Responder(client, f"{HOST_COMMANDS}.>", answer, queue=QUEUE)


def beats(client: WireClient, beat: Callable[[Beat], Awaitable[BeatAnswer]], leading: Callable[[], bool]) -> Responder:
    """Answers beats while `leading`, and is silent otherwise: then another process leads, or none does."""

    async def answer(_subject: str, data: bytes) -> _Answer | None:
        if not leading():
            return None
        said = await beat(msgspec.json.decode(data, type=Beat))
        return _Answer(beat=msgspec.structs.replace(said, run=_as_many_as_fit(said.run)))

    return Responder(client, HOST_BEAT, answer)


def _as_many_as_fit(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    """The next beat brings the rest. What an answer holds beside them is small: two numbers for each slot."""
    left = MESSAGE_MAX_BYTES // 2
    fitting = 0
    for run in runs:
        left -= len(_encode(run))
        if left < 0:
            break
        fitting += 1
    # An attempt that alone is larger fits the message, too: a commit has at most 256 KiB.
    return runs[: max(1, fitting)]
