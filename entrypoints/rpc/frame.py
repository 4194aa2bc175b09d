"""From bytes to requests: what JSON-RPC 2.0 says of a message, and nothing of what it asks for."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
from msgspec import Raw, Struct

from core.kernel.errors import HivebusError, Invalid, Malformed, TooLarge, Unprocessable

FRAME_BYTES_MAX = 1024 * 1024
BATCH_MAX = 50
NULL = b"null"


class Request(Struct, frozen=True):
    """One request. `id` is its JSON text, so that it goes back as it came; None is a notification.

    `error` says why it cannot be carried out as it stands.
    """

    id: bytes | None
    method: str = ""
    params: dict[str, Any] = msgspec.field(default_factory=dict)
    error: HivebusError | None = None


class _Identified(Struct):
    id: Raw = Raw(NULL)


def read(frame: bytes) -> Request | list[Request]:
    """The request of a frame, or those of a batch. Raises Malformed, Invalid and TooLarge for the frame as a whole.

    Names that an object holds twice: the last counts, as everywhere in Hivebus. Members that JSON-RPC does not know
    are left alone: libraries put their trace context there.
    """
    if len(frame) > FRAME_BYTES_MAX:
        raise TooLarge(
            f"The message has {len(frame)} bytes; {FRAME_BYTES_MAX} is the most.",
            remedy="Store large values with PUT /api/blobs/{sha256}; cut batches into smaller ones.",
        )
    value = _decoded(frame)
    if not isinstance(value, list):
        return _request(value, frame)
    if not value:
        raise Invalid("The batch holds no request.", code="empty_batch", remedy="Send at least one.")
    if len(value) > BATCH_MAX:
        raise Invalid(
            f"A batch of {len(value)} requests; {BATCH_MAX} is the most.",
            code="batch_too_long",
            remedy=f"Cut it into batches of at most {BATCH_MAX}; task.submit over POST /api/tasks takes 1,000 in one.",
        )
    raws = msgspec.json.decode(frame, type=list[Raw])
    return [_request(item, raw) for item, raw in zip(value, raws, strict=True)]


def _decoded(frame: bytes) -> Any:
    try:
        return msgspec.json.decode(frame)
    except RecursionError:
        what = "it is nested too deeply"
    except UnicodeDecodeError:
        what = "it is not UTF-8"
    except msgspec.DecodeError as error:
        what = str(error)
    raise Malformed(f"The message is not JSON: {what}.", remedy="Send one JSON object or array, encoded as UTF-8.")


def _request(value: Any, raw: bytes | Raw) -> Request:
    if not isinstance(value, dict):
        return Request(NULL, error=Invalid("A request is an object.", remedy=_SHAPE))
    said = value.get("id")
    known = "id" in value
    if isinstance(said, bool | dict | list):
        return Request(NULL, error=Invalid("The id is neither a string nor a number.", pointer="/id", remedy=_SHAPE))
    # A number goes back digit by digit: 1.0 stays 1.0, and no digit of a long one is lost.
    token = bytes(msgspec.json.decode(raw, type=_Identified).id) if isinstance(said, int | float) else _text(said)
    if value.get("jsonrpc") != "2.0":
        return Request(token, error=Invalid('jsonrpc is not "2.0".', pointer="/jsonrpc", remedy=_SHAPE))
    method, params = value.get("method"), value.get("params", {})
    if not isinstance(method, str):
        return Request(token, error=Invalid("The method is not a string.", pointer="/method", remedy=_SHAPE))
    if isinstance(params, list):
        error = Unprocessable(
            "Params are taken by name, not by position.",
            code="params_by_position",
            pointer="",
            remedy="Send params as an object; rpc.discover and docs/reference name the fields.",
        )
        return Request(token if known else None, method, error=error)
    if not isinstance(params, dict):
        wrong = Invalid("Params are not an object.", pointer="/params", remedy="Send an object, or leave params out.")
        return Request(token, error=wrong)
    return Request(token if known else None, method, params)


def _text(said: Any) -> bytes:
    return NULL if said is None else orjson.dumps(said)


_SHAPE = 'Send {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {}}.'
