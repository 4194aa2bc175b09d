"""Events as everybody outside sees them: CloudEvents 1.0, the same on every way out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec import Struct

from core.kernel.commit import Body
from core.kernel.times import rfc3339


class CloudEvent(Struct, frozen=True, kw_only=True):
    """An event as everybody outside sees it (CloudEvents 1.0, JSON format)."""

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    type: str
    subject: str
    time: str
    datacontenttype: str = "application/json"
    sequence: str
    correlationid: str
    causationid: str
    actor: str
    data: msgspec.Raw


def cloud_events(position: int, noun: str, aggregate_id: str, body: Body) -> Iterator[CloudEvent]:
    """The events of a commit; `sequence` is its position, `id` adds the index to the commit's id."""
    for index, record in enumerate(body.events):
        yield CloudEvent(
            id=f"{body.id}/{index}",
            source="/hivebus",
            type=f"hivebus.{record.type}",
            subject=f"{noun}/{aggregate_id}",
            time=rfc3339(body.occurred_at),
            sequence=str(position),
            correlationid=body.correlation_id,
            causationid=body.causation_id,
            actor=body.actor,
            data=record.data,
        )
