"""The methods of the protocol, each in the eras that know it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from core.blobs import StreamingBlobs
from core.kernel.errors import HivebusError, internal
from core.services.dispatch import Principal
from entrypoints.calls import Calls
from entrypoints.mcp.frames import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    RESOURCE_NOT_FOUND,
    Fault,
    Frame,
)
from entrypoints.mcp.resources import TEMPLATES, NoResource, Resources
from entrypoints.mcp.tools import Tools
from entrypoints.mcp.versions import META_SERVER, MODERN, SUPPORTED, negotiated

logger = logging.getLogger("hivebus.mcp")

# Tools and templates change with the program only; what tasks are doing changes all the time.
FIXED_TTL_MS = 300_000
INSTRUCTIONS = """\
Hivebus runs tasks on a fleet of agents and keeps every step as an event.
task_submit answers at once with the task_id; the work runs afterwards, for example \
{"type": "hello", "executor": "command", "parameters": {"argv": ["echo", "hello"]}}.
To wait for its end, call event_list with id = the task_id, after = the position of the answer and wait = 25 \
(seconds); it answers when something happened to the task. Go on after `next` until task_show says completed, failed, \
cancelled or expired.
The resources hivebus://task/{task_id}/result and hivebus://task/{task_id}/timeline hold what came out, and how.
An error names its code, what happened and what to do about it."""

Params = Mapping[str, Any]
Method = Callable[[Params, Principal], Awaitable[dict[str, Any]]]


class Mcp:
    """Answers requests, whoever carried them here. It keeps nothing between them."""

    def __init__(self, calls: Calls, blobs: StreamingBlobs, version: str) -> None:
        self._tools = Tools(calls)
        self._resources = Resources(calls, blobs)
        self._server = {"name": "hivebus", "title": "Hivebus", "version": version}
        self._about = {"capabilities": {"tools": {}, "resources": {}}, "instructions": INSTRUCTIONS}
        both: dict[str, Method] = {
            "tools/list": self._list_tools,
            "tools/call": self._tools.call,
            "resources/list": self._resources.page,
            "resources/templates/list": self._list_templates,
            "resources/read": self._resources.read,
        }
        self._legacy = both | {"initialize": self._initialize, "ping": self._ping}
        self._modern = both | {"server/discover": self._discover}

    async def answer(self, frame: Frame, version: str, principal: Principal) -> dict[str, Any]:
        """The result of a request in a version. Raises Fault."""
        modern = version in MODERN
        method = (self._modern if modern else self._legacy).get(frame.method)
        if method is None:
            raise Fault(METHOD_NOT_FOUND, f"There is no method {frame.method[:100]!r} in {version}.")
        try:
            result = await method(frame.params, principal)
        except NoResource:
            code = INVALID_PARAMS if modern else RESOURCE_NOT_FOUND
            raise Fault(code, "There is no such resource.", {"uri": frame.params["uri"][:1000]}) from None
        except HivebusError as error:
            raise Fault(INTERNAL_ERROR, error.sentence, error.as_problem()) from error
        except Fault:
            raise
        except Exception:
            logger.exception("%s failed.", frame.method)
            raise Fault(INTERNAL_ERROR, internal().sentence, internal().as_problem()) from None
        return self._complete(frame.method, result) if modern else result

    def _complete(self, method: str, result: dict[str, Any]) -> dict[str, Any]:
        """A result as 2026-07-28 wants it: of a type, with its server, and for how long it holds."""
        complete = {"resultType": "complete", "_meta": {META_SERVER: self._server}} | result
        if method != "tools/call":
            fixed = method in ("server/discover", "tools/list", "resources/templates/list")
            complete |= {"ttlMs": FIXED_TTL_MS if fixed else 0, "cacheScope": "private"}
        return complete

    async def _initialize(self, params: Params, _: Principal) -> dict[str, Any]:
        return {"protocolVersion": negotiated(params), "serverInfo": self._server} | self._about

    async def _discover(self, _params: Params, _: Principal) -> dict[str, Any]:
        return {"supportedVersions": list(SUPPORTED)} | self._about

    async def _ping(self, _params: Params, _: Principal) -> dict[str, Any]:
        return {}

    async def _list_tools(self, params: Params, _: Principal) -> dict[str, Any]:
        _one_page(params)
        return {"tools": self._tools.definitions}

    async def _list_templates(self, params: Params, _: Principal) -> dict[str, Any]:
        _one_page(params)
        return {"resourceTemplates": TEMPLATES}


def _one_page(params: Params) -> None:
    """Raises Fault for a cursor: there was none to give."""
    if params.get("cursor") is not None:
        raise Fault(INVALID_PARAMS, "This list has one page, and no cursor leads into it.")
