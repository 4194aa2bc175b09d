"""Bytes to commits and back. Stored bytes never change; upcasters bring old events to today's Structs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Union

import msgspec

from core.kernel.commit import COMMIT_MAX_BYTES, Body, Commit, Entry, Event, EventRecord, split_subject
from core.kernel.errors import TooLarge
from core.kernel.registry import EventSpec, Registry


class UnknownEvent(Event, frozen=True):
    """An event that this version of the program does not know. It is kept, and never folded."""

    type: str
    schema: int
    data: msgspec.Raw


class Undecodable(Exception):
    """The bytes are no commit. The recorder stores them raw and parks them."""


class _EventOut(msgspec.Struct):
    type: str
    schema: int
    data: Event


class _BodyOut(msgspec.Struct, kw_only=True, omit_defaults=True):
    id: str
    command: str
    command_id: str
    fingerprint: str
    actor: str
    on_behalf_of: str | None = None
    correlation_id: str
    causation_id: str
    occurred_at: int
    version: int
    events: list[_EventOut]


def _whole(specs: Iterable[EventSpec]) -> Any:
    """The type of a body whose events are all of today's schemas: one pass instead of one for each event."""
    records: list[Any] = [
        msgspec.defstruct(
            f"{spec.struct.__name__}Record",
            [("schema", Literal[spec.schema]), ("data", spec.struct)],
            tag_field="type",
            tag=spec.name,
            frozen=True,
            namespace={"type": spec.name},
        )
        for spec in specs
    ]
    events: Any = list[Union[tuple(records) or (EventRecord,)]]  # type: ignore[misc]  # noqa: UP007 - made from a list
    return msgspec.defstruct("WholeBody", [("events", events)], bases=(Body,), frozen=True, kw_only=True)


class Codec:
    """Encodes and decodes by the registry's event declarations."""

    def __init__(self, registry: Registry) -> None:
        self._specs = registry.event_specs
        self._upcasters = registry.upcasters
        self._latest = {spec.name: spec for spec in self._specs.values()}
        self._decoders = {(s.name, s.schema): msgspec.json.Decoder(s.struct).decode for s in self._specs.values()}
        self._encoder = msgspec.json.Encoder()
        self._body = msgspec.json.Decoder(Body)
        whole: Any = _whole(self._latest.values())
        self._whole = msgspec.json.Decoder(whole).decode
        self._wholes: Callable[[bytes], list[Any]] = msgspec.json.Decoder(list.__class_getitem__(whole)).decode

    def encode(self, *, events: Sequence[Event], **envelope: Any) -> bytes:
        """The body of a commit, at most 256 KiB."""
        specs = self._specs
        records = []
        for event in events:
            spec = specs[type(event)]
            records.append(_EventOut(spec.name, spec.schema, event))
        body = self._encoder.encode(_BodyOut(events=records, **envelope))
        if len(body) > COMMIT_MAX_BYTES:
            raise TooLarge(
                f"This command needs a commit of {len(body)} bytes; the log takes {COMMIT_MAX_BYTES}.",
                remedy="Store large values with PUT /api/blobs/{sha256} and refer to them by hash.",
            )
        return body

    def body(self, raw: bytes) -> Body:
        """The envelope; the events inside stay raw."""
        try:
            return self._body.decode(raw)
        except msgspec.MsgspecError as error:
            raise Undecodable(str(error)) from error

    def decode(self, entry: Entry) -> Commit:
        """An entry of the log as a commit with its events as Structs."""
        return self.commit(entry.position, entry.subject, entry.body)

    def commit(self, position: int, subject: str, raw: bytes) -> Commit:
        """The same, for who has no Entry."""
        try:
            body = self._whole(raw)
        except msgspec.MsgspecError:
            # Something in it is older, newer or broken: event by event it shows what.
            return self.unfolded(position, subject, self.body(raw))
        noun, aggregate_id = split_subject(subject)
        return Commit(position, noun, aggregate_id, body, tuple([record.data for record in body.events]))

    def commits(self, positions: Sequence[int], subjects: Sequence[str], bodies: bytes) -> list[Commit]:
        """Many at once, two thirds of the time; `bodies` is a JSON array. Raises Undecodable for what has to be looked
        at one by one: an event that is older, newer or broken."""
        try:
            read = self._wholes(bodies)
        except msgspec.MsgspecError as error:
            raise Undecodable(str(error)) from error
        if not len(positions) == len(subjects) == len(read):
            raise Undecodable(f"{len(read)} bodies for {len(positions)} positions and {len(subjects)} subjects")
        return [
            Commit(position, *split_subject(subject), body, tuple([record.data for record in body.events]))
            for position, subject, body in zip(positions, subjects, read, strict=True)
        ]

    def unfolded(self, position: int, subject: str, body: Body) -> Commit:
        """The same, for who has read the envelope already."""
        noun, aggregate_id = split_subject(subject)
        decoders = self._decoders
        events: list[Event] = []
        for record in body.events:
            decode = decoders.get((record.type, record.schema))
            try:
                event = self._upcast(record.type, record.schema, record.data) if decode is None else decode(record.data)
            except msgspec.MsgspecError as error:
                raise Undecodable(f"{record.type}/{record.schema}: {error}") from error
            events.append(event)
        return Commit(position, noun, aggregate_id, body, tuple(events))

    def _upcast(self, name: str, schema: int, data: msgspec.Raw) -> Event:
        latest = self._latest.get(name)
        if latest is None or schema > latest.schema:
            return UnknownEvent(type=name, schema=schema, data=data)
        fields: dict[str, Any] = msgspec.json.decode(data)
        for step in range(schema, latest.schema):
            upcaster = self._upcasters.get((name, step))
            if upcaster is None:
                raise Undecodable(f"{name}/{schema}: nothing brings schema {step} to {step + 1}")
            fields = upcaster(fields)
        return msgspec.convert(fields, latest.struct)
