"""An error as a JSON-RPC error object: the code by the error's class, everything else in `data`."""

from __future__ import annotations

from typing import Any

from core.kernel.errors import HivebusError

# A sentence may quote what it was given, and a frame may give a megabyte.
SENTENCE_CHARS_MAX = 1_000


def error_object(error: HivebusError) -> dict[str, Any]:
    """{code, message, data{code, field, reason, remedy, status, retry_after_s?, ...}}; `field` points into params."""
    sentence = error.sentence
    if len(sentence) > SENTENCE_CHARS_MAX:
        sentence = sentence[:SENTENCE_CHARS_MAX] + "..."
    data: dict[str, Any] = {
        "code": error.code,
        "field": error.pointer,
        "reason": sentence,
        "remedy": error.remedy or "Correct the request and send it again.",
        "status": error.status,
    }
    if error.retry_after_s is not None:
        data["retry_after_s"] = error.retry_after_s
    return {"code": error.jsonrpc, "message": sentence, "data": error.extra | data}
