"""From bytes to commands and queries, with a JSON pointer for whatever does not fit: the same on every way in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar, cast

import msgspec
from msgspec import Struct

from core.execution import escape
from core.kernel.errors import HivebusError, Invalid, Malformed, Unprocessable
from core.services.dispatch import Envelope

_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?\$(?P<path>[^`]*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_FIELD = re.compile(r"field `([^`]+)`")
_KEY_MAX = 200
# The documents say these too, so each reads the same in Python and in ECMAScript.
KEY_PATTERN = rf"[ -~]{{1,{_KEY_MAX}}}"
CORRELATION_PATTERN = r"[A-Za-z0-9._:-]{1,64}"
_KEY = re.compile(KEY_PATTERN).fullmatch
_TOKEN = re.compile(CORRELATION_PATTERN).fullmatch

S = TypeVar("S", bound=Struct)


@lru_cache(maxsize=256)
def _decoder(struct: type[S]) -> msgspec.json.Decoder[S]:
    return msgspec.json.Decoder(struct)


def from_json(struct: type[S], body: bytes, fields: Mapping[str, Any] | None = None) -> S:
    """A body as a Struct; `fields` come from the path and win. Raises Invalid (400) or Unprocessable (422)."""
    try:
        if not fields:
            return cast("S", _decoder(struct).decode(body))
        values = msgspec.json.decode(body) if body else {}
        if not isinstance(values, dict):
            raise Unprocessable("The body is not a JSON object.", pointer="", remedy="Send an object.")
        return msgspec.convert({**values, **fields}, struct)
    except msgspec.ValidationError as error:
        raise unprocessable(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise malformed(str(error)) from error
    except RecursionError as error:
        raise malformed("nested too deeply") from error


def raw_items(body: bytes) -> list[msgspec.Raw]:
    """The items of a JSON array, each still undecoded. Raises Invalid."""
    try:
        return msgspec.json.decode(body, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise malformed(str(error)) from error
    except RecursionError as error:
        raise malformed("nested too deeply") from error


def from_query(struct: type[S], values: Mapping[str, Any]) -> S:
    """Texts of a query string and a path as a Struct."""
    try:
        return msgspec.convert(dict(values), struct, strict=False)
    except msgspec.ValidationError as error:
        raise unprocessable(error) from error


def envelope_from(key: str | None, correlation_id: str | None, wait_s: float | None = None) -> Envelope:
    """The headers Idempotency-Key and X-Correlation-Id, checked. Raises Invalid."""
    if key is not None and not _KEY(key):
        raise Invalid(f"An Idempotency-Key has 1 to {_KEY_MAX} visible ASCII characters.", remedy="Use a UUID.")
    if correlation_id is not None and not _TOKEN(correlation_id):
        raise Invalid(
            "X-Correlation-Id holds other than letters, digits and ._:-, or more than 64.", remedy="Use a UUID."
        )
    return Envelope(idempotency_key=key, correlation_id=correlation_id, wait_s=wait_s)


def malformed(what: str) -> Malformed:
    """400: the body is no JSON at all."""
    return Malformed(f"The body is not JSON: {what}.", remedy="Send a JSON object, encoded as UTF-8.")


def unprocessable(error: msgspec.ValidationError) -> HivebusError:
    """422: the JSON does not fit. msgspec's path becomes a JSON pointer (RFC 6901)."""
    match = _AT.match(str(error))
    assert match is not None
    what, path = match["what"], match["path"] or ""
    steps = [name or index for name, index in _STEP.findall(path)]
    code = "invalid_field"
    field = _FIELD.search(what)
    if field is not None:
        steps.append(field[1])
        code = "unknown_field" if "unknown" in what else "missing_field"
    pointer = "".join(f"/{escape(step)}" for step in steps if step != "...")
    remedy = {
        "unknown_field": "Leave it out, or check its spelling.",
        "missing_field": "Add it.",
        "invalid_field": "See the field's type in docs/reference/rest.md.",
    }[code]
    return Unprocessable(f"{what}.", code=code, pointer=pointer, remedy=remedy)
