"""What goes wrong with an aggregate that a command names: it is unknown, trimmed away, or taken by another body."""

from __future__ import annotations

from core.kernel.errors import Gone, HivebusError, KeyReused, NotFound


def unknown(noun: str, aggregate_id: str) -> HivebusError:
    """The error for an id that the log does not know."""
    return NotFound(
        f"There is no {noun} {aggregate_id}.",
        code=f"unknown_{noun}",
        remedy=f"List what there is: GET /api/{noun}s, or `hivebus {noun} list`.",
    )


def gone(noun: str, aggregate_id: str) -> HivebusError:
    """The error for a command to what has ended and is no longer on the log."""
    return Gone(
        f"This {noun} has ended, and the log was trimmed of it: {aggregate_id}.",
        code=f"trimmed_{noun}",
        remedy=f"It can still be read: GET /api/{noun}s/{aggregate_id}. Create a new one to do it again.",
    )


def key_reused(position: int | None) -> KeyReused:
    """The error for an Idempotency-Key that stands for another body, first committed at `position` if it is known."""
    error = KeyReused(
        "This idempotency key was used before with another body.", remedy="Repeat the first body, or choose a new key."
    )
    if position is not None:
        error.extra["position"] = position
    return error
