"""What A2A 1.0 calls our errors: its code and reason, with our own code, place and remedy in the details.

The specification gives -32001 to -32009 a meaning of its own, so the codes that the other JSON-RPC surfaces use do not
go out here. Details are an ErrorInfo of google.rpc, whose metadata are texts.
"""

from __future__ import annotations

from typing import Any

from core.kernel.errors import (
    Gone,
    HivebusError,
    Invalid,
    KeyReused,
    Malformed,
    NotFound,
    Refused,
    TooMany,
    Unavailable,
    UnknownAction,
    Unprocessable,
)

DOMAIN = "a2a-protocol.org"
ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"


class A2AError(HivebusError):
    """An error that A2A has a number and a name for."""

    reason = "INTERNAL_ERROR"


class TaskNotCancelable(A2AError):
    """The task has ended."""

    status = 409
    jsonrpc = -32002
    default_code = "illegal_transition"
    reason = "TASK_NOT_CANCELABLE"


class PushNotificationNotSupported(A2AError):
    """The card says that there are none."""

    status = 400
    jsonrpc = -32003
    default_code = "push_not_supported"
    reason = "PUSH_NOTIFICATION_NOT_SUPPORTED"


class UnsupportedOperation(A2AError):
    """The method exists, and what it asks for does not."""

    status = 400
    jsonrpc = -32004
    default_code = "unsupported_operation"
    reason = "UNSUPPORTED_OPERATION"


class ContentTypeNotSupported(A2AError):
    """A part, or every output mode that the caller takes, is of a type that this agent does not speak."""

    status = 415
    jsonrpc = -32005
    default_code = "content_not_supported"
    reason = "CONTENT_TYPE_NOT_SUPPORTED"


class VersionNotSupported(A2AError):
    """The caller speaks another version of the protocol."""

    status = 400
    jsonrpc = -32009
    default_code = "version_not_supported"
    reason = "VERSION_NOT_SUPPORTED"


BY_CLASS: tuple[tuple[type[HivebusError], int, str], ...] = (
    (UnknownAction, -32601, "METHOD_NOT_FOUND"),
    (NotFound, -32001, "TASK_NOT_FOUND"),
    (Malformed, -32700, "JSON_PARSE_ERROR"),
    (Unprocessable, -32602, "INVALID_PARAMS"),
    (KeyReused, -32602, "INVALID_PARAMS"),
    (Gone, -32004, "UNSUPPORTED_OPERATION"),
    (Refused, -32004, "UNSUPPORTED_OPERATION"),
    (Invalid, -32600, "INVALID_REQUEST"),
    (TooMany, -32603, "RESOURCE_EXHAUSTED"),
    (Unavailable, -32603, "UNAVAILABLE"),
)
OTHER = (-32603, "INTERNAL_ERROR")


def error_object(error: HivebusError) -> dict[str, Any]:
    """{code, message, data: [ErrorInfo]}; metadata {code, remedy, status, field?, retry_after_s?} are texts."""
    number, reason = _named(error)
    metadata = {
        "code": error.code,
        "remedy": error.remedy or "Correct the request and send it again.",
        "status": str(error.status),
    }
    if error.pointer is not None:
        metadata["field"] = error.pointer
    if error.retry_after_s is not None:
        metadata["retry_after_s"] = f"{error.retry_after_s:g}"
    info = {"@type": ERROR_INFO, "reason": reason, "domain": DOMAIN, "metadata": metadata}
    return {"code": number, "message": error.sentence, "data": [info]}


def _named(error: HivebusError) -> tuple[int, str]:
    if isinstance(error, A2AError):
        return error.jsonrpc, error.reason
    for kind, number, reason in BY_CLASS:
        if isinstance(error, kind):
            return number, reason
    return OTHER
