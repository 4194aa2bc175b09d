"""Errors as the server told them, back in the tree that they came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from core.kernel.errors import HivebusError, Unavailable

# Members of a problem document, and of a JSON-RPC error's data, that are no extra of the error.
KNOWN = frozenset(
    {"type", "title", "status", "code", "detail", "reason", "remedy", "pointer", "field", "retry_after_s"}
)


class Unreachable(Unavailable):
    """No server answers where one should be, and the time to wait for it is over."""

    default_code = "unreachable"


class Other(HivebusError):
    """An error whose status this version has no class for."""

    def __init__(self, sentence: str, status: int, **members: Any) -> None:
        super().__init__(sentence, **members)
        self.status = status  # type: ignore[misc]  # the class does not know it, the server does


def error_of(document: Mapping[str, Any], *, status: int = 500) -> HivebusError:
    """The error of a problem document (RFC 9457), or of the `data` of a JSON-RPC error object.

    `status` stands in where the document has none, as the page of a proxy.
    """
    said = document.get("status")
    status = said if isinstance(said, int) else status
    code = document.get("code")
    members = {name: value for name, value in document.items() if name not in KNOWN} | {
        "code": str(code) if code is not None else None,
        "remedy": str(document.get("remedy") or ""),
        "pointer": document.get("pointer", document.get("field")),
        "retry_after_s": document.get("retry_after_s"),
    }
    sentence = str(document.get("detail") or document.get("reason") or f"The server answered with status {status}.")
    kinds = [kind for kind in _kinds(HivebusError) if kind.status == status and kind.__module__ == "core.kernel.errors"]
    if not kinds:
        return Other(sentence, status, **members)
    return next((kind for kind in kinds if kind.default_code == code), kinds[0])(sentence, **members)


def error_of_rpc(error: Mapping[str, Any]) -> HivebusError:
    """The error of a JSON-RPC error object."""
    data = error.get("data")
    document = data if isinstance(data, dict) else {}
    return error_of({"detail": error.get("message")} | document)


def _kinds(kind: type[HivebusError]) -> Iterator[type[HivebusError]]:
    """A class and all beneath it, the general before the special."""
    yield kind
    for special in kind.__subclasses__():
        yield from _kinds(special)
