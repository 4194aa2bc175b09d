"""An error as a JSON-RPC error object: the code by the error's class, everything else in `data`."""

from __future__ import annotations

from typing import Any

from core.kernel.errors import HivebusError


def error_object(error: HivebusError) -> dict[str, Any]:
    """{code, message, data{code, field, reason, remedy, status, retry_after_s?, ...}}; `field` points into params."""
    data: dict[str, Any] = {
        "code": error.code,
        "field": error.pointer,
        "reason": error.sentence,
        "remedy": error.remedy or "Correct the request and send it again.",
        "status": error.status,
    }
    if error.retry_after_s is not None:
        data["retry_after_s"] = error.retry_after_s
    return {"code": error.jsonrpc, "message": error.sentence, "data": error.extra | data}
