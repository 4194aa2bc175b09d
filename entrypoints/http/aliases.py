"""The contract's older calls: other words for actions of the registry."""

from __future__ import annotations

from typing import Any

from sanic import HTTPResponse, Request, Sanic

from entrypoints.agent_tasks import NO_STATISTICS, AgentTask, AgentTasks
from entrypoints.decode import from_json
from entrypoints.http.counted import counted
from entrypoints.http.door import Door, check_media
from entrypoints.http.rest import JSON, arguments_of, envelope_of, json_response, refuse_unknown


def add_aliases(app: Sanic[Any, Any], agent_tasks: AgentTasks, door: Door) -> None:
    """POST /api/agents/{id}/tasks."""

    async def assign(request: Request, agent_id: str) -> HTTPResponse:
        principal = door.admit(request)
        values = arguments_of(request)
        envelope = envelope_of(request, values)
        refuse_unknown(values)
        check_media(request, JSON)
        answer = await agent_tasks.submit(agent_id, from_json(AgentTask, request.body), principal, envelope)
        answer |= {"estimated_completion": None, "unknown": {"estimated_completion": NO_STATISTICS}}
        return json_response(answer, 202, {"Location": f"/api/tasks/{answer['task_id']}"})

    path = "/api/agents/<agent_id:str>/tasks"
    app.add_route(counted(assign, "task.submit"), path, methods=["POST"], name="agent_task_submit", unquote=True)
