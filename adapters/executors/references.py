"""References become values here, inside the executor, and nowhere before."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import msgspec

from core.execution import PRIVATE_SALT_BYTES, Reference, as_reference
from core.kernel.errors import Unprocessable
from core.kernel.ports import Blobs
from core.secrets import Secrets


class Resolver:
    """Resolves the references of one attempt. `used` maps what must not come back in output, value to label.

    Raises Unprocessable `unresolvable_reference` for what this machine does not have.
    """

    def __init__(self, secrets: Secrets, blobs: Blobs) -> None:
        self._secrets = secrets
        self._blobs = blobs
        self.used: dict[str, str] = {}

    async def value(self, value: Any) -> Any:
        """The value with every reference replaced; the same object where there is none.

        A blob becomes its text, or {"base64": ...} where it is not UTF-8.
        """
        if isinstance(value, Reference):
            return await self._value(value)
        if isinstance(value, dict):
            reference = as_reference(value)
            if reference is not None:
                return await self._value(reference)
            return {key: await self.value(item) for key, item in value.items()}
        if isinstance(value, list):
            return [await self.value(item) for item in value]
        return value

    async def text(self, value: str | Reference) -> str:
        """For argv and the environment: text without NUL."""
        if isinstance(value, str):
            return value
        resolved = await self._value(value)
        if not isinstance(resolved, str) or "\0" in resolved:
            raise _unresolvable("A reference in argv or env must lead to text without NUL.")
        return resolved

    async def content(self, value: str | Reference) -> bytes:
        """For stdin: a blob's bytes as they are, text as UTF-8, any other private value as JSON."""
        if isinstance(value, Reference) and value.blob is not None:
            return await self._blob(value.blob)
        resolved = value if isinstance(value, str) else await self._value(value)
        return resolved.encode() if isinstance(resolved, str) else msgspec.json.encode(resolved)

    async def _value(self, reference: Reference) -> Any:
        if reference.secret is not None:
            return self._secret(reference.secret)
        if reference.private is not None and reference.private.blob is not None:
            value = _private(await self._blob(reference.private.blob), reference.private.blob)
            # A private value that came back in a result would lie in the log for ever, and erasing it would be a lie.
            self.used.update(dict.fromkeys(_texts(value), "private"))
            return value
        assert reference.blob is not None, "a Reference is one of three"
        data = await self._blob(reference.blob)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(data).decode()}

    def _secret(self, name: str) -> str:
        value = self._secrets.get(name)
        if value is None:
            raise _unresolvable(
                f"There is no secret {name} on this machine.", f"Store it as secrets/{name}, mode 0600."
            )
        self.used[value] = f"secret {name}"
        return value

    async def _blob(self, sha256: str) -> bytes:
        data = await self._blobs.get(sha256)
        if data is None:
            raise _unresolvable(f"The blob {sha256} is not in the store: erased, never stored, or damaged.")
        return data


def _private(data: bytes, sha256: str) -> Any:
    try:
        return msgspec.json.decode(data[PRIVATE_SALT_BYTES:])
    except msgspec.DecodeError as error:
        raise _unresolvable(f"The blob {sha256} is no private value: 32 bytes of salt, then JSON.") from error


def _unresolvable(sentence: str, remedy: str = "") -> Unprocessable:
    return Unprocessable(sentence, code="unresolvable_reference", remedy=remedy)


async def resolve(value: Any, secrets: Secrets, blobs: Blobs) -> Any:
    """The value with every reference replaced by what it refers to."""
    return await Resolver(secrets, blobs).value(value)


def _texts(value: Any) -> Iterator[str]:
    """All texts inside a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
