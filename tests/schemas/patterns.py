"""Every pattern that the documents hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from entrypoints.schemas.documents import Documents


def patterns(made: Documents) -> list[str]:
    """Each once, in order."""
    return sorted({pattern for name in made.NAMES for pattern in _in(made.document(name))})


def _in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(pattern := value.get("pattern"), str):
            yield pattern
        for inner in value.values():
            yield from _in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _in(inner)
