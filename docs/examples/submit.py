"""Submits one program as a task and waits for its end, with nothing but Python's standard library.

    eval "$(hivebus env)"
    python docs/examples/submit.py echo hello

Shows what a client needs: the address and the key from the environment, one Idempotency-Key for all tries of a submit,
a pause when the server asks for one or is being restarted, and the events instead of asking again and again.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid
from typing import Any

URL = os.environ.get("HIVEBUS_URL", "http://127.0.0.1:3001")
KEY = os.environ.get("HIVEBUS_KEY", "")
LATER = (429, 503, 504)
ENDS = ("task.completed", "task.failed", "task.cancelled")
PATIENCE_S = 60.0


def call(method: str, path: str, body: Any = None, **headers: str) -> tuple[bytes, dict[str, str]]:
    """One call, sent again while the server is busy or away. Raises HTTPError for an answer that is final."""
    data = None if body is None else json.dumps(body).encode()
    headers |= {"Authorization": f"Bearer {KEY}"}
    if data is not None:
        headers["Content-Type"] = "application/json"
    deadline = time.monotonic() + PATIENCE_S
    while True:
        request = urllib.request.Request(URL + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=40) as answer:
                return answer.read(), {name.lower(): value for name, value in answer.headers.items()}
        except urllib.error.HTTPError as error:
            if error.code not in LATER or time.monotonic() > deadline:
                raise
            pause_s = float(error.headers.get("Retry-After") or 1)
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline:
                raise
            pause_s = 1.0
        time.sleep(pause_s)


def submit(argv: list[str]) -> dict[str, Any]:
    """The server's answer. The key is made once: however often this is sent, there is one task."""
    task = {"type": "example", "executor": "command", "parameters": {"argv": argv}}
    answer, _ = call("POST", "/api/tasks", task, **{"Idempotency-Key": str(uuid.uuid4())})
    return dict(json.loads(answer))


def ended(task_id: str, after: int) -> int:
    """The position at which the task ended; each call waits on the server for the next event."""
    while True:
        lines, headers = call("GET", f"/api/events?noun=task&id={task_id}&after={after}&wait=20")
        for line in lines.splitlines():
            event = json.loads(line)
            if event["type"].removeprefix("hivebus.") in ENDS:
                return int(event["sequence"])
        after = int(headers["hivebus-next"])


def main() -> int:
    """0 when the task completed, 1 when it ended otherwise, 2 when it was not taken."""
    try:
        accepted = submit(sys.argv[1:] or ["echo", "hello"])
    except urllib.error.HTTPError as error:
        problem = json.loads(error.read())
        print(f"{problem['code']}: {problem['detail']} {problem['remedy']}", file=sys.stderr)
        return 2
    position = ended(accepted["task_id"], accepted["position"])
    # min_position: this answer is not older than the end that was just seen.
    body, _ = call("GET", f"/api/tasks/{accepted['task_id']}?min_position={position}")
    task = json.loads(body)
    print(json.dumps({name: task[name] for name in ("id", "status", "exit_code", "error")}))
    sys.stdout.write((task["result"] or {}).get("stdout") or "")
    return 0 if task["status"] == "completed" else 1


if __name__ == "__main__":
    sys.exit(main())
