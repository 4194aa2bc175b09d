"""Times as everybody outside sees them: RFC 3339, UTC, exactly three decimals and Z."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import overload

from core.kernel.errors import Unprocessable

# What the documents say too, so it reads the same in Python and in ECMAScript.
RFC3339_PATTERN = (
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_RFC3339 = re.compile(RFC3339_PATTERN)


@overload
def rfc3339(ms: int) -> str: ...
@overload
def rfc3339(ms: None) -> None: ...
@overload
def rfc3339(ms: int | None) -> str | None: ...
def rfc3339(ms: int | None) -> str | None:
    """Milliseconds since 1970 as text; None stays None."""
    if ms is None:
        return None
    return f"{_second(ms // 1000)}.{ms % 1000:03d}Z"


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def parse_rfc3339(text: str, pointer: str = "/at") -> int:
    """Text as milliseconds since 1970. Raises Unprocessable for anything but an RFC 3339 time with an offset.

    `pointer` says where the text stands; `/at` takes positions too.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise Unprocessable(
            f"{text[:100]!r} is {'neither a position nor' if pointer == '/at' else 'not'} an RFC 3339 time.",
            pointer=pointer,
            remedy=f"Give {'digits (a position), or ' * (pointer == '/at')}a time such as 2026-01-31T12:00:00.000Z.",
        )
    day, clock, fraction, offset = match.groups()
    try:
        whole = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if offset in 'Zz' else offset}")
    except ValueError as error:
        raise Unprocessable(f"{text!r} is no time: {error}.", pointer=pointer, remedy="Check day and hour.") from error
    return int(whole.timestamp()) * 1000 + int(float(fraction or 0) * 1000)
