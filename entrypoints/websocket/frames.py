"""Frames of RFC 6455 as a server sends them: whole, unmasked, made once for however many they go to."""

from __future__ import annotations

import msgspec
import orjson

from core.services.groups import Batch

TEXT = 0x81
PING = b"\x89\x00"
REASON_BYTES_MAX = 123


def text_frame(payload: bytes) -> bytes:
    """A text message in one frame (RFC 6455, 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((TEXT, size)) + payload
    if size < 1 << 16:
        return bytes((TEXT, 126)) + size.to_bytes(2, "big") + payload
    return bytes((TEXT, 127)) + size.to_bytes(8, "big") + payload


def notification_frame(method: str, params: object) -> bytes:
    """A JSON-RPC notification as a frame."""
    return text_frame(msgspec.json.encode({"jsonrpc": "2.0", "method": method, "params": params}))


def batch_frame(batch: Batch) -> bytes:
    """`events/batch`; the events stand in it as they were encoded for everybody."""
    head = (
        f'{{"jsonrpc":"2.0","method":"events/batch","params":{{"subscription_id":"{batch.subscription_id}",'
        f'"from":{batch.after},"to":{batch.to},"events":['
    )
    return text_frame(b"".join((head.encode(), b",".join([event.text for event in batch.events]), b"]}}")))


def resume_reason(positions: dict[str, int]) -> str:
    """Where each subscription can be resumed, as the reason of a close frame; empty of them where they do not fit."""
    reason = orjson.dumps({"resume": positions})
    return reason.decode() if len(reason) <= REASON_BYTES_MAX else '{"resume":{}}'
