"""What every command answers, beside what it says of itself. A query's answer is the annotation of its read."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from msgspec import Meta

Position = Annotated[int, Meta(ge=0, description="A position on the log: the total order of all commits.")]
Time = Annotated[str, Meta(description="RFC 3339, UTC, three decimals and Z.", examples=["2026-01-31T12:00:00.000Z"])]
Unknown = Annotated[dict[str, str], Meta(description="Why a field is null, by the field's name.")]


class CommandAnswer(TypedDict):
    """Where the commit of a command stands, and what became of its aggregate."""

    position: Position
    status: str
    correlation_id: str
    repeated: NotRequired[Annotated[bool, Meta(description="The log held this very command already.")]]


class CreatedAnswer(CommandAnswer):
    """The answer to a command that creates; `created_at` is when it was decided."""

    created_at: Time


class ChangedAnswer(CommandAnswer):
    """The answer to a command that changes; `time` is when it was decided."""

    time: Time
