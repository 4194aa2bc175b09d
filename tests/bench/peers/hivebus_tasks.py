"""Ours: no-ops by POST in batches, single ones by NATS; a task has ended when the views say so."""

from __future__ import annotations

import asyncio
import json
import os
import time
from datetime import datetime
from typing import Any

import nats

from tests.accept.program import Client as Http

BATCH = 500
# Commits at the log's end, among which an end of a task is.
NEWEST = 100


def _task(function: str, **arguments: int) -> dict[str, Any]:
    parameters = {"function": function, "arguments": arguments}
    return {"type": function, "executor": "python", "parameters": parameters}


class Hivebus:
    poll_s = 0.02

    async def open(self) -> None:
        own = os.environ
        self._http = Http(own["PEER_URL"], own["PEER_KEY"])
        login = {"user": own["NATS_USER"], "password": own["NATS_PASSWORD"]}
        self._nats = await nats.connect(own["NATS_URL"], inbox_prefix=own["NATS_INBOX_PREFIX"].encode(), **login)

    async def flood(self, count: int) -> None:
        for start in range(0, count, BATCH):
            items = [_task("noop")] * min(BATCH, count - start)
            answer = await asyncio.to_thread(self._http.request, "POST", "/api/tasks", items)
            if answer.status != 202 or answer.json["refused"]:
                raise RuntimeError(f"refused: {answer.status} {answer.raw[:300]!r}")

    async def stamp(self, port: int, sent_ns: int) -> None:
        await self._submit(_task("bench_stamp", port=port, sent_ns=sent_ns))

    async def hold(self, port: int) -> None:
        await self._submit(_task("bench_hold", port=port))

    async def ended(self) -> int:
        found = await asyncio.to_thread(self._http.get, "/api/tasks?status=completed&limit=1")
        return int(found["pagination"]["total"])

    async def lag_ms(self) -> float:
        """Now, less the time of the newest end on the log: the views' lag, and at most one poll."""
        now = time.time()
        position = (await asyncio.to_thread(self._http.get, "/api/tasks?limit=1"))["position"]
        path = f"/api/events?after={max(0, position - NEWEST)}&limit={NEWEST}"
        answer = await asyncio.to_thread(self._http.request, "GET", path)
        ends = [event["time"] for event in answer.lines if event["type"] == "hivebus.task.completed"]
        return (now - datetime.fromisoformat(max(ends)).timestamp()) * 1000

    async def _submit(self, task: dict[str, Any]) -> None:
        answer = json.loads((await self._nats.request("hive.cmd.task.submit", json.dumps(task).encode(), 10)).data)
        if not answer["accepted"]:
            raise RuntimeError(f"refused: {answer}")


CLIENT = Hivebus
