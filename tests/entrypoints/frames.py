"""Frames of JSON-RPC that nobody would send, and some that somebody would: drawn from a seed."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

FRAME_BYTES_MAX = 1024 * 1024

# They read, or are refused, or are the same task again: what the program holds stays as it is.
VALID: list[dict[str, Any]] = [
    {"method": "ping"},
    {"method": "ping", "params": {}},
    {"method": "initialize", "params": {"protocolVersion": {"major": 1, "minor": 0, "patch": 0}}},
    {"method": "system.status", "params": {}},
    {"method": "system.info", "params": {}},
    {"method": "agents/list", "params": {"filter": {"status": "idle", "type": "shell"}}},
    {"method": "agent/execute", "params": {"agent_id": "nobody", "command": "greet", "parameters": {"argv": ["true"]}}},
    {"method": "agent.list", "params": {"limit": 5}},
    {"method": "agent.retire", "params": {"agent_id": "nobody", "reason": "none"}},
    {"method": "task.list", "params": {"limit": 5, "status": "queued", "min_position": 1}},
    {"method": "task.show", "params": {"task_id": "01a205a6-2474-8412-982d-56cf666f295c", "at": 3}},
    {"method": "task.cancel", "params": {"task_id": "nobody", "reason": "x"}},
    {"method": "queue.show", "params": {"at": 1}},
    {"method": "event.list", "params": {"after": 0, "limit": 3, "wait": 0, "type": "task.submitted"}},
    {
        "method": "task.submit",
        "params": {
            "type": "greet",
            "executor": "command",
            "parameters": {"argv": ["true"], "env": {"A": "b"}},
            "requires": ["nobody"],
            "retry": {"max_attempts": 2},
            "labels": {"a": "b"},
            "idempotency_key": "always the same",
        },
    },
]

NAMES = ["jsonrpc", "method", "params", "id", "result", "error", "a", "", "limit", "task_id", "wait", "at", "\x00"]
WORDS = [
    "2.0",
    "1.0",
    "ping",
    "rpc.discover",
    "__class__",
    "é\U0001f41d",
    "\x00\x1f\x7f",
    "null",
    "' OR 1=1 --",
    "../..",
]
TOKENS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'"',
    b"null",
    b"true",
    b"NaN",
    b"-",
    b"1e999",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
]


def frames(seed: int, count: int) -> list[bytes]:
    """So many frames, the same ones for the same seed."""
    random = Random(seed)
    return [frame(random) for _ in range(count)]


def frame(random: Random) -> bytes:
    """One frame of any kind."""
    return random.choices(_KINDS, _WEIGHTS)[0](random)


def _valid(random: Random) -> bytes:
    said = {"jsonrpc": "2.0"} | random.choice(VALID)
    if random.random() < 0.9:
        said["id"] = random.choice([1, "a", None, 1.5, 2**70, -1])
    return json.dumps(said).encode()


def _mutated(random: Random) -> bytes:
    """A valid one with bytes changed, taken out, repeated, put in or cut off."""
    text = bytearray(_valid(random))
    for _ in range(random.randint(1, 6)):
        place, length = random.randrange(len(text) + 1), random.randint(1, 8)
        match random.randrange(5):
            case 0:
                text[place : place + 1] = bytes([random.randrange(256)])
            case 1:
                del text[place : place + length]
            case 2:
                text[place:place] = text[place : place + length]
            case 3:
                text[place:place] = random.choice(TOKENS)
            case _:
                del text[max(place, 1) :]
    return bytes(text)


def _noise(random: Random) -> bytes:
    return random.randbytes(random.choice([0, 1, 10, 1000, 20_000]))


def _value(random: Random, depth: int = 0) -> Any:
    """Any JSON value, not deep."""
    kind = random.randrange(9 if depth < 4 else 7)
    if kind == 7:
        return [_value(random, depth + 1) for _ in range(random.randrange(4))]
    if kind == 8:
        return {random.choice(NAMES): _value(random, depth + 1) for _ in range(random.randrange(4))}
    number = random.choice([0, -1, 50, 2**31, 2**63, -(2**64), 10**40, 1.5, -0.0, 1e308])
    return [None, True, False, number, random.choice(WORDS), "x" * random.randrange(300), ""][kind]


def _any_value(random: Random) -> bytes:
    return json.dumps(_value(random)).encode()


def _wrong_types(random: Random) -> bytes:
    """A valid one with members and params of any type."""
    said: dict[str, Any] = {"jsonrpc": "2.0", "id": 1} | random.choice(VALID)
    if random.random() < 0.4:
        said[random.choice(["jsonrpc", "method", "params", "id"])] = _value(random)
    params = said.get("params")
    if isinstance(params, dict):
        said["params"] = {name: _value(random) if random.random() < 0.4 else value for name, value in params.items()}
        said["params"].pop("wait", None)  # nothing is wrong with a call that waits as it was told to
    return json.dumps(said).encode()


def _deep(random: Random) -> bytes:
    depth = random.choice([10, 33, 100, 500, 900, 1000, 5000, 100_000])
    opening, closing = random.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
    inner = opening * depth + b"1" + (closing * depth if random.random() < 0.7 else b"")
    shape = random.choice(
        [
            b"%s",
            b"[%s]",
            b'{"jsonrpc":"2.0","id":%s,"method":"ping"}',
            b'{"jsonrpc":"2.0","id":1,"method":"ping","params":%s}',
            b'{"jsonrpc":"2.0","id":1,"method":"agents/list","params":{"filter":%s}}',
            b'{"jsonrpc":"2.0","id":1,"method":"task.submit","params":{"type":"x","executor":"command","parameters":%s}}',
        ]
    )
    return shape % inner


def _huge_number(random: Random) -> bytes:
    digits = b"9" * random.choice([20, 309, 400, 4299, 4301, 100_000])
    number = random.choice([digits, b"-" + digits, b"0." + digits, digits + b".5", b"1e" + digits, b"1e-" + digits])
    shape = random.choice(
        [
            b"%s",
            b'{"jsonrpc":"2.0","id":%s,"method":"ping"}',
            b'{"jsonrpc":"2.0","id":1,"method":"task.list","params":{"limit":%s}}',
            b'{"jsonrpc":"2.0","id":1,"method":"queue.show","params":{"at":%s}}',
            b'{"jsonrpc":"2.0","id":1,"method":"event.list","params":{"after":%s,"limit":1}}',
        ]
    )
    return shape % number


def _large(random: Random) -> bytes:
    """Around the bound, filled with blanks, with text or with many small values."""
    size = random.choice([FRAME_BYTES_MAX - 1, FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1, 300_000])
    match random.randrange(4):
        case 0:
            return _valid(random).ljust(size)
        case 1:
            head, tail = b'{"jsonrpc":"2.0","method":"ping","id":"', b'"}'
            return head + b"x" * (size - len(head) - len(tail)) + tail
        case 2:
            return b"[" + b",".join([b"1"] * (size // 2 - 1)) + b"]"
        case _:
            head, tail = b'{"jsonrpc":"2.0","id":1,"method":"task.show","params":{"task_id":"', b'"}}'
            return head + b"y" * (size - len(head) - len(tail)) + tail


def _batch(random: Random) -> bytes:
    items = [random.choice((_valid, _valid, _wrong_types, _any_value))(random) for _ in range(random.choice(_LENGTHS))]
    if items and random.random() < 0.1:
        items.append(_mutated(random))
    return b"[" + b",".join(items) + b"]"


_LENGTHS = [0, 1, 2, 3, 5, 8, 49, 50, 51, 200]
_KINDS: list[Callable[[Random], bytes]] = [
    _valid,
    _mutated,
    _noise,
    _any_value,
    _wrong_types,
    _deep,
    _huge_number,
    _large,
    _batch,
]
_WEIGHTS = [15, 30, 8, 8, 20, 6, 6, 1, 6]
