"""The care of the stream: reads that go round the gate, entries put back at their positions, subjects purged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

import msgspec
from msgspec import Struct

from adapters.jetstream.api import (
    COMMIT_ID,
    FULL,
    STREAM_INFO,
    STREAM_NOT_FOUND,
    STREAM_PURGE,
    ApiError,
    ack_of,
    encode,
    stream_info_of,
    unreachable,
)
from adapters.jetstream.reader import Reader
from adapters.jetstream.requests import NoAnswer, Requests
from adapters.jetstream.wire import WireClient
from core.kernel.commit import Entry
from core.kernel.errors import LogFull, Unavailable

EXPECTED_LAST = "Nats-Expected-Last-Sequence"
RESTORE_MAX = 256
RESTORE_BYTES_MAX = 8 * 1024 * 1024
RESTORE_S = 30.0
LIST_S = 30.0
PURGE_S = 10.0

Ensure = Callable[[], Awaitable[object]]


class _State(Struct, frozen=True):
    bytes: int = 0
    subjects: dict[str, int] | None = None


class _Info(Struct, frozen=True):
    error: ApiError | None = None
    state: _State | None = None


class _Purged(Struct, frozen=True):
    error: ApiError | None = None
    purged: int = 0


_info_of = msgspec.json.Decoder(_Info).decode
_purged_of = msgspec.json.Decoder(_Purged).decode


class JetStreamUpkeep:
    """LogUpkeep over one stream. `ensure` makes the stream where a broker came back without it; None: it is empty."""

    def __init__(
        self, client: WireClient, ensure: Callable[[], Awaitable[object]] | None, *, replicas: int = 1
    ) -> None:
        self._requests = Requests(client)
        self._reader = Reader(self._requests, replicas=replicas)
        self._ensure = ensure

    @classmethod
    async def open(cls, client: WireClient, ensure: Ensure | None, *, replicas: int = 1) -> JetStreamUpkeep:
        """The upkeep on a connection, of a stream with these `replicas`."""
        upkeep = cls(client, ensure, replicas=replicas)
        await upkeep._requests.start()
        return upkeep

    def close(self) -> None:
        """Give up what still waits; the connection stays open."""
        self._requests.close()

    async def head(self) -> int:
        """See LogUpkeep."""
        info = stream_info_of(await self._ask(STREAM_INFO))
        if info.error is not None and info.error.err_code == STREAM_NOT_FOUND:
            if self._ensure is None:
                return 0
            await self._ensure()
        return await self._reader.head()

    async def entry(self, position: int) -> Entry | None:
        """See LogUpkeep."""
        return await self._reader.entry(position)

    async def restore(self, entries: Sequence[Entry]) -> None:
        """See LogUpkeep. At most 256 entries and about 8 MiB are unanswered at a time."""
        for page in _pages(entries):
            # The first one alone: were its place taken, the second would still fit after whatever took it.
            await self._put_back(page[0])
            answers = await asyncio.gather(*map(self._put_back, page[1:]), return_exceptions=True)
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer

    async def _put_back(self, entry: Entry) -> None:
        # No Nats-Msg-Id: the broker may remember the id of the very commit that it lost.
        headers = {EXPECTED_LAST: str(entry.position - 1)}
        if entry.commit_id:
            headers[COMMIT_ID] = entry.commit_id
        try:
            reply = await self._requests.one(entry.subject, entry.body, headers=headers, timeout_s=RESTORE_S)
        except NoAnswer:
            raise unreachable("The broker did not answer while the log's tail was put back.") from None
        ack = ack_of(reply.data)
        if ack.error is not None and ack.error.err_code in FULL:
            raise LogFull(
                f"The log is full: {ack.error.description}.",
                remedy="Free disk space under the data directory, or raise the limit of the log.",
            )
        if ack.error is not None or ack.seq != entry.position:
            said = ack.error.description if ack.error else f"it stored position {ack.seq}"
            raise Unavailable(
                f"Position {entry.position} could not be put back: {said}.",
                code="log_restore_refused",
                remedy="Whoever else appends to this log must stop first; `hivebus log diverge` shows both sides.",
            )

    async def subjects(self, *, offset: int) -> dict[str, int]:
        """See LogUpkeep."""
        request = encode({"subjects_filter": ">", "offset": offset})
        info = _info_of(await self._ask(STREAM_INFO, request, timeout_s=LIST_S))
        if info.error is not None or info.state is None:
            raise unreachable("The broker does not list the log's subjects.")
        return info.state.subjects or {}

    async def purge(self, subject: str, *, through: int) -> int:
        """See LogUpkeep."""
        request = encode({"filter": subject, "seq": through + 1})
        try:
            reply = await self._requests.one(STREAM_PURGE, request, timeout_s=PURGE_S)
        except NoAnswer:
            raise Unavailable(
                "The broker did not answer the purge.",
                code="purge_unanswered",
                remedy=f"See that it runs, and that the program's user may publish to {STREAM_PURGE}.",
            ) from None
        answer = _purged_of(reply.data)
        if answer.error is not None:
            raise Unavailable(
                f"The broker refused the purge: {answer.error.description}.",
                code="purge_refused",
                remedy="A stream with deny_purge can never be trimmed.",
            )
        return answer.purged

    async def size(self) -> int:
        """See LogUpkeep."""
        info = _info_of(await self._ask(STREAM_INFO))
        if info.state is None:
            raise unreachable("The broker does not say how large the log is.")
        return info.state.bytes

    async def _ask(self, subject: str, payload: bytes = b"", *, timeout_s: float = 2.0) -> bytes:
        try:
            return (await self._requests.one(subject, payload, timeout_s=timeout_s)).data
        except NoAnswer:
            raise unreachable() from None


def _pages(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    page: list[Entry] = []
    size = 0
    for entry in entries:
        if page and (len(page) == RESTORE_MAX or size + len(entry.body) > RESTORE_BYTES_MAX):
            yield page
            page, size = [], 0
        page.append(entry)
        size += len(entry.body)
    if page:
        yield page
