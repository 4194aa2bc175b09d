"""Answers that fit: a model reads only so much, and a client drops what is longer."""

from __future__ import annotations

from typing import Any

import msgspec

# Texts of so many characters and lists of so many items, tried in this order.
STEPS = ((4000, 200), (1000, 50), (200, 20), (100, 5))


def fitted(answer: dict[str, Any], bytes_max: int, elsewhere: str) -> tuple[dict[str, Any], bytes]:
    """An answer and its JSON of at most `bytes_max`; one that is longer gets shorter texts and lists, and says so.

    `elsewhere` is the sentence that says where the whole is. `bytes_max` is at least 1024.
    """
    encoded = msgspec.json.encode(answer)
    if len(encoded) <= bytes_max:
        return answer, encoded
    said = {
        "bytes": len(encoded),
        "bytes_max": bytes_max,
        "hint": f"Long texts, lists and objects are cut. {elsewhere}",
    }
    for text_max, items_max in STEPS:
        shorter = {name: _shortened(value, text_max, items_max) for name, value in answer.items()} | {"cut": said}
        encoded = msgspec.json.encode(shorter)
        if len(encoded) <= bytes_max:
            return shorter, encoded
    said["hint"] = f"Nothing of it fits here. {elsewhere}"
    return {"cut": said}, msgspec.json.encode({"cut": said})


def _shortened(value: Any, text_max: int, items_max: int) -> Any:
    if isinstance(value, str) and len(value) > text_max:
        half = text_max // 2
        return f"{value[:half]} [... {len(value) - 2 * half} characters left out ...] {value[-half:]}"
    if isinstance(value, list):
        return [_shortened(item, text_max, items_max) for item in value[:items_max]]
    if isinstance(value, dict):
        few = list(value.items())[:items_max]
        return {name: _shortened(item, text_max, items_max) for name, item in few}
    return value
