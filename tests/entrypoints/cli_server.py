"""A small real HTTP server that speaks the shapes of the REST API, for the tests of the command line.

What becomes of a task is told by its type: `good` completes, `bad` fails, `stuck` is unassignable, `slow` runs until
the test ends it, anything that begins with `no` is refused.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TIME = "2026-01-31T12:00:00.000Z"
LATER = "2026-01-31T12:00:01.500Z"
Reply = tuple[int, dict[str, str], bytes]


class Seen:
    """A request as it arrived."""

    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        parts = urlsplit(target)
        self.method, self.path, self.headers, self.body = method, parts.path, headers, body
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}


class Hive:
    """The state behind the server. `script` holds replies that are given first, in order."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.tasks: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.by_key: dict[tuple[str, int], str] = {}
        self.seen: list[Seen] = []
        self.script: deque[Callable[[Seen], Reply | None]] = deque()
        self.status = "healthy"
        self.busy_after = 10**9

    # --- what happens ---

    def happen(self, task_id: str, word: str, data: dict[str, Any] | None = None) -> None:
        with self.changed:
            position = len(self.events) + 1
            self.events.append(
                {
                    "specversion": "1.0",
                    "id": f"{position}/0",
                    "source": "/hivebus",
                    "type": f"hivebus.{word}",
                    "subject": f"task/{task_id}",
                    "time": TIME,
                    "sequence": str(position),
                    "correlationid": self.tasks[task_id]["correlation_id"],
                    "causationid": "c",
                    "actor": "key:test",
                    "data": data or {},
                }
            )
            self.tasks[task_id]["history"].append({"position": position, "time": TIME, "type": word, "actor": "a"})
            self.changed.notify_all()

    def submit(self, spec: dict[str, Any], correlation_id: str, key: tuple[str, int]) -> dict[str, Any]:
        if str(spec.get("type", "no")).startswith("no"):
            return {"error": problem(422, "invalid_field", "This task is refused.", "Send another.")}
        if key not in self.by_key:
            if len(self.tasks) >= self.busy_after:
                return {"error": problem(429, "too_many", "The queue is full.", "Come back.") | {"retry_after_s": 0.1}}
            self.by_key[key] = self._create(spec, correlation_id)
        task = self.tasks[self.by_key[key]]
        return {"task_id": task["id"], "position": task["history"][0]["position"], "status": "queued"}

    def _create(self, spec: dict[str, Any], correlation_id: str) -> str:
        task_id = f"task-{len(self.tasks):04d}"
        kind = spec["type"]
        self.tasks[task_id] = {
            "id": task_id,
            "agent_id": None,
            "type": kind,
            "status": "queued",
            "executor": spec.get("executor"),
            "name": spec.get("name"),
            "error": None,
            "exit_code": None,
            "unassignable": "no agent has capability gpu" if kind == "stuck" else None,
            "correlation_id": correlation_id,
            "created_at": TIME,
            "started_at": None,
            "completed_at": None,
            "parameters": spec.get("parameters", {}),
            "result": None,
            "history": [],
        }
        self.happen(task_id, "task.submitted")
        if kind != "stuck":
            self.happen(task_id, "task.assigned")
            self.tasks[task_id] |= {"status": "running", "agent_id": "agent-1", "started_at": TIME}
        if kind in ("good", "bad"):
            self.end(task_id, kind == "good")
        return task_id

    def end(self, task_id: str, good: bool) -> None:
        task = self.tasks[task_id]
        result = {"exit_code": 0 if good else 3, "stdout": "first line\nsecond line\n"}
        task |= {"status": "completed" if good else "failed", "completed_at": LATER, "result": result}
        task |= {"exit_code": result["exit_code"], "error": None if good else "it exited with code 3."}
        self.happen(task_id, "task.completed" if good else "task.failed", {"result": result} if good else {})

    # --- what is asked ---

    def answer(self, seen: Seen) -> Reply:
        with self.changed:
            self.seen.append(seen)
            self.changed.notify_all()
        if self.script and (reply := self.script.popleft()(seen)) is not None:
            return reply
        if seen.path == "/api/status":
            return as_json(200, {"status": self.status, "version": "1", "metrics": {"cpu_usage": None}, "services": {}})
        if seen.headers.get("authorization") != "Bearer hive_test_secret":
            return as_json(401, problem(401, "unauthenticated", "This call needs the key.", "Send it."))
        match seen.method, seen.path.removeprefix("/api/").split("/"):
            case "POST", ["tasks"]:
                return self._post(seen)
            case "GET", ["tasks"]:
                return self._list(seen)
            case "GET", ["tasks", task_id] if task_id in self.tasks:
                return as_json(200, self.tasks[task_id])
            case "DELETE", ["tasks", task_id] if task_id in self.tasks:
                return as_json(202, {"message": "cancelled", "reason": seen.query.get("reason"), "task_id": task_id})
            case "GET", ["events"]:
                return self._events(seen)
            case "GET", ["agents"]:
                row = {"id": "agent-1", "name": "a\x1b[31mb", "type": "shell", "status": "idle", "capabilities": ["x"]}
                return as_json(200, {"agents": [row], "position": 7})
            case "POST", ["agents"]:
                return as_json(202, {"agent_id": "agent-2", "position": 9, **json.loads(seen.body)})
            case "GET", ["queue"]:
                unknown = {"oldest_age_s": "nothing is queued"}
                return as_json(200, {"depth": 0, "oldest_age_s": None, "unknown": unknown, "position": 7})
        return as_json(404, problem(404, "unknown_path", f"There is nothing at {seen.path}.", "Look elsewhere."))

    def _post(self, seen: Seen) -> Reply:
        key, correlation_id = seen.headers["idempotency-key"], seen.headers["x-correlation-id"]
        if seen.headers["content-type"] == "application/json":
            answer = self.submit(json.loads(seen.body), correlation_id, (key, 0))
            if "error" in answer:
                return as_json(answer["error"]["status"], answer["error"])
            return as_json(202, answer | {"correlation_id": correlation_id, "created_at": TIME})
        lines = seen.body.splitlines()
        items = [
            {"index": index, **self.submit(json.loads(line), correlation_id, (key, index))}
            for index, line in enumerate(lines)
        ]
        refused = sum("error" in item for item in items)
        return as_json(202, {"items": items, "accepted": len(items) - refused, "refused": refused, "position": 1})

    def _list(self, seen: Seen) -> Reply:
        limit, offset = int(seen.query.get("limit", 50)), int(seen.query.get("offset", 0))
        filters = {name: seen.query[name] for name in ("status", "correlation_id", "type") if name in seen.query}
        found = [
            task for task in reversed(self.tasks.values()) if all(task[name] == word for name, word in filters.items())
        ]
        page = found[offset : offset + limit]
        more = offset + len(page) < len(found)
        pagination = {"total": len(found), "limit": limit, "offset": offset, "has_more": more}
        return as_json(200, {"tasks": page, "pagination": pagination, "position": len(self.events)})

    def _events(self, seen: Seen) -> Reply:
        after, wait_s = int(seen.query["after"]), float(seen.query.get("wait", 0))

        def matching() -> list[dict[str, Any]]:
            return [event for event in self.events[after:] if _wanted(event, seen.query)]

        with self.changed:
            self.changed.wait_for(matching, wait_s)
            events, head = matching()[: int(seen.query["limit"])], len(self.events)
        following = int(events[-1]["sequence"]) if len(events) == int(seen.query["limit"]) else max(after, head)
        headers = {"Hivebus-Next": str(following), "Hivebus-Position": str(head)}
        return 200, headers, b"".join(json.dumps(event).encode() + b"\n" for event in events)


