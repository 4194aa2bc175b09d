"""Leases in a key-value bucket: one message for each name, which the server forgets when nobody renews it."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from uuid import uuid4

from adapters.jetstream.api import (
    EXPECTED,
    LEASE_DELETE,
    LEASE_GET,
    LEASE_ROOT,
    WRONG_LAST_SEQUENCE,
    ack_of,
    encode,
    message_of,
)
from adapters.jetstream.connection import ensure_leases
from adapters.jetstream.requests import NoAnswer, Requests
from adapters.jetstream.wire import WireClient

# An election of the stream's leader takes 5 to 7.6 s: a holder must outlast one between two renewals.
TTL_S = 12
# Of the time to live. The margin is what a holder stops early by; clocks that run apart have room in it.
MARGIN = 1 / 6
RENEW = 1 / 6
POLL_S = 0.5
TRY_S = 1.0
PAUSE_S = 0.1

_NAME = re.compile(r"[a-z0-9_-]{1,64}").fullmatch
_logger = logging.getLogger("hivebus.lease")


class JetStreamLeases:
    """All leases of a fleet, over one connection."""

    def __init__(self, requests: Requests, ttl_s: int) -> None:
        self._requests = requests
        self._ttl_s = ttl_s

    @classmethod
    async def open(cls, client: WireClient, *, replicas: int, ttl_s: int = TTL_S) -> JetStreamLeases:
        """The bucket, made if need be, with as many copies as the log has. `ttl_s`: whole seconds, the same for all."""
        await ensure_leases(client, replicas=replicas)
        requests = Requests(client)
        await requests.start()
        return cls(requests, ttl_s)

    def close(self) -> None:
        """End the requests; leases that are still held run out."""
        self._requests.close()

    def lease(self, name: str) -> JetStreamLease:
        """A candidate for the lease of that name."""
        return JetStreamLease(self._requests, name, ttl_s=self._ttl_s)


class JetStreamLease:
    """Lease (see core.kernel.ports). Each acquisition has a token of its own, so that a lost answer can be resolved.

    Its time is counted from before the message left, the server's from when it stored it: ours ends first.
    """

    def __init__(self, requests: Requests, name: str, *, ttl_s: int) -> None:
        if _NAME(name) is None:
            raise ValueError(f"not a name of a lease: {name!r}")
        self._requests = requests
        self._name = name
        self._subject = f"{LEASE_ROOT}{name}"
        self._ttl_s = ttl_s
        self._token = b""
        self._revision = 0
        self._until = float("-inf")
        self._renewing: asyncio.Task[None] | None = None

    @property
    def held(self) -> bool:
        """See Lease."""
        return time.monotonic() < self._until

    async def acquire(self) -> None:
        """See Lease."""
        await self._end_renewing()
        self._token = uuid4().hex.encode()
        while True:
            self._revision = 0
            try:
                if await self._put():
                    break
            except NoAnswer:
                pass
            await asyncio.sleep(POLL_S)
        _logger.info("This process holds the lease %s.", self._name)
        self._renewing = asyncio.create_task(self._renew())

    async def lost(self) -> None:
        """See Lease."""
        if self._renewing is not None:
            await asyncio.wait({self._renewing})

    async def release(self) -> None:
        """See Lease."""
        await self._end_renewing()
        held, self._until = self.held, float("-inf")
        if held:
            # By sequence: whatever another one has stored since is not touched.
            try:
                if stored := await self._stored_revision():
                    await self._requests.one(LEASE_DELETE, encode({"seq": stored, "no_erase": True}), timeout_s=TRY_S)
            except NoAnswer:
                _logger.info("The lease %s could not be given back; it expires within %d s.", self._name, self._ttl_s)

    async def _end_renewing(self) -> None:
        renewing, self._renewing = self._renewing, None
        if renewing is not None:
            renewing.cancel()
            await asyncio.wait({renewing})

    async def _renew(self) -> None:
        """Until it cannot be renewed any more, or another one has it."""
        try:
            while True:
                await asyncio.sleep(self._ttl_s * RENEW)
                async with asyncio.timeout(self._until - time.monotonic()):
                    if not await self._renewed():
                        _logger.warning("Another process has the lease %s.", self._name)
                        return
        except TimeoutError:
            _logger.warning(
                "The lease %s could not be renewed in time; this process stops being its holder.", self._name
            )
        finally:
            if not (task := asyncio.current_task()) or not task.cancelling():
                self._until = float("-inf")

    async def _renewed(self) -> bool:
        while True:
            try:
                return await self._put()
            except NoAnswer:
                await asyncio.sleep(PAUSE_S)

    async def _put(self) -> bool:
        """Store the token after the revision that is ours (0: after none). Whether it stands; NoAnswer if unknown."""
        while True:
            sent_at = time.monotonic()
            headers = {EXPECTED: str(self._revision), "Nats-TTL": f"{self._ttl_s}s"}
            reply = await self._requests.one(self._subject, self._token, headers=headers, timeout_s=TRY_S)
            ack = ack_of(reply.data)
            if ack.error is None:
                self._revision = ack.seq
                self._until = sent_at + self._ttl_s * (1 - MARGIN)
                return True
            if ack.error.err_code != WRONG_LAST_SEQUENCE:
                raise NoAnswer(ack.error.description)
            # An earlier try of ours may have been stored without our hearing of it: go on from there.
            stored = await self._stored_revision()
            if stored is None:
                return False
            if stored == self._revision:
                raise NoAnswer("the leader changed between two questions")
            self._revision = stored

    async def _stored_revision(self) -> int | None:
        """The sequence of our own token, as the leader has it; None if it is not there."""
        reply = await self._requests.one(LEASE_GET, encode({"last_by_subj": self._subject}), timeout_s=TRY_S)
        answer = message_of(reply.data)
        if answer.message is not None:
            return answer.message.seq if answer.message.data == self._token else None
        if answer.error is not None and answer.error.code == 404:
            return None
        raise NoAnswer("nobody leads the bucket of leases")
