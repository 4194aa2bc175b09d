"""Tasks as resources: what one is, what came out of it, what happened to it, and which were submitted last.

Beside them the blobs that a result names, where a program wrote more than a result holds.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any

from core.blobs import StreamingBlobs
from core.kernel.errors import NotFound, TooLarge
from core.services.dispatch import Principal
from core.task.state import FINAL
from entrypoints.calls import Calls
from entrypoints.mcp.frames import INVALID_PARAMS, Fault
from entrypoints.mcp.size import fitted

PAGE = 50
RECENT_MAX = 1000
CONTENT_MAX_BYTES = 1024 * 1024
JSON = "application/json"

_TASK = re.compile(r"hivebus://task/([A-Za-z0-9._-]{1,64})(?:/(result|timeline))?").fullmatch
_BLOB = re.compile(r"hivebus://blob/([0-9a-f]{64})").fullmatch
_CURSOR = re.compile(r"([0-9]{1,18})\.([0-9]{1,4})").fullmatch

TEMPLATES: list[dict[str, str]] = [
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
TEMPLATES.append(
    {
        "uriTemplate": "hivebus://blob/{sha256}",
        "name": "blob",
        "description": "A value of at most 1 MiB that stands elsewhere, such as the whole output (`stdout_blob`).",
    }
)


class NoResource(Exception):
    """Nothing answers to this URI; the versions have different codes for it."""


class Resources:
    """What resources/list and resources/read answer."""

    def __init__(self, calls: Calls, blobs: StreamingBlobs) -> None:
        self._calls = calls
        self._blobs = blobs

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
        if task := _TASK(uri):
            content = {"mimeType": JSON, "text": await self._task(task[1], task[2] or "", principal)}
        elif blob := _BLOB(uri):
            content = _as_content(await self._blob(blob[1]))
        else:
            raise NoResource
        return {"contents": [{"uri": uri} | content]}

    async def _task(self, task_id: str, part: str, principal: Principal) -> str:
        try:
            task = await self._calls.call("task.show", {"task_id": task_id}, principal, transport="mcp")
        except NotFound:
            raise NoResource from None
        _, encoded = fitted(_PARTS[part](task), CONTENT_MAX_BYTES, "GET /api/tasks/{task_id} has the whole.")
        return encoded.decode()

    async def _blob(self, sha256: str) -> bytes:
        size = await self._blobs.size(sha256)
        if size is not None and size > CONTENT_MAX_BYTES:
            raise TooLarge(
                f"This blob has {size} bytes; a resource holds {CONTENT_MAX_BYTES}.",
                remedy=f"Read it with GET /api/blobs/{sha256} of the REST API.",
            )
        data = await self._blobs.get(sha256)
        if data is None:
            raise NoResource
        return data


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


def _as_content(data: bytes) -> dict[str, str]:
    """Bytes as a resource holds them: as text where they are UTF-8, else in Base64."""
    try:
        return {"mimeType": "text/plain", "text": data.decode()}
    except UnicodeDecodeError:
        return {"mimeType": "application/octet-stream", "blob": base64.b64encode(data).decode()}


def _result(task: Mapping[str, Any]) -> dict[str, Any]:
    fields = ("status", "outcome", "exit_code", "error", "result", "completed_at", "position")
    content = {"task_id": task["id"]} | {name: task[name] for name in fields}
    if task["result"] is None:
        why = "the task ended without one" if task["status"] in FINAL else "the task has not ended"
        content["unknown"] = {"result": why}
    return content


def _timeline(task: Mapping[str, Any]) -> dict[str, Any]:
    return {"task_id": task["id"], "events": task["history"], "position": task["position"]}


_PARTS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "": dict,
    "result": _result,
    "timeline": _timeline,
}
