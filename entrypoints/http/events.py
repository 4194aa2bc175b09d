"""The events: every commit of the store as CloudEvents 1.0, in order, from any position on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from sanic import HTTPResponse, Request, Sanic

from adapters.telemetry import OK, REQUESTS
from core.kernel.cloud_events import CloudEvent, cloud_events
from core.kernel.codec import Codec, Undecodable
from core.kernel.commit import split_subject
from core.kernel.ports import Store, Stored
from core.kernel.registry import Route, doc_of
from core.services.dispatch import Principal
from core.services.positions import PositionGate
from entrypoints.calls import Action, NoOptions
from entrypoints.decode import from_query
from entrypoints.http.counted import counted
from entrypoints.http.door import Door
from entrypoints.http.event_stream import MEDIA, EventStreams
from entrypoints.http.readings import EventPage
from entrypoints.http.rest import READ, arguments_of

PAGE = 1000
SCANNED_MAX = 10_000
# Whoever waits for an event looks up this often: the program may be about to end.
LOOK_UP_S = 0.5


class ReadEvents(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Read the events after a position, in their order.

    Filters say which; `wait` says for how many seconds to wait for the first one.
    """

    after: Annotated[int, Meta(ge=0, le=1 << 62)] = 0
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    wait: Annotated[float, Meta(ge=0, le=25)] = 0.0
    correlation_id: str | None = None
    noun: str | None = None
    type: str | None = None
    id: str | None = None


def add_events(
    app: Sanic[Any, Any], store: Store, codec: Codec, recorded: PositionGate, streams: EventStreams, door: Door
) -> None:
    """GET /api/events: a page of JSON lines, or server-sent events without an end."""

    async def stream(request: Request) -> None:
        door.admit(request)
        # How long it lasts is the client's choice, and no measure of the answer.
        REQUESTS.add("event.list", "sse", OK)
        await streams.answer(request)

    async def page(request: Request) -> HTTPResponse:
        door.admit(request)
        query = from_query(ReadEvents, arguments_of(request))
        events, after = await read_events(query, store, codec, recorded, lambda: bool(request.app.ctx.draining))
        lines = b"".join(msgspec.json.encode(event) + b"\n" for event in events)
        headers = {"Hivebus-Next": str(after), "Hivebus-Position": str(recorded.position)}
        return HTTPResponse(lines, 200, headers, "application/x-ndjson")

    pages = counted(page, "event.list")

    async def read(request: Request) -> HTTPResponse | None:
        if MEDIA in request.headers.get("accept", "") and request.method == "GET":
            await stream(request)
            return None
        return await pages(request)

    app.add_route(read, "/api/events", methods=READ, name="events")


async def read_events(
    query: ReadEvents, store: Store, codec: Codec, recorded: PositionGate, ending: Callable[[], bool]
) -> tuple[list[CloudEvent], int]:
    """A page of events and the position to go on from; without one, wait for it as long as the query says."""
    until = time.monotonic() + query.wait
    after = query.after
    while True:
        events, after = await _page(store, codec, query, after)
        left_s = until - time.monotonic()
        if events or left_s <= 0 or ending():
            return events, after
        await recorded.wait_for(after + 1, min(left_s, LOOK_UP_S))


def event_list(store: Store, codec: Codec, recorded: PositionGate, ending: Callable[[], bool]) -> Action:
    """The same as an action: a page of events as JSON values."""

    async def carry(query: ReadEvents, _options: Struct, _principal: Principal) -> dict[str, Any]:
        events, after = await read_events(query, store, codec, recorded, ending)
        # Their data are bytes as they are stored; other transports put them into documents of their own.
        values = msgspec.json.decode(msgspec.json.encode(events))
        return {"events": values, "next": after, "position": recorded.position}

    return Action(
        name="event.list",
        doc=doc_of(ReadEvents),
        struct=ReadEvents,
        options=NoOptions,
        read_only=True,
        carry=carry,
        route=Route("GET", "/api/events"),
        answer=EventPage,
    )


async def _page(store: Store, codec: Codec, query: ReadEvents, after: int) -> tuple[list[CloudEvent], int]:
    """Matching events and the position to go on from. A commit is never split; the scan is bounded."""
    events: list[CloudEvent] = []
    scanned = 0
    while scanned < SCANNED_MAX:
        page = await store.read(after=after, limit=min(PAGE, max(query.limit, 100)))
        for stored in page:
            after = stored.entry.position
            events.extend(_matching(stored, codec, query))
            if len(events) >= query.limit:
                return events, after
        scanned += len(page)
        if len(page) < min(PAGE, max(query.limit, 100)):
            break
    return events, after


def _matching(stored: Stored, codec: Codec, query: ReadEvents) -> Iterator[CloudEvent]:
    if stored.parked is not None:
        return
    noun, aggregate_id = split_subject(stored.entry.subject)
    if query.noun not in (None, noun) or query.id not in (None, aggregate_id):
        return
    try:
        body = codec.body(stored.entry.body)
    except Undecodable:
        return
    if query.correlation_id not in (None, body.correlation_id):
        return
    for event in cloud_events(stored.entry.position, noun, aggregate_id, body):
        if query.type in (None, event.type, event.type.removeprefix("hivebus.")):
            yield event
