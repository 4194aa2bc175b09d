"""Which errors a call can get: by what kind of call it is, and what its decision declares.

A test finds every code in the program's source and holds that it stands here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import structs

from core.kernel.errors import (
    Forbidden,
    Gone,
    HivebusError,
    Invalid,
    KeyReused,
    LogFull,
    NotFound,
    NotYet,
    OutcomeUnknown,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unprocessable,
    UnsupportedMedia,
)
from entrypoints.calls import Action, Nothing
from entrypoints.http.problems import HeaderTooLarge, TooSlow, WrongMethod

Faults = Mapping[str, type[HivebusError]]

# What any request over HTTP can meet before it is looked at.
REQUEST: Faults = {
    "invalid_request": Invalid,
    "request_timeout": TooSlow,
    "header_too_large": HeaderTooLarge,
    "too_large": TooLarge,
}
ELSEWHERE: Faults = {"unknown_path": NotFound, "method_not_allowed": WrongMethod, "internal": HivebusError}
ORIGIN: Faults = {"forbidden_host": Forbidden, "forbidden_origin": Forbidden}
KEY: Faults = {"unauthenticated": Unauthenticated, "forbidden": Forbidden}
FIELDS: Faults = {"invalid_field": Unprocessable, "unknown_field": Unprocessable}
BODY: Faults = {
    "malformed_json": Invalid,
    "missing_field": Unprocessable,
    "unsupported_media_type": UnsupportedMedia,
}
BATCH: Faults = {"empty_batch": Unprocessable}
WAITING: Faults = {"not_yet": NotYet}
DISK: Faults = {"disk_full": LogFull}
COMMAND: Faults = {
    "literal_secret": Unprocessable,
    "too_deep": Unprocessable,
    "idempotency_key_reused": KeyReused,
    "contended": Unavailable,
    "log_unavailable": Unavailable,
    "store_unavailable": Unavailable,
    "database_unavailable": Unavailable,
    "upgrade_in_progress": Unavailable,
    "outcome_unknown": OutcomeUnknown,
    "log_full": LogFull,
    "disk_full": LogFull,
}
READING: Faults = {
    "busy": Unavailable,
    "database_unavailable": Unavailable,
    "store_unavailable": Unavailable,
    "views_unavailable": Unavailable,
}


def faults_of(action: Action) -> dict[str, type[HivebusError]]:
    """What an action can answer instead, whatever the way in: the error's class by its code."""
    found = together(KEY, FIELDS)
    if any(field.required for field in structs.fields(action.struct)):
        found["missing_field"] = Unprocessable
    noun = action.name.partition(".")[0]
    targeted = f"{noun}_id" in action.struct.__struct_fields__
    if not action.read_only:
        found |= {**COMMAND, **WAITING}
        if targeted:
            found[f"trimmed_{noun}"] = Gone
    else:
        found |= READING if action.struct is not Nothing else {}
        if "min_position" in action.options.__struct_fields__:
            found |= WAITING
    if targeted or _is_named(action):
        found[f"unknown_{noun}"] = NotFound
    return together(found, action.faults)


def _is_named(action: Action) -> bool:
    """Whether it is about what a user has named: a limit or budget that is read, a schedule unless it is set."""
    noun, _, verb = action.name.partition(".")
    field = {"limit": "key", "budget": "key", "schedule": "name"}.get(noun)
    return field in action.struct.__struct_fields__ and verb != "set"


def by_status(faults: Mapping[str, type[HivebusError]]) -> dict[int, list[str]]:
    """Codes by HTTP status, both in order."""
    found: dict[int, list[str]] = {}
    for code, kind in faults.items():
        found.setdefault(kind.status, []).append(code)
    return {status: sorted(found[status]) for status in sorted(found)}


def together(*parts: Faults) -> dict[str, type[HivebusError]]:
    """One table of several."""
    return {code: kind for part in parts for code, kind in part.items()}


def known(actions: Iterable[Action]) -> set[str]:
    """Every code that the documents know."""
    parts = (REQUEST, ELSEWHERE, ORIGIN, KEY, FIELDS, BODY, BATCH, WAITING, DISK, COMMAND, READING)
    return {code for part in parts for code in part} | {code for action in actions for code in faults_of(action)}
