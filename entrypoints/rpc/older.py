"""The contract's older method names: other words for actions of the registry."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from core.kernel.answers import CreatedAnswer, Time, Unknown
from core.kernel.errors import HivebusError
from core.kernel.registry import doc_of
from core.services.dispatch import WAIT_S_MAX, Principal
from core.task import Word
from entrypoints.agent_tasks import AGENT_TASK_FAULTS, NO_STATISTICS, AgentTask, AgentTasks, Priority, TimeoutS
from entrypoints.calls import Action, Calls, CommandOptions, QueryOptions
from entrypoints.decode import envelope_from
from projections.agents import AgentList, ListAgents


class ExecuteOnAgent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Have an agent do something: a task of the type `command` that this agent alone may take.

    The parameters are those of the agent's executor: {"argv": [...]} for an agent of the type shell.
    """

    agent_id: str
    command: Word
    parameters: dict[str, Any] = field(default_factory=dict)
    priority: Priority = "normal"
    timeout: TimeoutS = 60.0


class AgentFilter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which agents: of a status, of a type."""

    status: str | None = None
    type: str | None = None


class ListAgentsOlder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List agents, oldest first: agent.list with its filters in an object of their own."""

    filter: AgentFilter = AgentFilter()


class ExecuteAnswer(CreatedAnswer):
    """The answer to agent/execute."""

    task_id: str
    agent_id: str
    estimated_start: Time | None
    unknown: Unknown


def older_actions(calls: Calls, agent_tasks: AgentTasks) -> tuple[Action, ...]:
    """`agent/execute` and `agents/list`."""

    async def execute(asked: ExecuteOnAgent, options: CommandOptions, principal: Principal) -> dict[str, Any]:
        wait_s = WAIT_S_MAX if options.wait == "recorded" else options.wait
        envelope = envelope_from(options.idempotency_key, options.correlation_id, wait_s)
        task = AgentTask(
            task_type=asked.command, parameters=asked.parameters, priority=asked.priority, timeout=asked.timeout
        )
        answer = await agent_tasks.submit(asked.agent_id, task, principal, envelope)
        return answer | {"estimated_start": None, "unknown": {"estimated_start": NO_STATISTICS}}

    async def listed(asked: ListAgentsOlder, options: QueryOptions, principal: Principal) -> dict[str, Any]:
        query = ListAgents(status=asked.filter.status, type=asked.filter.type)
        try:
            return await calls.action("agent.list").carry(query, options, principal)
        except HivebusError as error:
            if error.pointer in ("/status", "/type"):
                error.pointer = f"/filter{error.pointer}"
            raise

    return (
        Action(
            name="agent/execute",
            doc=doc_of(ExecuteOnAgent),
            struct=ExecuteOnAgent,
            options=CommandOptions,
            read_only=False,
            carry=execute,
            creates=True,
            answer=ExecuteAnswer,
            faults=AGENT_TASK_FAULTS,
        ),
        Action(
            name="agents/list",
            doc=doc_of(ListAgentsOlder),
            struct=ListAgentsOlder,
            options=QueryOptions,
            read_only=True,
            carry=listed,
            answer=AgentList,
        ),
    )
