"""The contract's older calls: other words for actions of the registry."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from sanic import HTTPResponse, Request, Sanic

from core.agent import Agent
from core.kernel.command_bus import CommandBus
from core.kernel.errors import Refused
from core.services.dispatch import Dispatcher
from core.task import SubmitTask, Word
from entrypoints.decode import from_json
from entrypoints.http.counted import counted
from entrypoints.http.door import Door, check_media
from entrypoints.http.rest import JSON, arguments_of, envelope_of, json_response, refuse_unknown


class AgentTask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task for one agent, as the contract's POST /api/agents/{id}/tasks has it."""

    task_type: Word
    parameters: dict[str, Any]
    priority: Literal["critical", "high", "normal", "low", "background"] | Annotated[int, Meta(ge=0, le=9)] = "normal"
    timeout: Annotated[float, Meta(gt=0, le=86_400)] = 60.0


def add_aliases(app: Sanic[Any, Any], bus: CommandBus, dispatcher: Dispatcher, door: Door) -> None:
    """POST /api/agents/{id}/tasks."""

    async def assign(request: Request, agent_id: str) -> HTTPResponse:
        principal = door.admit(request)
        values = arguments_of(request)
        envelope = envelope_of(request, values)
        refuse_unknown(values)
        check_media(request, JSON)
        asked = from_json(AgentTask, request.body)
        agent: Agent = await bus.load("agent", agent_id)
        if agent.status in ("draining", "retired"):
            raise Refused(f"The agent is {agent.status}.", code="agent_unavailable", remedy="Choose another agent.")
        command = SubmitTask(
            type=asked.task_type,
            parameters=asked.parameters,
            executor=agent.spec.executor,
            agent_id=agent_id,
            priority=asked.priority,
            timeout_s=asked.timeout,
        )
        answer = await dispatcher.command(command, principal, envelope)
        answer |= {
            "agent_id": agent_id,
            "estimated_completion": None,
            "unknown": {"estimated_completion": "no statistics of task types are kept in this version"},
        }
        return json_response(answer, 202, {"Location": f"/api/tasks/{answer['task_id']}"})

    path = "/api/agents/<agent_id:str>/tasks"
    app.add_route(counted(assign, "task.submit"), path, methods=["POST"], name="agent_task_submit", unquote=True)
