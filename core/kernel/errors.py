"""The errors a caller can get.

    HivebusError
    |-- Invalid               400  invalid_request
    |   |-- Malformed         400  malformed_json
    |   |-- Unprocessable     422  invalid_field, literal_secret, not_available, executor_required, ...
    |   `-- TooLarge          413  too_large
    |-- Unauthenticated       401  unauthenticated
    |-- Forbidden             403  forbidden_origin, forbidden_host, forbidden
    |-- NotFound              404  unknown_<noun>, unknown_path
    |   `-- UnknownAction     404  unknown_action
    |-- Gone                  410  trimmed_<noun>
    |-- Refused               409  a decision said no: illegal_transition, stale_fence, ...
    |   |-- AgentUnavailable  409  agent_unavailable
    |   `-- KeyReused         409  idempotency_key_reused
    |-- UnsupportedMedia      415  unsupported_media_type
    |-- TooMany               429  over a bound; retry_after_s says when to come back
    `-- Unavailable           503  log_unavailable, busy
        |-- OutcomeUnknown    504  the append was sent and never resolved
        |-- NotYet            504  a position that the views have not reached
        `-- LogFull           507  the log refuses to grow

Each carries a stable code, a sentence that says what happened, and a remedy that says what to do. A transport maps
`status` or `jsonrpc` once; nothing else about an error depends on the transport. The numbers of JSON-RPC:

    -32700  what was sent is no JSON
    -32600  it is no request, or not one that may be made here: too large, no key, before `initialize`
    -32601  there is no such method
    -32602  the params do not fit, or name what does not exist
    -32603  a bug
    -32000  an agent, or what carries the request out (the log, the views, the disk), is not available
    -32001  it was understood and failed: the state of things says no
    -32002  a limit is reached: come back later
"""

from __future__ import annotations

from typing import Any, ClassVar


class HivebusError(Exception):
    """Base of all errors that reach a caller."""

    status: ClassVar[int] = 500
    jsonrpc: ClassVar[int] = -32603
    default_code: ClassVar[str] = "internal"

    def __init__(
        self,
        sentence: str,
        *,
        code: str | None = None,
        remedy: str = "",
        pointer: str | None = None,
        retry_after_s: float | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code = code or self.default_code
        self.remedy = remedy
        self.pointer = pointer
        self.retry_after_s = retry_after_s
        self.extra = extra

    def as_problem(self) -> dict[str, Any]:
        """The error as members of an RFC 9457 problem document."""
        body: dict[str, Any] = {
            "type": f"urn:hivebus:problem:{self.code}",
            "title": self.code.replace("_", " "),
            "status": self.status,
            "code": self.code,
            "detail": self.sentence,
        }
        body["remedy"] = self.remedy or "Correct the request and send it again."
        if self.pointer is not None:
            body["pointer"] = self.pointer
        if self.retry_after_s is not None:
            body["retry_after_s"] = self.retry_after_s
        return body | self.extra


class Invalid(HivebusError):
    status = 400
    jsonrpc = -32600
    default_code = "invalid_request"


class Malformed(Invalid):
    """The bytes are no JSON."""

    jsonrpc = -32700
    default_code = "malformed_json"


class Unprocessable(Invalid):
    status = 422
    jsonrpc = -32602
    default_code = "invalid_field"


class TooLarge(Invalid):
    status = 413
    default_code = "too_large"


class Unauthenticated(HivebusError):
    status = 401
    jsonrpc = -32600
    default_code = "unauthenticated"


class Forbidden(HivebusError):
    status = 403
    jsonrpc = -32600
    default_code = "forbidden"


class NotFound(HivebusError):
    status = 404
    jsonrpc = -32602
    default_code = "not_found"


class UnknownAction(NotFound):
    jsonrpc = -32601
    default_code = "unknown_action"


class Gone(HivebusError):
    """It has ended, and the log no longer holds it: nothing can be done with it, only read."""

    status = 410
    jsonrpc = -32001
    default_code = "gone"


class Refused(HivebusError):
    """A decision said no. The bus leaves a `command.refused` event for it."""

    status = 409
    jsonrpc = -32001
    default_code = "illegal_transition"


class AgentUnavailable(Refused):
    """The agent is there and takes no tasks."""

    jsonrpc = -32000
    default_code = "agent_unavailable"


class KeyReused(Refused):
    default_code = "idempotency_key_reused"


class UnsupportedMedia(Invalid):
    status = 415
    default_code = "unsupported_media_type"


class TooMany(HivebusError):
    status = 429
    jsonrpc = -32002
    default_code = "too_many"


class Unavailable(HivebusError):
    status = 503
    jsonrpc = -32000
    default_code = "unavailable"


class OutcomeUnknown(Unavailable):
    status = 504
    default_code = "outcome_unknown"


class NotYet(Unavailable):
    status = 504
    default_code = "not_yet"


class LogFull(Unavailable):
    status = 507
    default_code = "log_full"


class StartRefused(HivebusError):
    """The program cannot start safely; the sentence and the remedy are all a user sees."""

    default_code = "start_refused"


def internal() -> HivebusError:
    """The error of a bug: what it was stands in the log, and nowhere else."""
    return HivebusError(
        "Something broke inside Hivebus; it is in the program's log.",
        remedy="Try again; if it lasts, report it with the log's lines.",
    )
