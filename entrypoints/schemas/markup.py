"""HTML from Python: every text is escaped, every tag is closed."""

from __future__ import annotations

import re
from html import escape
from typing import Any

VOID = frozenset({"meta", "link", "br"})
_CODE = re.compile(r"`([^`]+)`")


class Markup(str):
    """HTML that is finished: what it holds was escaped when it was made."""

    __slots__ = ()


def tag(name: str, /, *children: str | None, **attributes: Any) -> Markup:
    """An element. A child that is no Markup is text; an attribute that is None is left out; `class_` is `class`."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{said}>")
    return Markup(f"<{name}{said}>{joined(*children)}</{name}>")


def joined(*children: str | None) -> Markup:
    """One piece after the other."""
    pieces = (child for child in children if child)
    return Markup("".join(piece if isinstance(piece, Markup) else escape(piece, quote=False) for piece in pieces))


def prose(text: str) -> Markup:
    """Paragraphs, with what stands in backticks as code."""
    return joined(*(tag("p", line(part)) for part in text.split("\n\n") if part.strip()))


def line(text: str) -> Markup:
    """One line of text, with what stands in backticks as code."""
    pieces = _CODE.split(text)
    return joined(*(tag("code", piece) if index % 2 else piece for index, piece in enumerate(pieces)))


def anchor(text: str) -> str:
    """What an address names a heading by."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
