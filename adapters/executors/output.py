"""What a program wrote, as a result keeps it: secrets replaced, the ends inline, the whole in a blob if it is long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from core.kernel.ports import Blobs

HEAD_BYTES = 12 * 1024
TAIL_BYTES = 4 * 1024
INLINE_MAX_BYTES = HEAD_BYTES + TAIL_BYTES
USED_MIN_CHARS = 4


class Redactor:
    """Replaces secret values by `[secret NAME]`, and private ones by `[private]`.

    Of those an attempt used, the ones of 4 characters and more; a shorter one would tear ordinary text apart.
    """

    def __init__(self, known: Mapping[str, str], used: Mapping[str, str]) -> None:
        names = {value: f"secret {name}" for value, name in known.items()}
        names |= {value: label for value, label in used.items() if len(value) >= USED_MIN_CHARS}
        # A value may hold another: the longest goes first. Inside JSON a value stands escaped.
        forms = {
            form: name for value, name in names.items() for form in (value, msgspec.json.encode(value)[1:-1].decode())
        }
        self._pairs = [
            (form.encode(errors="surrogateescape"), f"[{forms[form]}]".encode())
            for form in sorted(forms, key=len, reverse=True)
        ]

    def bytes(self, data: bytes) -> bytes:
        """The bytes without secrets; the same object where there are none."""
        for value, name in self._pairs:
            data = data.replace(value, name)
        return data

    def text(self, text: str) -> str:
        """The text without secrets."""
        return self.bytes(text.encode(errors="replace")).decode(errors="replace") if self._pairs else text


async def kept(name: str, data: bytes, blobs: Blobs) -> dict[str, Any]:
    """The members of a result for one stream: `<name>`, `<name>_bytes`, and `<name>_blob` where the text is cut.

    `data` is redacted already; the sizes are those of what is kept.
    """
    members: dict[str, Any] = {name: inline(data), f"{name}_bytes": len(data)}
    if len(data) > INLINE_MAX_BYTES:
        members[f"{name}_blob"] = {"sha256": await blobs.put(data), "size": len(data)}
    return members


def inline(data: bytes) -> str:
    """Text of at most 16 KiB and a line: the head and the tail, and between them how much was left out."""
    if len(data) <= INLINE_MAX_BYTES:
        return _text(data)
    omitted = len(data) - INLINE_MAX_BYTES
    return f"{_text(data[:HEAD_BYTES])}\n[... {omitted} bytes left out ...]\n{_text(data[-TAIL_BYTES:])}"


def _text(data: bytes) -> str:
    # A text column of Postgres takes no NUL; what is exact is in the blob.
    return data.decode("utf-8", "replace").replace("\0", "\ufffd")
