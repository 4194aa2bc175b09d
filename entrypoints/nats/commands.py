"""Every command of a client as a NATS request on `hive.cmd.<noun>.<verb>`, answered after its commit.

A publish without a reply is carried out too; what becomes of it is an event. Answers go to inboxes of the client user
only: this program may publish anywhere, so a reply subject that a client chose freely would lend it that right.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from typing import Any, Literal, NotRequired, TypedDict

import msgspec

from adapters.telemetry import OK, REQUESTS, UNKNOWN, answered
from core.kernel.errors import HivebusError, NotFound, OutcomeUnknown, TooLarge, TooMany, internal
from core.kernel.ports import Clock
from core.kernel.registry import CommandSpec, Registry
from core.kernel.subjects import CLIENT_INBOX, COMMANDS, PAYLOAD_MAX_BYTES
from core.kernel.times import rfc3339
from core.services.channel import Channel, Message
from core.services.dispatch import Dispatcher, Principal
from entrypoints.decode import envelope_from, from_json
from entrypoints.nats.discovery import QUEUE, Discovery, Endpoint

IN_FLIGHT_MAX = 4096
IN_FLIGHT_BYTES_MAX = 32 * 1024 * 1024
BUSY_RETRY_S = 1.0
# A client can cause any number of these lines, so they are few; metrics count every case.
QUIET_S = 60.0

_INBOX = re.compile(rf"{re.escape(CLIENT_INBOX)}(?:\.[A-Za-z0-9_-]+)+").fullmatch

logger = logging.getLogger("hivebus.nats")


class Commands:
    """The service. Several of them share the work: each message goes to one of their queue group.

    At most 4,096 commands and 32 MiB of them are under way; a request beyond that is answered with `too_many` at once,
    a publish without a reply is dropped and counted under that code.
    """

    def __init__(
        self,
        channel: Channel,
        registry: Registry,
        dispatcher: Dispatcher,
        clock: Clock,
        principal: Principal,
        *,
        version: str,
        in_flight_max: int = IN_FLIGHT_MAX,
    ) -> None:
        """`principal` is who all these commands come from: the broker tells users apart, not their messages."""
        self._channel = channel
        self._specs = {spec.name: spec for spec in registry.client_commands()}
        self._dispatcher = dispatcher
        self._clock = clock
        self._principal = principal
        self._in_flight_max = in_flight_max
        self._endpoints = {name: _endpoint(spec) for name, spec in self._specs.items()}
        self._discovery = Discovery(
            channel,
            self._may_answer,
            self._endpoints,
            instance=secrets.token_hex(11),
            version=version,
            started=rfc3339(clock.now_ms()),
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes = 0
        self._quiet_until = 0.0
        self._numbers: list[int] = []

    async def serve(self) -> None:
        """Take commands."""
        # One subscription for all: whoever asks for a command that does not exist is told so.
        self._numbers = [await self._channel.listen(f"{COMMANDS}.>", self._take, queue=QUEUE)]
        self._numbers += await self._discovery.serve()

    async def drain(self, grace_s: float) -> int:
        """Take nothing new and answer what is under way; how many had to be given up after the grace."""
        numbers, self._numbers = self._numbers, []
        await self._channel.leave(*numbers)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        left = list(self._tasks)
        for task in left:
            task.cancel()
        return len(left)

    # --- one message ---

    def _take(self, message: Message) -> None:
        if message.reply and not self._may_answer(message):
            return
        size = len(message.data)
        if len(self._tasks) >= self._in_flight_max or self._bytes + size > IN_FLIGHT_BYTES_MAX:
            self._overflow(message)
            return
        self._bytes += size
        task = asyncio.get_running_loop().create_task(self._carry_out(message))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, size))

    def _ended(self, task: asyncio.Task[None], size: int) -> None:
        self._tasks.discard(task)
        self._bytes -= size

    def _may_answer(self, message: Message) -> bool:
        """Whether the answer is for an inbox of the client's. If not, nothing is done: nobody would hear of it."""
        if _INBOX(message.reply):
            return True
        REQUESTS.add(self._known(message), "nats", "forbidden_reply")
        self._warn(f"A client wants its answer outside {CLIENT_INBOX}.>: what it sends is ignored.")
        return False

    def _overflow(self, message: Message) -> None:
        self._warn("More commands of NATS clients come at once than are taken: some are refused.")
        error = TooMany(
            f"{len(self._tasks)} commands of NATS clients are under way; this one was not looked at.",
            remedy="Send it again in a moment, with fewer at once.",
            retry_after_s=BUSY_RETRY_S,
        )
        self._refuse(message, error)
        REQUESTS.add(self._known(message), "nats", error.code)
        if endpoint := self._endpoints.get(_name(message)):
            endpoint.answered(0, error.code)

    def _warn(self, text: str) -> None:
        if self._clock.monotonic() >= self._quiet_until:
            self._quiet_until = self._clock.monotonic() + QUIET_S
            logger.warning(text)

    async def _carry_out(self, message: Message) -> None:
        began = time.perf_counter_ns()
        name = _name(message)
        refusal: HivebusError | None = None
        try:
            answer = await self._execute(name, message)
            self._answer(message, {"accepted": True, **answer})
        except HivebusError as error:
            refusal = error
        except Exception:
            logger.exception("A command on %s failed.", message.subject)
            refusal = internal()
        if refusal is not None:
            self._refuse(message, refusal)
        took_ns = time.perf_counter_ns() - began
        answered(self._known(message), "nats", took_ns / 1e9, refusal.code if refusal else OK)
        if endpoint := self._endpoints.get(name):
            endpoint.answered(took_ns, refusal.code if refusal else None)

    async def _execute(self, name: str, message: Message) -> dict[str, Any]:
        spec = self._specs.get(name)
        if spec is None:
            raise NotFound(
                f"There is no command {name[:100]}.",
                code="unknown_command",
                remedy="$SRV.INFO.hivebus lists them, and docs/reference/nats.md.",
            )
        if len(message.data) > PAYLOAD_MAX_BYTES:
            raise TooLarge(
                "The payload is larger than 1 MiB.", remedy="Store large values with PUT /api/blobs/{sha256}."
            )
        headers = message.headers
        envelope = envelope_from(headers.get("idempotency-key"), headers.get("x-correlation-id"))
        command = from_json(spec.struct, message.data or b"{}")
        return await self._dispatcher.command(command, self._principal, envelope)

    def _known(self, message: Message) -> str:
        """The command's name for metrics: whatever a client asks for, there are no more names than commands."""
        name = _name(message)
        return name if name in self._specs else UNKNOWN

    def _refuse(self, message: Message, error: HivebusError) -> None:
        # These two headers are what clients of micro services look at.
        headers = {"Nats-Service-Error": error.code, "Nats-Service-Error-Code": str(error.status)}
        self._answer(message, refusal_of(error), headers)

    def _answer(self, message: Message, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        if message.reply:
            self._channel.answer(message.reply, msgspec.json.encode(body), headers or {})


class Refusal(TypedDict):
    """What a caller gets instead of an answer. Where the outcome is unknown, `accepted` and `refused` are null."""

    accepted: Literal[False] | None
    refused: Literal[True] | None
    code: str
    reason: str
    remedy: str
    pointer: NotRequired[str]
    retry_after_s: NotRequired[float]


def refusal_of(error: HivebusError) -> dict[str, Any]:
    """An error as an answer. Where the outcome is unknown neither `accepted` nor `refused` is said: both are null."""
    unknown = isinstance(error, OutcomeUnknown)
    answer: dict[str, Any] = {
        "accepted": None if unknown else False,
        "refused": None if unknown else True,
        "code": error.code,
        "reason": error.sentence,
    }
    body = error.as_problem()
    return answer | {name: body[name] for name in ("remedy", "pointer", "retry_after_s") if name in body} | error.extra


def _name(message: Message) -> str:
    return message.subject[len(COMMANDS) + 1 :]


def _endpoint(spec: CommandSpec) -> Endpoint:
    return Endpoint(
        name=spec.name.replace(".", "_"), subject=f"{COMMANDS}.{spec.name}", description=spec.doc.partition("\n")[0]
    )
