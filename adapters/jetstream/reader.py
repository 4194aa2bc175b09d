"""Reads of the log that are current: from the leader where the log has copies, since a copy may lag behind."""

from __future__ import annotations

import asyncio
from typing import Any

from adapters.jetstream.api import (
    DIRECT_GET,
    LEADER_GET,
    STREAM_INFO,
    encode,
    message_of,
    stored_entry,
    stream_info_of,
    unreachable,
)
from adapters.jetstream.requests import NoAnswer, NoResponders, Requests
from adapters.jetstream.wire import header_of
from core.kernel.commit import Entry
from core.kernel.errors import Unavailable

PAGE_MAX = 256
PAGE_BYTES_MAX = 8 * 1024 * 1024
HOLE_LOOKS = 3
HOLE_PAUSE_S = 0.5


class Reader:
    """Asks one stream.

    A direct get is answered by any copy: cheap, in order, and it may lack the newest entries; right after a server's
    start nobody may answer it. With one replica there is nothing to lag behind.
    """

    def __init__(self, requests: Requests, *, replicas: int = 1) -> None:
        self._requests = requests
        self._copied = replicas > 1

    async def read(self, subject: str, *, after: int = 0) -> list[Entry]:
        """See EventLog."""
        try:
            return await (self._read_copied(subject, after) if self._copied else self._read_direct(subject, after))
        except NoAnswer:
            raise unreachable() from None

    async def _read_copied(self, subject: str, after: int) -> list[Entry]:
        """What any copy has, and from the leader what that copy lacks up to the leader's newest."""
        newest = await self._ask_leader({"last_by_subj": subject})
        if newest is None or newest.position <= after:
            return []
        try:
            entries = await self._read_direct(subject, after)
        except NoResponders:
            entries = []
        last = entries[-1].position if entries else after
        while last < newest.position:
            entry = await self._ask_leader({"next_by_subj": subject, "seq": last + 1})
            if entry is None:
                break
            entries.append(entry)
            last = entry.position
        return entries

    async def _read_direct(self, subject: str, after: int) -> list[Entry]:
        entries: list[Entry] = []
        while True:
            page, complete = await self._page(subject, after)
            entries += page
            if complete:
                return entries
            after = page[-1].position

    async def _page(self, subject: str, after: int) -> tuple[list[Entry], bool]:
        """At most 256 entries and about 8 MiB, and whether there are no more."""
        request = {"seq": after + 1, "next_by_subj": subject, "batch": PAGE_MAX, "max_bytes": PAGE_BYTES_MAX}
        *messages, end = await self._requests.many(DIRECT_GET, encode(request))
        if end.status == b"404":
            return [], True
        page = [stored_entry(message.data, message.headers) for message in messages]
        complete = header_of(end.headers, b"Nats-Num-Pending") == b"0"
        if end.status != b"204" or not (page or complete):
            raise unreachable(f"The broker did not give the entries of {subject}: {end.headers[9:].decode()!r}.")
        return page, complete

    async def entry(self, position: int) -> Entry | None:
        """See EventLog."""
        try:
            return await self._entry(position)
        except NoAnswer:
            raise unreachable() from None

    async def _entry(self, position: int) -> Entry | None:
        if position < 1:
            return None
        if self._copied:
            return await self._ask_leader({"seq": position})
        reply = await self._requests.one(DIRECT_GET, encode({"seq": position}))
        if reply.status == b"404":
            return None
        return stored_entry(reply.data, reply.headers)

    async def _ask_leader(self, request: dict[str, Any]) -> Entry | None:
        answer = message_of((await self._requests.one(LEADER_GET, encode(request))).data)
        if answer.message is not None:
            return answer.message.entry()
        if answer.error is not None and answer.error.code == 404:
            return None
        raise NoAnswer("nobody leads the stream")

    async def head(self) -> int:
        """See EventLog."""
        try:
            return await self._head()
        except NoAnswer:
            raise unreachable() from None

    async def _head(self) -> int:
        info = stream_info_of((await self._requests.one(STREAM_INFO)).data)
        if info.state is None:
            raise NoAnswer("stream info without a state")
        return info.state.last_seq

    async def ensure_held(self, position: int) -> None:
        """Return where the log holds a position or has not reached it yet; else raise Unavailable. May raise NoAnswer.

        Head and entry are two questions: a leader elected in between has them again a moment later, a hole stays.
        """
        for _ in range(HOLE_LOOKS if self._copied else 1):
            if await self._head() < position or await self._entry(position) is not None:
                return
            await asyncio.sleep(HOLE_PAUSE_S if self._copied else 0)
        raise Unavailable(
            f"The log no longer holds position {position}.",
            code="log_hole",
            remedy="Read it from the store, which holds every commit.",
        )
