"""Tasks as resources: what one is, what came out of it, what happened to it, and which were submitted last."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from core.kernel.errors import NotFound
from core.services.dispatch import Principal
from core.task.state import FINAL
from entrypoints.calls import Calls
from entrypoints.mcp.frames import INVALID_PARAMS, Fault
from entrypoints.mcp.size import fitted

PAGE = 50
RECENT_MAX = 1000
CONTENT_MAX_BYTES = 1024 * 1024
JSON = "application/json"

_URI = re.compile(r"hivebus://task/([A-Za-z0-9._-]{1,64})(?:/(result|timeline))?").fullmatch
_CURSOR = re.compile(r"([0-9]{1,18})\.([0-9]{1,4})").fullmatch

TEMPLATES = [
    {
        "uriTemplate": f"hivebus://task/{{task_id}}{path}",
        "name": name,
        "description": description,
        "mimeType": JSON,
    }
    for path, name, description in (
        ("", "task", "A task with its parameters, result, attempts and history."),
        ("/result", "task result", "What came out of a task: status, outcome, exit code and result."),
        ("/timeline", "task timeline", "What happened to a task, oldest first: position, time, type and actor."),
    )
]


class NoResource(Exception):
    """Nothing answers to this URI; the versions have different codes for it."""


class Resources:
    """What resources/list and resources/read answer."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def page(self, params: Mapping[str, Any], principal: Principal) -> dict[str, Any]:
        """A page of the tasks submitted last, newest first, and the cursor of the next one.

        All pages of a walk show the same position, so that tasks submitted meanwhile neither repeat nor hide any.
        """
        at, offset = _place(params.get("cursor"))
        asked = {"limit": PAGE, "offset": offset} | ({} if at is None else {"at": at})
        answer = await self._calls.call("task.list", asked, principal, transport="mcp")
        page: dict[str, Any] = {"resources": [_entry(task) for task in answer["tasks"]]}
        if answer["pagination"]["has_more"] and offset + PAGE < RECENT_MAX:
            page["nextCursor"] = f"{answer['position'] if at is None else at}.{offset + PAGE}"
        return page

    async def read(self, params: Mapping[str, Any], principal: Principal) -> dict[str, Any]:
        """The content of a resource, at most 1 MiB. Raises NoResource, HivebusError or Fault."""
        uri = params.get("uri")
        if not isinstance(uri, str):
            raise Fault(INVALID_PARAMS, "resources/read needs uri, a text.")
        match = _URI(uri)
        if match is None:
            raise NoResource
        try:
            task = await self._calls.call("task.show", {"task_id": match[1]}, principal, transport="mcp")
        except NotFound:
            raise NoResource from None
        content = _CONTENTS[match[2] or ""](task)
        _, encoded = fitted(content, CONTENT_MAX_BYTES, "GET /api/tasks/{task_id} has the whole.")
        return {"contents": [{"uri": uri, "mimeType": JSON, "text": encoded.decode()}]}


def task_uri(task_id: str) -> str:
    """Where a task is read."""
    return f"hivebus://task/{task_id}"


def _place(cursor: Any) -> tuple[int | None, int]:
    """The position and the offset that a cursor holds."""
    if cursor is None:
        return None, 0
    match = _CURSOR(cursor) if isinstance(cursor, str) else None
    if match is None or int(match[2]) >= RECENT_MAX:
        raise Fault(INVALID_PARAMS, "This cursor is none of those that resources/list gave.")
    return int(match[1]), int(match[2])


def _entry(task: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "uri": task_uri(task["id"]),
        "name": f"{task['name'] or task['type']} {task['id']}",
        "description": f"{task['type']}, {task['status']}, submitted {task['created_at']}",
        "mimeType": JSON,
    }


def _result(task: Mapping[str, Any]) -> dict[str, Any]:
    fields = ("status", "outcome", "exit_code", "error", "result", "completed_at", "position")
    content = {"task_id": task["id"]} | {name: task[name] for name in fields}
    if task["result"] is None:
        why = "the task ended without one" if task["status"] in FINAL else "the task has not ended"
        content["unknown"] = {"result": why}
    return content


def _timeline(task: Mapping[str, Any]) -> dict[str, Any]:
    return {"task_id": task["id"], "events": task["history"], "position": task["position"]}


_CONTENTS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "": dict,
    "result": _result,
    "timeline": _timeline,
}
