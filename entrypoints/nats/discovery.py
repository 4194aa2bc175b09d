"""What a NATS micro service says of itself (ADR-32): $SRV.PING, $SRV.INFO and $SRV.STATS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from core.kernel.subjects import DISCOVERY
from core.services.channel import Channel, Message

NAME = "hivebus"
QUEUE = "hivebus"
DESCRIPTION = "Hivebus: every command of a client, answered after its commit"


class Endpoint(Struct, kw_only=True):
    """One command, and what it was asked to do since the start; `busy_ns` is the time that its answers took."""

    name: str
    subject: str
    description: str
    requests: int = 0
    errors: int = 0
    last_error: str = ""
    busy_ns: int = 0

    def answered(self, busy_ns: int, error: str | None) -> None:
        """Count an answer; `error` is the code of a refusal."""
        self.requests += 1
        self.busy_ns += busy_ns
        if error is not None:
            self.errors += 1
            self.last_error = error


class Discovery:
    """Answers to all who look for services, and to those who look for this one or this very instance."""

    def __init__(
        self,
        channel: Channel,
        may_answer: Callable[[Message], bool],
        endpoints: Mapping[str, Endpoint],
        *,
        instance: str,
        version: str,
        started: str,
    ) -> None:
        """`started` is the time of the start, RFC 3339."""
        self._channel = channel
        self._may_answer = may_answer
        self._endpoints = endpoints
        self._identity = {"name": NAME, "id": instance, "version": version, "metadata": dict[str, str]()}
        self._started = started

    async def serve(self) -> list[int]:
        """Listen, without a queue group, as each instance answers for itself; the numbers to leave by."""
        numbers = []
        for verb, make in (("PING", self._ping), ("INFO", self._info), ("STATS", self._stats)):
            handler = self._handler(make)
            for whom in ("", f".{NAME}", f".{NAME}.{self._identity['id']}"):
                numbers.append(await self._channel.listen(f"{DISCOVERY}.{verb}{whom}", handler))
        return numbers

    def _handler(self, make: Callable[[], dict[str, Any]]) -> Callable[[Message], None]:
        def handle(message: Message) -> None:
            if message.reply and self._may_answer(message):
                self._channel.answer(message.reply, msgspec.json.encode(make()), {})

        return handle

    def _ping(self) -> dict[str, Any]:
        return {"type": "io.nats.micro.v1.ping_response", **self._identity}

    def _info(self) -> dict[str, Any]:
        endpoints = [
            {
                "name": endpoint.name,
                "subject": endpoint.subject,
                "queue_group": QUEUE,
                "metadata": {"description": endpoint.description},
            }
            for endpoint in self._endpoints.values()
        ]
        what = {"description": DESCRIPTION, "endpoints": endpoints}
        return {"type": "io.nats.micro.v1.info_response", **self._identity, **what}

    def _stats(self) -> dict[str, Any]:
        endpoints = [
            {
                "name": endpoint.name,
                "subject": endpoint.subject,
                "queue_group": QUEUE,
                "num_requests": endpoint.requests,
                "num_errors": endpoint.errors,
                "last_error": endpoint.last_error,
                "processing_time": endpoint.busy_ns,
                "average_processing_time": endpoint.busy_ns // max(1, endpoint.requests),
                "data": None,
            }
            for endpoint in self._endpoints.values()
        ]
        what = {"started": self._started, "endpoints": endpoints}
        return {"type": "io.nats.micro.v1.stats_response", **self._identity, **what}
