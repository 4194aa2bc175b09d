"""A small real WebSocket server that speaks the shapes of /ws and misbehaves as it is told to."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve

KEY = "hive_00000000_" + "k" * 43
Answer = dict[str, Any]
Handler = Callable[[ServerConnection, dict[str, Any]], Answer | None]


def event(position: int, index: int = 0, type_: str = "task.queued") -> dict[str, Any]:
    return {"id": f"{position}/{index}", "type": f"hivebus.{type_}", "sequence": str(position), "subject": "task/t"}


def refusal(status: int, code: str, **more: Any) -> Answer:
    data = {"status": status, "code": code, "reason": f"It is {code}.", "remedy": "Wait.", "field": None} | more
    return {"error": {"code": -32000, "message": data["reason"], "data": data}}


class Peer:
    """`script` holds handlers that get the next calls of a method, in order; `commits` is the log that events come
    from, a list of events each. `hang_up_after` frames of events ends the connection, as often as it says.
    """

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.script: dict[str, deque[Handler]] = {}
        self.commits: list[list[dict[str, Any]]] = []
        self.hang_up_after: deque[int] = deque()
        self.batch = 1
        self.connections = 0
        self._server: Server | None = None
        self._changed = asyncio.Event()
        self.port = 0

    async def __aenter__(self) -> Peer:
        self._server = await serve(self._handle, "127.0.0.1", self.port, process_request=self._admit)
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def calls(self, method: str) -> list[dict[str, Any]]:
        return [request["params"] for request in self.seen if request["method"] == method]

    def next(self, method: str, *handlers: Handler) -> None:
        self.script.setdefault(method, deque()).extend(handlers)

    async def append(self, *commits: list[dict[str, Any]]) -> None:
        self.commits.extend(commits)
        self._changed.set()

    def _admit(self, connection: ServerConnection, request: Any) -> Any:
        if request.headers.get("Authorization") == f"Bearer {KEY}":
            return None
        response = connection.respond(401, "")
        response.body = json.dumps(
            {"status": 401, "code": "unauthenticated", "detail": "This key is not known here.", "remedy": "Look."}
        ).encode()
        del response.headers["Content-Length"]
        response.headers["Content-Length"] = str(len(response.body))
        return response

    async def _handle(self, connection: ServerConnection) -> None:
        self.connections += 1
        telling: list[asyncio.Task[None]] = []
        try:
            async for frame in connection:
                request = json.loads(frame)
                self.seen.append(request)
                answer = self._answer(connection, request)
                if answer is None:
                    connection.transport.abort()
                    return
                await connection.send(json.dumps({"jsonrpc": "2.0", "id": request["id"]} | answer))
                if request["method"] == "events/subscribe" and "result" in answer:
                    telling.append(asyncio.create_task(self._tell(connection, answer["result"]["position"])))
        finally:
            for task in telling:
                task.cancel()
            await asyncio.gather(*telling, return_exceptions=True)

    def _answer(self, connection: ServerConnection, request: dict[str, Any]) -> Answer | None:
        script = self.script.get(request["method"])
        if script:
            return script.popleft()(connection, request["params"])
        if request["method"] == "events/subscribe":
            after = request["params"].get("after", len(self.commits))
            return {"result": {"subscription_id": "s", "position": after}}
        return {"result": {"method": request["method"], "params": request["params"]}}

    async def _tell(self, connection: ServerConnection, after: int) -> None:
        left = self.hang_up_after.popleft() if self.hang_up_after else None
        while left != 0:
            while len(self.commits) <= after:
                self._changed.clear()
                await self._changed.wait()
            page = self.commits[after : after + self.batch]
            params = {
                "subscription_id": "s",
                "from": after,
                "to": after + len(page),
                "events": [item for commit in page for item in commit],
            }
            await connection.send(json.dumps({"jsonrpc": "2.0", "method": "events/batch", "params": params}))
            after += len(page)
            left = None if left is None else left - 1
        connection.transport.abort()


def hang_up(_connection: ServerConnection, _params: dict[str, Any]) -> None:
    """The connection breaks before the answer."""


def say(answer: Answer) -> Handler:
    return lambda _connection, _params: answer
