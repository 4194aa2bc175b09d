"""The event log on JetStream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import NoReturn

from adapters.jetstream.api import (
    FULL,
    RIVAL_IN_FLIGHT,
    WRONG_LAST_SEQUENCE,
    Ack,
    ApiError,
    unreachable,
)
from adapters.jetstream.follower import COPIED_HEARTBEAT_S, HEARTBEAT_S, Follower
from adapters.jetstream.gate import Gate
from adapters.jetstream.group_commit import GroupCommit
from adapters.jetstream.health import Pulse
from adapters.jetstream.publisher import IN_FLIGHT_MAX, Publisher
from adapters.jetstream.reader import Reader
from adapters.jetstream.requests import Requests
from adapters.jetstream.wire import WireClient
from adapters.telemetry import APPEND_DURATION
from core.kernel.commit import COMMIT_MAX_BYTES, Entry
from core.kernel.errors import LogFull, OutcomeUnknown, TooLarge, Unavailable
from core.kernel.ports import Conflict

APPEND_DEADLINE_S = 5.0
TRY_MAX_S = 2.0
RETRY_PAUSE_S = 0.02


class JetStreamLog:
    """EventLog over one stream. Run `watch` beside it: it is how silence of the broker is noticed while idle."""

    def __init__(
        self,
        client: WireClient,
        *,
        replicas: int = 1,
        append_deadline_s: float = APPEND_DEADLINE_S,
        in_flight_max: int = IN_FLIGHT_MAX,
        grouped: bool = False,
        guarded: bool = False,
    ) -> None:
        """`guarded`: the gate is shut now and after each loss of the connection, until somebody opens it."""
        self._client = client
        self._replicas = replicas
        self.gate = Gate(client, guarded=guarded)
        self._append_deadline_s = append_deadline_s
        self._loop = asyncio.get_running_loop()
        self._requests = Requests(client)
        self._reader = Reader(self._requests, replicas=replicas)
        self._pulse = Pulse(client, self._requests, self.gate)
        try_s = min(TRY_MAX_S, append_deadline_s / 2)
        self._publisher = Publisher(client, self._pulse, timeout_s=try_s, in_flight_max=in_flight_max)
        self._group = GroupCommit(client, self._pulse, self._publisher, timeout_s=try_s) if grouped else None
        self._publish = (self._group or self._publisher).publish
        self._publisher.on_stored = self._stored
        self._followers: set[Follower] = set()
        # Says why nothing may be appended, while that is so: a broker whose disk is full never answers an append again.
        self.refusal: Callable[[], LogFull] | None = None
        self._silent_since: float | None = None

    @classmethod
    async def open(
        cls,
        client: WireClient,
        *,
        replicas: int = 1,
        append_deadline_s: float = APPEND_DEADLINE_S,
        in_flight_max: int = IN_FLIGHT_MAX,
        grouped: bool = False,
        guarded: bool = False,
    ) -> JetStreamLog:
        """A log on a connection whose stream is ensured, with the `replicas` that `ensure_stream` told.

        `grouped` is for a broker that syncs every append to disk.
        """
        log = cls(
            client,
            replicas=replicas,
            append_deadline_s=append_deadline_s,
            in_flight_max=in_flight_max,
            grouped=grouped,
            guarded=guarded,
        )
        await log._requests.start()
        await log._publisher.start()
        if log._group is not None:
            await log._group.start()
        return log

    async def close(self) -> None:
        """End followers and requests. Appends in flight end as OutcomeUnknown; the connection stays open."""
        for follower in list(self._followers):
            await follower.aclose()
        if self._group is not None:
            self._group.close()
        self._publisher.close()
        self._requests.close()
        self.gate.close()

    async def watch(self) -> NoReturn:
        """Ask the broker once a second; run it in the program's task group. Raises when the connection is closed."""
        await self._pulse.watch()

    async def healthy(self) -> bool:
        """See EventLog."""
        return await self._pulse.healthy()

    @property
    def silent_s(self) -> float:
        """How long appends that were sent have had no answer; 0 when the last one had."""
        return 0.0 if self._silent_since is None else self._loop.time() - self._silent_since

    async def append(self, subject: str, commit_id: str, body: bytes, *, expected: int) -> int:
        """See EventLog. Also raises TooLarge."""
        if len(body) > COMMIT_MAX_BYTES:
            # The server would end the connection of everybody for one message over its own limit.
            raise TooLarge(
                f"A commit of {len(body)} bytes; the log takes {COMMIT_MAX_BYTES}.",
                remedy="Store large values as blobs and refer to them by hash.",
            )
        if self.refusal is not None:
            raise self.refusal()
        deadline = self._loop.time() + self._append_deadline_s
        began = perf_counter()
        ack = await self._publish(subject, commit_id, body, expected)
        if ack is None:
            self._silent_since = self._silent_since or self._loop.time()
            return await self._resolve(Entry(0, subject, commit_id, body), expected, deadline)
        self._silent_since = None
        if ack.error is None:
            APPEND_DURATION.observe(perf_counter() - began)
            return ack.seq
        return await self._refused(ack.error, Entry(0, subject, commit_id, body), expected, deadline)

    async def _refused(self, error: ApiError, own: Entry, expected: int, deadline: float) -> int:
        """An append that surely stored nothing: say why, or send it again if it met a rival in flight."""
        if error.err_code in FULL:
            raise LogFull(
                f"The log is full: {error.description}.",
                remedy="Free disk space under the data directory, or raise the limit of the log.",
            )
        if error.err_code not in (WRONG_LAST_SEQUENCE, RIVAL_IN_FLIGHT):
            raise unreachable(f"The broker did not take the append: {error.description} ({error.err_code}).")
        newer = await self.read(own.subject, after=expected)
        if newer or error.err_code == WRONG_LAST_SEQUENCE:
            raise Conflict(newer)
        return await self._resolve(own, expected, deadline)

    async def _resolve(self, own: Entry, expected: int, deadline: float) -> int:
        """Send until the outcome is certain. Under one expectation, however many copies arrive, one is stored."""
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    await self._client.connected.wait()
                    position = await self._send_again(own, expected)
                    if position is not None:
                        return position
                    await asyncio.sleep(RETRY_PAUSE_S)
        except TimeoutError:
            raise OutcomeUnknown(
                f"The append to {own.subject} was sent and not acknowledged within {self._append_deadline_s:g} s.",
                remedy="It may be stored. Send the same command with the same id again: it is never applied twice.",
                retry_after_s=1,
            ) from None

    async def _send_again(self, own: Entry, expected: int) -> int | None:
        """The position if it is certain now, Conflict if it is certain that another won, else None."""
        try:
            ack = await self._publisher.publish(own.subject, own.commit_id, own.body, expected)
            if ack is not None:
                self._silent_since = None
            if ack is None or _temporary(ack):
                return None
            if ack.error is None:
                return ack.seq
            newer = await self.read(own.subject, after=expected)
        except Unavailable:
            # Says nothing about the copy that was sent before: only an answer of the stream does.
            return None
        for entry in newer:
            if entry.commit_id == own.commit_id and entry.body == own.body:
                return entry.position
        if newer or ack.error.err_code == WRONG_LAST_SEQUENCE:
            raise Conflict(newer)
        return None

    def _stored(self, position: int, subject: str, commit_id: str, body: bytes) -> None:
        if self._followers:
            entry = Entry(position, subject, commit_id, body)
            for follower in self._followers:
                follower.offer(entry)

    async def read(self, subject: str, *, after: int = 0) -> list[Entry]:
        """See EventLog."""
        self._pass_gate()
        return await self._reader.read(subject, after=after)

    async def entry(self, position: int) -> Entry | None:
        """See EventLog."""
        self._pass_gate()
        return await self._reader.entry(position)

    async def head(self) -> int:
        """See EventLog."""
        self._pass_gate()
        return await self._reader.head()

    def _pass_gate(self) -> None:
        # An older copy of the log would answer that there is no such thing, about things that are only not back yet.
        if not self.gate.opened.is_set():
            raise unreachable("The log is being compared with the store.")

    def follow(self, *, after: int, trimmed_to: int = 0) -> Follower:
        """See EventLog. `aclose` the follower, or it stays until the log is closed."""
        follower = Follower(
            self._client,
            self._requests,
            after=after,
            trimmed_to=trimmed_to,
            opened=self.gate.opened,
            ensure_held=self._reader.ensure_held,
            on_close=self._followers.discard,
            heartbeat_s=COPIED_HEARTBEAT_S if self._replicas > 1 else HEARTBEAT_S,
        )
        self._followers.add(follower)
        return follower


def _temporary(ack: Ack) -> bool:
    """A refusal that leaves the fate of an earlier copy open."""
    return ack.error is not None and ack.error.err_code not in (WRONG_LAST_SEQUENCE, RIVAL_IN_FLIGHT)
