"""The commit: what one accepted command leaves on the log, one message, atomic.

The body is JSON written once and never changed: {id, command, command_id, fingerprint, actor, on_behalf_of?,
correlation_id, causation_id, occurred_at, version, events[{type, schema, data}]}. `position` is not in it: it is the
sequence number that the log gave to the message.
"""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from core.kernel.ids import derived

SUBJECT_ROOT = "hive.log."
COMMIT_MAX_BYTES = 256 * 1024

_canonical = msgspec.json.Encoder(order="deterministic")


# What is frozen when it is made forms no cycles, so the collector need not visit it (`gc=False`).
class Event(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Base of all events: past tense, frozen, its registered name a storage format."""


class Moment(Struct, frozen=True, gc=False):
    """Where and when a commit stands: what a fold may know besides the event itself."""

    position: int
    time_ms: int
    correlation_id: str = ""


class Entry(Struct, frozen=True, gc=False):
    """One message of the log as it is stored."""

    position: int
    subject: str
    commit_id: str
    body: bytes


class EventRecord(Struct, frozen=True, gc=False):
    """One event inside a body; `data` stays undecoded until somebody folds it."""

    type: str
    schema: int
    data: msgspec.Raw


class Body(Struct, frozen=True, kw_only=True, gc=False):
    """A commit's body as it is read."""

    id: str
    command: str
    command_id: str
    fingerprint: str
    actor: str
    correlation_id: str
    causation_id: str
    occurred_at: int
    version: int
    events: list[EventRecord]
    on_behalf_of: str | None = None


class Commit(Struct, frozen=True, gc=False):
    """A decoded commit: the body's fields, where it stands, and its events as Structs."""

    position: int
    noun: str
    aggregate_id: str
    body: Body
    events: tuple[Event, ...]

    @property
    def moment(self) -> Moment:
        """Where and when it stands."""
        return Moment(self.position, self.body.occurred_at, self.body.correlation_id)


def subject_of(noun: str, aggregate_id: str) -> str:
    """The one subject of an aggregate. Both parts are ours (a noun, a UUID), never a user's text."""
    return f"{SUBJECT_ROOT}{noun}.{aggregate_id}"


def split_subject(subject: str) -> tuple[str, str]:
    """(noun, aggregate id) of a log subject."""
    noun, _, aggregate_id = subject[len(SUBJECT_ROOT) :].partition(".")
    return noun, aggregate_id


def cause_of(position: int) -> str | None:
    """A commit as the cause of another: `@` and its position. A caller's command is its own cause."""
    return f"@{position}" if position else None


def commit_id_of(command_id: UUID, subject: str, text: str | None = None) -> str:
    """The id that every attempt to commit this command there carries: finding it on the log means success.

    `text` is the command id as text, where somebody has it.
    """
    return derived(command_id, subject, text)


def fingerprint_of(name: str, command: Any) -> str:
    """The first 16 bytes of SHA-256 over the canonical command, in hex: tells a repeat from another body."""
    digest = hashlib.sha256(name.encode() + b"\0" + _canonical.encode(command)).digest()
    return digest[:16].hex()
