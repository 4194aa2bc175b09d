"""A model that follows a script: as much of the Messages API as a coding agent needs to be driven through its tools."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

Said = list[str]
Step = Callable[[Said], tuple[str, dict[str, Any]] | None]


class ScriptedModel:
    """Answers each request with the next tool to call, which `step` chooses by what the tools have said so far.

    `tools` are those that the agent offered, by name; `said` what they answered. A context manager.
    """

    def __init__(self, step: Step, prefix: str) -> None:
        self.tools: dict[str, dict[str, Any]] = {}
        self.said: Said = []
        self._step = step
        self._prefix = prefix
        model = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-type", "text/event-stream" if body.get("stream") else "application/json")
                self.end_headers()
                for line in model.answer(body):
                    self.wfile.write(line.encode())

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> ScriptedModel:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, body: dict[str, Any]) -> list[str]:
        """The lines of the answer to one request."""
        block = self._next(body)
        done = {"stop_reason": "tool_use" if block["type"] == "tool_use" else "end_turn", "stop_sequence": None}
        usage = {"input_tokens": 1, "output_tokens": 1}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": body.get("model"), "usage": usage}
        if not body.get("stream"):
            return [json.dumps(message | done | {"content": [block], "input_tokens": 1})]
        if block["type"] == "text":
            empty, delta = block | {"text": ""}, {"type": "text_delta", "text": block["text"]}
        else:
            empty = block | {"input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        events: list[tuple[str, dict[str, Any]]] = [
            ("message_start", {"message": message | {"content": [], "stop_reason": None, "stop_sequence": None}}),
            ("content_block_start", {"index": 0, "content_block": empty}),
            ("content_block_delta", {"index": 0, "delta": delta}),
            ("content_block_stop", {"index": 0}),
            ("message_delta", {"delta": done, "usage": {"output_tokens": 1}}),
            ("message_stop", {}),
        ]
        return [f"event: {name}\ndata: {json.dumps({'type': name} | data)}\n\n" for name, data in events]

    def _next(self, body: dict[str, Any]) -> dict[str, Any]:
        offered = {tool["name"]: tool for tool in body.get("tools", []) if tool["name"].startswith(self._prefix)}
        if not offered:  # a request of the agent for itself, such as a title
            return {"type": "text", "text": "fine"}
        self.tools = offered
        blocks = [block for message in body["messages"] for block in message["content"] if isinstance(block, dict)]
        self.said = [_text(block["content"]) for block in blocks if block["type"] == "tool_result"]
        step = self._step(self.said)
        if step is None:
            return {"type": "text", "text": "done"}
        name, arguments = step
        return {"type": "tool_use", "id": f"use_{len(self.said)}", "name": self._prefix + name, "input": arguments}


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)