class Server:
    """The hive on a port of its own, with every connection closed at the end."""

    def __init__(self, hive: Hive, port: int = 0) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, extra, content = hive.answer(Seen(self.command, self.path, headers, body))
                if status == 0:  # a server that dies in the middle
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in {**extra, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = handle_any

            def log_message(self, *args: Any) -> None:
                """Quiet."""

        ThreadingHTTPServer.allow_reuse_address = True
        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Twice is once."""
        if not self._thread.is_alive():
            return
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def problem(status: int, code: str, detail: str, remedy: str) -> dict[str, Any]:
    return {"type": f"urn:hivebus:problem:{code}", "status": status, "code": code, "detail": detail, "remedy": remedy}


def as_json(status: int, value: Any, headers: dict[str, str] | None = None) -> Reply:
    return status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode()


def busy(seconds: str, status: int = 503) -> Callable[[Seen], Reply]:
    """A scripted reply: come back later."""
    return lambda seen: as_json(status, problem(status, "busy", "It is busy.", "Wait."), {"Retry-After": seconds})


def dies(seen: Seen) -> Reply:
    """A scripted reply: the connection ends without one."""
    return 0, {}, b""


def _wanted(event: dict[str, Any], query: dict[str, str]) -> bool:
    noun, _, aggregate_id = event["subject"].partition("/")
    return (
        query.get("noun") in (None, noun)
        and query.get("id") in (None, aggregate_id)
        and query.get("correlation_id") in (None, event["correlationid"])
        and query.get("type") in (None, event["type"], event["type"].removeprefix("hivebus."))
    )
