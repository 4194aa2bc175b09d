"""Filters that take one of several words.

An enumeration that may be null would take the text `null` of a query string for null, and list everything: so the
words are declared as text with an enumeration in its schema, and checked here.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.kernel.errors import Unprocessable


def check_word(field: str, value: str | None, words: Sequence[str], what: str) -> None:
    """Raises Unprocessable for a value that is none of the words; None is not said."""
    if value is not None and value not in words:
        raise Unprocessable(
            f"{value!r} is no {field} of {what}.", pointer=f"/{field}", remedy=f"One of {', '.join(words)}."
        )
