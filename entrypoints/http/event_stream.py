"""GET /api/events as server-sent events: the same events, and then each as it is recorded.

`id` is the position, with `/` and an index behind it for all but the last event of a commit: whoever comes back with it
as Last-Event-ID goes on at the next event, within a commit too. https://html.spec.whatwg.org/#server-sent-events
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from typing import Annotated, Any

from msgspec import Meta
from sanic import Request

from core.kernel.errors import Unavailable, Unprocessable
from core.services.feed import Feed
from core.services.groups import Batch
from core.services.told import Event, Filter
from entrypoints.decode import from_query
from entrypoints.http.rest import arguments_of

MEDIA = "text/event-stream"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
STREAMS_MAX = 1_000
COMMENT_S = 15.0
STALLED_S = 15.0
READY_BYTES = 64 * 1024
HELD_BYTES_MAX = 1024 * 1024
# The program may be about to end: who waits for an event looks up this often.
LOOK_UP_S = 0.5
RETRY_MS = 1_000

_last_id = re.compile(r"([0-9]{1,18})(?:/([0-9]{1,9}))?").fullmatch


class FollowEvents(Filter, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Follow the events after a position: those there are, and then each as it is recorded. Filters say which."""

    after: Annotated[int, Meta(ge=0, le=1 << 62)] = 0

    @property
    def filter(self) -> Filter:
        """The filters alone."""
        return Filter(**{name: getattr(self, name) for name in Filter.__struct_fields__})


class Stream:
    """A subscriber that keeps frames until its handler has sent them; beyond 1 MiB it is slow, and keeps no more."""

    def __init__(self) -> None:
        self.slow = False
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._some = asyncio.Event()

    @property
    def ready(self) -> bool:
        """See Subscriber."""
        return self._bytes < READY_BYTES and not self.slow

    def write(self, frame: bytes) -> None:
        """See Subscriber."""
        if self._bytes + len(frame) > HELD_BYTES_MAX and self._frames:
            self.slow = True
        if self.slow:
            return
        self._frames.append(frame)
        self._bytes += len(frame)
        self._some.set()

    async def take(self, timeout_s: float) -> bytes:
        """What there is, waited for; empty after the time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._some.wait()
        except TimeoutError:
            return b""
        taken = b"".join(self._frames)
        self._frames.clear()
        self._bytes = 0
        self._some.clear()
        return taken


class EventStreams:
    """All streams of this process, at most 1,000."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._count = 0

    def __len__(self) -> int:
        return self._count

    async def answer(self, request: Request) -> None:
        """Stream until the client goes, falls behind, or the program ends."""
        follow = from_query(FollowEvents, arguments_of(request))
        after, index = _place(request, follow.after)
        if self._count >= STREAMS_MAX:
            raise Unavailable(
                f"{STREAMS_MAX} streams of events are open already.",
                code="too_many_connections",
                remedy="Use a WebSocket, or another replica.",
                retry_after_s=5,
            )
        stream = Stream()
        rest = [] if index is None else await self._feed.rest_of(follow.filter, after, index)
        subscription = self._feed.subscribe(follow.filter, after, stream, event_stream)
        self._count += 1
        try:
            response = await request.respond(content_type=MEDIA, headers=HEADERS)
            assert response is not None
            opening = f"retry: {RETRY_MS}\n\n".encode()
            await response.send(opening + event_stream(Batch("", after, after, rest)))
            self._feed.start(subscription)
            await _pass_on(request, response, stream)
            await response.eof()
        finally:
            self._count -= 1
            subscription.end()


async def _pass_on(request: Request, response: Any, stream: Stream) -> None:
    sent_s = time.monotonic()
    while not request.app.ctx.draining:
        data = await stream.take(LOOK_UP_S)
        if stream.slow:
            data += b": this client does not keep up; connect again with the last id\n\n"
        elif not data:
            if time.monotonic() - sent_s < COMMENT_S:
                continue
            data = b":\n\n"
        try:
            async with asyncio.timeout(STALLED_S):
                await response.send(data)
        except TimeoutError:
            # It takes nothing: there is no way to tell it anything.
            transport: Any = request.transport
            transport.abort()
            # Sanic hears of it in the next turn, and cancels whatever works for a connection that is gone.
            await asyncio.sleep(LOOK_UP_S)
            return
        sent_s = time.monotonic()
        if stream.slow:
            return


def event_stream(batch: Batch) -> bytes:
    """The events of a batch; without one, an id alone, which a browser remembers and tells nobody."""
    if not batch.events:
        return f"id: {batch.to}\n\n".encode()
    following = [event.position for event in batch.events[1:]]
    return b"".join(
        _event(event, last=event.position != position)
        for event, position in zip(batch.events, [*following, None], strict=True)
    )


def _event(event: Event, *, last: bool) -> bytes:
    place = str(event.position) if last else f"{event.position}/{event.index}"
    # Only the white space of a body that others wrote can hold a line's end.
    text = (
        event.text.replace(b"\r", b" ").replace(b"\n", b" ")
        if b"\n" in event.text or b"\r" in event.text
        else event.text
    )
    return f"id: {place}\nevent: hivebus.{event.type}\ndata: ".encode() + text + b"\n\n"


def _place(request: Request, after: int) -> tuple[int, int | None]:
    """The position to go on after, and the index in its commit of the last event that was had, if not all were."""
    said = request.headers.get("last-event-id")
    if not said:
        return after, None
    match = _last_id(said)
    if match is None:
        raise Unprocessable(
            f"Last-Event-ID {said[:50]!r} is none of ours.",
            pointer="/last-event-id",
            remedy="Send back the id of the last event, or leave the header out and say after=POSITION.",
        )
    return int(match[1]), int(match[2]) if match[2] else None
