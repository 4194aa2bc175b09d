"""What a fresh system knows about its agents, as data."""

from __future__ import annotations

from msgspec import Struct


class AgentType(Struct, frozen=True):
    """A kind of agent: what it runs tasks with and what it can do."""

    executor: str
    capabilities: tuple[str, ...]
    description: str


AGENT_TYPES: dict[str, AgentType] = {
    "shell": AgentType("command", ("shell",), "Runs programs: an argv, never a shell string."),
    "python": AgentType("python", ("python",), "Runs functions registered under the entry-point group hivebus.tasks."),
}
