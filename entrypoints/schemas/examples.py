"""One example a call: what is sent, and what a fresh system answers. A test fits both to the declared shapes."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

TASK = "019abf2e-0d54-7c31-8e4b-5f60718293a4"
AGENT = "019abf2d-77aa-7b10-9c3d-4e5f60718293"
TIME = "2026-01-31T12:00:00.000Z"


class Example(Struct, frozen=True):
    """Arguments and the answer to them."""

    name: str
    arguments: dict[str, Any]
    answer: dict[str, Any]


EXAMPLES: dict[str, Example] = {
    "rpc": Example(
        "Is anybody there?",
        {"jsonrpc": "2.0", "method": "ping", "id": 1},
        {"jsonrpc": "2.0", "id": 1, "result": "pong"},
    ),
    "task.submit": Example(
        "A checksum, computed by a program",
        {
            "type": "checksum",
            "executor": "command",
            "parameters": {"argv": ["sha256sum", "README.md"]},
            "requires": ["shell"],
            "priority": "normal",
            "timeout_s": 60.0,
            "retry": {"max_attempts": 3},
        },
        {
            "task_id": TASK,
            "position": 12,
            "status": "queued",
            "created_at": TIME,
            "correlation_id": "019abf2e-0d54-7c31-8e4b-000000000000",
        },
    ),
    "task.cancel": Example(
        "A task that still waits",
        {"task_id": TASK, "reason": "not wanted any more"},
        {
            "task_id": TASK,
            "position": 13,
            "status": "cancelled",
            "time": TIME,
            "correlation_id": "019abf2e-0d54-7c31-8e4b-000000000000",
            "message": "The task is cancelled.",
            "previous_status": "queued",
        },
    ),
    "agent.spawn": Example(
        "A shell agent with two slots",
        {"type": "shell", "name": "builder", "slots": 2},
        {
            "agent_id": AGENT,
            "position": 7,
            "status": "starting",
            "created_at": TIME,
            "correlation_id": "019abf2d-77aa-7b10-9c3d-000000000000",
            "type": "shell",
            "name": "builder",
        },
    ),
    "agent.retire": Example(
        "An agent that is not needed any more",
        {"agent_id": AGENT},
        {
            "agent_id": AGENT,
            "position": 21,
            "status": "draining",
            "time": TIME,
            "correlation_id": "019abf2d-77aa-7b10-9c3d-000000000000",
            "message": "The agent retires after its last task.",
            "previous_status": "idle",
        },
    ),
    "queue.show": Example(
        "Two tasks wait",
        {},
        {
            "depth": 2,
            "by_priority": {"5": 2},
            "by_type": {"checksum": 2},
            "oldest_age_s": 1.5,
            "throughput_per_minute": 30,
            "blocked": 0,
            "scheduled": 0,
            "input_required": 0,
            "dead_lettered": 0,
            "pauses": [],
            "unknown": {},
            "position": 12,
        },
    ),
}
