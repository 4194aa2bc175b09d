"""Who can do a task at all: one rule for the scheduler's choice and for the answer to "why does it wait?"."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct


class Requirement(Struct, frozen=True, gc=False):
    """What a task asks of its agent. Tasks with equal requirements share one queue."""

    executor: str
    requires: tuple[str, ...] = ()
    agent_type: str | None = None
    agent_id: str | None = None


class Candidate(Protocol):
    """What the rule looks at in an agent."""

    @property
    def id(self) -> str: ...  # noqa: D102 - a field
    @property
    def type(self) -> str: ...  # noqa: D102
    @property
    def executor(self) -> str: ...  # noqa: D102
    @property
    def capabilities(self) -> frozenset[str]: ...  # noqa: D102
    @property
    def status(self) -> str: ...  # noqa: D102


def can_do(need: Requirement, agent: Candidate) -> bool:
    """Whether this agent, once free, may get such a task."""
    return (
        agent.executor == need.executor
        and agent.capabilities.issuperset(need.requires)
        and need.agent_type in (None, agent.type)
        and need.agent_id in (None, agent.id)
    )


def why_nobody(need: Requirement, agents: Iterable[Candidate]) -> str | None:
    """The reason why no known agent can ever take such a task; None if one can."""
    known = [agent for agent in agents if agent.status not in ("retired", "draining")]
    if any(can_do(need, agent) for agent in known):
        return None
    if need.agent_id is not None and all(agent.id != need.agent_id for agent in known):
        return f"agent {need.agent_id} is retired or unknown"
    if need.agent_type is not None and all(agent.type != need.agent_type for agent in known):
        return f"there is no agent of type {need.agent_type}"
    able = [agent for agent in known if agent.executor == need.executor]
    if not able:
        return f"no agent runs executor {need.executor}"
    missing = [name for name in need.requires if all(name not in agent.capabilities for agent in able)]
    if missing:
        return f"no agent with executor {need.executor} has capability {', '.join(missing)}"
    return "no single agent has the executor, type and capabilities together"
