"""Secrets stay out of the log: parameters carry references, and a literal that looks like a secret is found here."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from core.execution import DEPTH_MAX, escape
from core.kernel.errors import Unprocessable

SECRET_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}\Z")
KNOWN_MIN_CHARS = 8

# A branch looks behind itself after its first letter, not before: while every branch begins with a literal, the regex
# engine skips ahead by first letters, five times faster on long text. "task-..." holds "sk-" and is no key.
_KEY = re.compile(
    r"s(?<![A-Za-z0-9]s)k-(?:[a-z]+-)*[A-Za-z0-9_-]{16,}"  # OpenAI, Anthropic and many others
    r"|g(?<![A-Za-z0-9]g)(?:h[pousr]_[A-Za-z0-9]{20,}|ithub_pat_[A-Za-z0-9_]{20,})"
    r"|A(?<![A-Za-z0-9]A)(?:KIA[A-Z0-9]{16}(?![A-Za-z0-9])|SIA[A-Z0-9]{16}(?![A-Za-z0-9])|Iza[A-Za-z0-9_-]{30,})"
    r"|x(?<![A-Za-z0-9]x)ox[abeprs]-[A-Za-z0-9-]{10,}"
    r"|e(?<![A-Za-z0-9]e)yJ[A-Za-z0-9_-]{6,}\.eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]+"
    r"|-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY"
)
_ASSIGNMENT = re.compile(r"(?:--?)?([A-Za-z_][A-Za-z0-9_-]*)=.")
_NESTED = (dict, list)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

_WORDS = frozenset(
    {"password", "passwords", "passwd", "passphrase", "pwd", "secret", "secrets", "token", "apikey", "accesskey"}
    | {"secretkey", "privatekey", "credential", "credentials", "authorization"}
)
_PAIRS = frozenset({"api", "access", "private", "secret", "signing", "encryption"})


class Secrets(Protocol):
    """Named secrets of this machine. Values never enter the log, a view or a log line."""

    def get(self, name: str) -> str | None:
        """The value as it is now; None where there is none; Unprocessable where it must not be used."""
        ...

    def names(self) -> list[str]:
        """All names, sorted."""
        ...

    def values(self) -> Mapping[str, str]:
        """Value to name, of those long enough (8 characters) to be recognised in text. May be two seconds old."""
        ...


@lru_cache(maxsize=4096)
def looks_secret(name: str) -> bool:
    """Whether a field, variable or option of this name holds a secret. The last word decides.

    `client_secret`, `apiKey`, `--github-token` do; `max_tokens`, `token_count`, `secret_name`, `keyboard` do not.
    """
    words = [word.lower() for word in _WORD.findall(name)]
    if words and words[-1] == "value":
        words.pop()
    if not words:
        return False
    return words[-1] in _WORDS or (words[-1] == "key" and len(words) > 1 and words[-2] in _PAIRS)


def find_literal_secret(value: Any, known_values: Collection[str] = (), *, base: str = "") -> str | None:
    """The JSON pointer of the first literal that is, or looks like, a secret; None if there is none.

    It is a non-empty string under a secret-looking name (an option's or an assignment's too, as in argv), a text with a
    well-known key pattern, or one that holds a known value of at least 8 characters. References are no literals.
    """
    known = [known_value for known_value in known_values if len(known_value) >= KNOWN_MIN_CHARS]
    try:
        path = _literal(value, known, 0, False)
    except _TooDeep:
        pointer = _beyond(value, base, 0)
        raise Unprocessable(f"Nested deeper than {DEPTH_MAX} levels.", code="too_deep", pointer=pointer) from None
    return None if path is None else base + "".join(f"/{escape(str(step))}" for step in reversed(path))


class _TooDeep(Exception): ...


def _beyond(value: Any, pointer: str, depth: int) -> str | None:
    """The pointer of the first value that lies too deep."""
    if depth > DEPTH_MAX and isinstance(value, dict | list):
        return pointer
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = (_beyond(item, f"{pointer}/{escape(str(step))}", depth + 1) for step, item in steps)
    return next((deep for deep in found if deep is not None), None)


# The steps that lead to a literal, the last one first: made on the way back, so that what is clean costs no text.
_Path = list[str | int]


def _literal(value: Any, known: list[str], depth: int, named: bool) -> _Path | None:
    """Where the first literal beneath a value is; `named` says that a secret-looking name leads to it."""
    if isinstance(value, str):
        return [] if value and (named or _is_secret_text(value, known)) else None
    if depth > DEPTH_MAX:
        raise _TooDeep
    if isinstance(value, dict):
        return _in_object(value, known, depth)
    return _in_list(value, known, depth, named) if isinstance(value, list) else None


def _in_object(value: dict[str, Any], known: list[str], depth: int) -> _Path | None:
    if len(value) == 1 and isinstance(name := value.get("secret"), str) and SECRET_NAME.match(name):
        return None
    for key, item in value.items():
        if isinstance(item, str):
            if item and (looks_secret(key) or _is_secret_text(item, known)):
                return [key]
        elif isinstance(item, _NESTED):
            path = _literal(item, known, depth + 1, looks_secret(key))
            if path is not None:
                path.append(key)
                return path
    return None


def _in_list(value: list[Any], known: list[str], depth: int, named: bool) -> _Path | None:
    follows_option = False
    for index, item in enumerate(value):
        is_text = isinstance(item, str)
        is_option = is_text and item[:1] == "-"
        suspect = named or (follows_option and not is_option) or (is_text and _assigns_secret(item))
        path = _literal(item, known, depth + 1, suspect)
        if path is not None:
            path.append(index)
            return path
        follows_option = is_option and "=" not in item and looks_secret(item)
    return None


def _assigns_secret(text: str) -> bool:
    assignment = _ASSIGNMENT.match(text) if "=" in text else None
    return assignment is not None and looks_secret(assignment[1])


def _is_secret_text(text: str, known: list[str]) -> bool:
    return _KEY.search(text) is not None or (bool(known) and any(value in text for value in known))


@lru_cache(maxsize=256)
def free_fields(struct: type[Struct]) -> tuple[str, ...]:
    """The fields in which a caller may say anything: neither a number, a known word nor bound by a pattern."""
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    return tuple(field.name for field in info.fields if _is_free(field.type))


def _is_free(kind: msgspec.inspect.Type) -> bool:
    if isinstance(kind, msgspec.inspect.UnionType):
        return any(map(_is_free, kind.types))
    if isinstance(kind, msgspec.inspect.ListType):
        return _is_free(kind.item_type)
    if isinstance(kind, msgspec.inspect.StrType):
        return kind.pattern is None
    return isinstance(kind, msgspec.inspect.AnyType | msgspec.inspect.DictType)
