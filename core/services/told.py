"""What subscribers are told of a commit, and which of them: decoded once, each event encoded once, for everybody."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from core.kernel.cloud_events import cloud_events
from core.kernel.codec import Codec, Undecodable
from core.kernel.commit import Body, Entry, split_subject
from core.kernel.ports import Store, Stored

logger = logging.getLogger("hivebus.feed")

FENCES_MAX = 10_000

Word = Annotated[str, Meta(min_length=1, max_length=200)]


class Filter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events: those that everything said here is true of. Nothing said: all.

    `noun` and `id` are the aggregate's. `type` is the event's, with or without `hivebus.`, `verb` the part of it after
    the dot. `correlation_id` is the commit's. `agent` takes whole commits: those of that agent, and those in which an
    event names it. An event names an agent by `agent_id` in its data (submitted for it, assigned, started, attempt
    ended, completed), or by `fence` (progressed): the position of the `task.assigned` that it belongs to. So a
    `task.failed` that stands beside the end of its last attempt is in; a `task.cancelled` by a caller names no agent
    and is not.
    """

    noun: Word | None = None
    verb: Word | None = None
    id: Word | None = None
    agent: Word | None = None
    correlation_id: Word | None = None
    type: Word | None = None

    @property
    def subscription_id(self) -> str:
        """The same for every subscription of the same filter, at every replica."""
        said = {name: value for name, value in asdict(self.plain).items() if value is not None}
        return "sub-" + hashlib.sha256(msgspec.json.encode(said, order="sorted")).hexdigest()[:16]

    @property
    def plain(self) -> Filter:
        """The one way to write it."""
        return self if self.type is None else replace(self, type=self.type.removeprefix("hivebus."))

    @property
    def narrowest(self) -> tuple[str, str]:
        """The field that leaves the fewest events, and what it says; a feed looks a commit's subscribers up by it."""
        for name in ("id", "correlation_id", "agent", "noun"):
            value = getattr(self, name)
            if value is not None:
                return name, value
        return "", ""

    def of(self, told: Told) -> list[Event]:
        """The commit's events that it lets through, in their order."""
        if (
            self.noun not in (None, told.noun)
            or self.id not in (None, told.aggregate_id)
            or self.correlation_id not in (None, told.body.correlation_id)
            or (self.agent is not None and self.agent not in told.agents)
        ):
            return []
        if self.verb is None and self.type is None:
            return told.events
        kind = self.plain.type
        return [
            event
            for event in told.events
            if kind in (None, event.type) and self.verb in (None, event.type.partition(".")[2])
        ]


class Event(Struct, frozen=True, gc=False):
    """An event as it goes out: where it stands, its type without `hivebus.`, and its CloudEvent as JSON."""

    position: int
    index: int
    type: str
    text: bytes


class Told(Struct, gc=False):
    """A commit as subscribers are told of it. `agents` are those that its events name (see Filter)."""

    position: int
    noun: str
    aggregate_id: str
    agents: frozenset[str]
    entry: Entry
    body: Body
    _events: list[Event] | None = None

    @property
    def bytes(self) -> int:
        """The size of its body."""
        return len(self.entry.body)

    @property
    def events(self) -> list[Event]:
        """All its events; encoded when the first subscriber asks."""
        if self._events is None:
            clouds = cloud_events(self.position, self.noun, self.aggregate_id, self.body)
            self._events = [
                Event(self.position, index, cloud.type.removeprefix("hivebus."), msgspec.json.encode(cloud))
                for index, cloud in enumerate(clouds)
            ]
        return self._events

    @property
    def keys(self) -> Iterable[tuple[str, str]]:
        """What the narrowest field of a filter that takes it may say."""
        yield "", ""
        yield "noun", self.noun
        yield "id", self.aggregate_id
        yield "correlation_id", self.body.correlation_id
        for agent in self.agents:
            yield "agent", agent


class _Named(Struct):
    agent_id: str | None = None
    fence: int | None = None


class Teller:
    """Makes commits ready to be told. It remembers which fence is whose, 10,000 of them, and asks the store beyond."""

    def __init__(self, store: Store, codec: Codec) -> None:
        self._store = store
        self._codec = codec
        self._fences: OrderedDict[tuple[int, str], str] = OrderedDict()
        self._named: Callable[[msgspec.Raw], _Named] = msgspec.json.Decoder(_Named).decode

    async def stored(self, stored: Stored) -> Told | None:
        """A commit of the store; None for what was parked, nobody is told of it. Raises Unavailable."""
        if stored.parked is not None:
            return None
        try:
            body = self._codec.body(stored.entry.body)
        except Undecodable:
            logger.error("Position %d does not decode; no subscriber is told of it.", stored.entry.position)
            return None
        return await self.recorded(stored.entry, body)

    async def recorded(self, entry: Entry, body: Body) -> Told:
        """A commit that is decoded already. Raises Unavailable."""
        noun, aggregate_id = split_subject(entry.subject)
        agents = {aggregate_id} if noun == "agent" else set()
        for record in body.events:
            named = self._read(record.data)
            if named.agent_id is not None:
                agents.add(named.agent_id)
                if record.type == "task.assigned":
                    self._remember(entry.position, entry.subject, named.agent_id)
            elif named.fence is not None:
                agent_id = await self._of_fence(named.fence, entry.subject)
                if agent_id is not None:
                    agents.add(agent_id)
        return Told(entry.position, noun, aggregate_id, frozenset(agents), entry, body)

    def _read(self, data: msgspec.Raw) -> _Named:
        try:
            return self._named(data)
        except msgspec.ValidationError:
            # Data of some other shape: it names nobody.
            return _Named()

    async def _of_fence(self, fence: int, subject: str) -> str | None:
        known = self._fences.get((fence, subject))
        if known is not None:
            return known
        found = await self._store.read(after=fence - 1, limit=1) if 0 < fence < 1 << 62 else []
        if not found or found[0].parked is not None or found[0].entry.subject != subject:
            return None
        try:
            body = self._codec.body(found[0].entry.body)
        except Undecodable:
            return None
        named = [self._read(record.data).agent_id for record in body.events if record.type == "task.assigned"]
        if not named or named[0] is None:
            return None
        self._remember(fence, subject, named[0])
        return named[0]

    def _remember(self, fence: int, subject: str, agent_id: str) -> None:
        self._fences[fence, subject] = agent_id
        if len(self._fences) > FENCES_MAX:
            self._fences.popitem(last=False)
