"""What must not lie in the log as it was said: large values, and private ones.

A large string goes to the blob store by its hash. A private value goes there with a random salt before it, so that its
hash in the log says nothing about a short value, and erasing it is deleting the blob: every proof still holds.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Any

import msgspec

from core.execution import DEPTH_MAX, PRIVATE_SALT_BYTES, escape
from core.kernel.errors import Unprocessable
from core.kernel.ports import Blobs

INLINE_MAX_BYTES = 64 * 1024
INTEGER_MIN, INTEGER_MAX = -(1 << 63), (1 << 63) - 1

_LOOKED_INTO = (str, dict, list, int)


class Sealed(msgspec.Struct, frozen=True):
    """Parameters as the log gets them, and as the fingerprint sees them."""

    parameters: dict[str, Any]
    canonical: dict[str, Any]


class Vault:
    """Moves values out of commands before they are decided."""

    def __init__(self, blobs: Blobs, key: bytes) -> None:
        self._blobs = blobs
        self._key = key

    async def seal(self, parameters: dict[str, Any]) -> Sealed | None:
        """The sealed form; None where nothing needs sealing. Blobs are durable when this returns."""
        if _is_plain(parameters) or not _needs_sealing(parameters, "/parameters", 0):
            return None
        sealed, canonical = await self._walk(parameters)
        return Sealed(sealed, canonical)

    async def _walk(self, value: Any) -> tuple[Any, Any]:
        if isinstance(value, dict):
            if is_private(value):
                return await self._private(value["private"])
            pairs = {key: await self._walk(item) for key, item in value.items()}
            return {key: pair[0] for key, pair in pairs.items()}, {key: pair[1] for key, pair in pairs.items()}
        if isinstance(value, list):
            items = [await self._walk(item) for item in value]
            return [item[0] for item in items], [item[1] for item in items]
        if isinstance(value, str) and len(value) > INLINE_MAX_BYTES // 4:
            raw = value.encode()
            if len(raw) > INLINE_MAX_BYTES:
                reference = {"blob": await self._blobs.put(raw), "size": len(raw)}
                return reference, reference
        return value, value

    async def _private(self, value: Any) -> tuple[Any, Any]:
        plain = msgspec.json.encode(value, order="deterministic")
        salted = os.urandom(PRIVATE_SALT_BYTES) + plain
        sealed = {"private": {"blob": await self._blobs.put(salted), "size": len(salted)}}
        # The fingerprint must repeat for the same value and still not give it away: a keyed hash, not a plain one.
        return sealed, {"private": hmac.new(self._key, plain, hashlib.sha256).hexdigest()}


def is_private(value: dict[str, Any]) -> bool:
    """Whether an object declares its value private: {"private": VALUE}, and not the reference it becomes."""
    if len(value) != 1 or "private" not in value:
        return False
    inner = value["private"]
    return not (isinstance(inner, dict) and inner.keys() == {"blob", "size"})


def _is_plain(parameters: dict[str, Any]) -> bool:
    """Whether they hold nothing but short texts, small numbers and lists of these: what most callers send."""
    for key, value in parameters.items():
        if key == "private":
            return False
        for item in value if type(value) is list else (value,):
            kind = type(item)
            if kind is str:
                if len(item) > INLINE_MAX_BYTES // 4:
                    return False
            elif kind is int:
                if not INTEGER_MIN <= item <= INTEGER_MAX:
                    return False
            elif item is not None and kind is not bool and kind is not float:
                return False
    return True


def _needs_sealing(value: Any, pointer: str, depth: int) -> bool:
    if isinstance(value, str):
        return len(value) > INLINE_MAX_BYTES // 4
    if isinstance(value, int):
        if not INTEGER_MIN <= value <= INTEGER_MAX:
            raise Unprocessable(
                "This integer does not fit 64 bits; not every reader of the log could read it.",
                pointer=pointer,
                remedy="Send it as a string.",
            )
        return False
    if depth > DEPTH_MAX:
        raise Unprocessable(f"Nested deeper than {DEPTH_MAX} levels.", code="too_deep", pointer=pointer)
    if isinstance(value, dict):
        found = is_private(value)
        for key, item in value.items():
            if isinstance(item, _LOOKED_INTO) and _needs_sealing(item, f"{pointer}/{escape(key)}", depth + 1):
                found = True
        return found
    if isinstance(value, list):
        found = False
        for index, item in enumerate(value):
            if isinstance(item, _LOOKED_INTO) and _needs_sealing(item, f"{pointer}/{index}", depth + 1):
                found = True
        return found
    return False
