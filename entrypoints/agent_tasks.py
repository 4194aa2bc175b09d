"""A task for one agent, in the contract's older words: the same over REST and JSON-RPC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from core.agent import Agent
from core.kernel.answers import CreatedAnswer, Time, Unknown
from core.kernel.command_bus import CommandBus
from core.kernel.errors import AgentUnavailable, Gone, HivebusError, NotFound, TooMany
from core.services.dispatch import Dispatcher, Envelope, Principal
from core.task import SubmitTask, Word

NO_STATISTICS = "no statistics of task types are kept in this version"

AGENT_TASK_FAULTS: Mapping[str, type[HivebusError]] = {
    "unknown_agent": NotFound,
    "trimmed_agent": Gone,
    "agent_unavailable": AgentUnavailable,
    "too_many_tasks": TooMany,
}

Priority = Literal["critical", "high", "normal", "low", "background"] | Annotated[int, Meta(ge=0, le=9)]
TimeoutS = Annotated[float, Meta(gt=0, le=86_400)]


class AgentTask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task for one agent, as the contract's POST /api/agents/{id}/tasks has it."""

    task_type: Word
    parameters: dict[str, Any]
    priority: Priority = "normal"
    timeout: TimeoutS = 60.0


class AgentTaskAnswer(CreatedAnswer):
    """The answer to a task for one agent."""

    task_id: str
    agent_id: str
    estimated_completion: Time | None
    unknown: Unknown


class AgentTasks:
    """Submits tasks that one agent alone may take."""

    def __init__(self, bus: CommandBus, dispatcher: Dispatcher) -> None:
        self._bus = bus
        self._dispatcher = dispatcher

    async def submit(self, agent_id: str, asked: AgentTask, principal: Principal, envelope: Envelope) -> dict[str, Any]:
        """The answer of task.submit, and the agent. Raises NotFound and AgentUnavailable."""
        agent: Agent = await self._bus.load("agent", agent_id)
        if agent.status in ("draining", "retired"):
            raise AgentUnavailable(f"The agent is {agent.status}.", remedy="Choose another agent.")
        command = SubmitTask(
            type=asked.task_type,
            parameters=asked.parameters,
            executor=agent.spec.executor,
            agent_id=agent_id,
            priority=asked.priority,
            timeout_s=asked.timeout,
        )
        return await self._dispatcher.command(command, principal, envelope) | {"agent_id": agent_id}
