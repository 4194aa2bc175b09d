"""The agent card: who answers here, how, and what its agents can run. Everything in it is read from the program."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from core.catalogue import AgentType
from core.execution import EXECUTORS
from core.scheduling.entries import AgentEntry
from entrypoints.a2a.messages import JSON, TEXT

VERSION = "1.0"
PATH = "/.well-known/agent-card.json"
RPC_PATH = "/a2a"
EXAMPLES: Mapping[str, dict[str, Any]] = {
    "command": {"argv": ["echo", "hello"]},
    "python": {"function": "NAME", "arguments": {}},
}
DESCRIPTION = (
    "Runs tasks on a fleet of agents and records every step. Send one data part that says what to run: "
    '{"type", "agent_type" or "executor", "parameters"} and whatever else task.submit takes.'
)


class Card:
    """Writes the card, for the address that the caller knows this program by."""

    def __init__(
        self, version: str, catalogue: Mapping[str, AgentType], agents: Callable[[], Iterable[AgentEntry]]
    ) -> None:
        self._version = version
        self._catalogue = catalogue
        self._agents = agents

    def document(self, base_url: str) -> dict[str, Any]:
        """The AgentCard of A2A 1.0. `base_url` is scheme and host without a slash at the end."""
        return {
            "name": "Hivebus",
            "description": DESCRIPTION,
            "version": self._version,
            "supportedInterfaces": [
                {"url": base_url + RPC_PATH, "protocolBinding": "JSONRPC", "protocolVersion": VERSION}
            ],
            "capabilities": {"streaming": True, "pushNotifications": False, "extendedAgentCard": False},
            "securitySchemes": {
                "bearer": {
                    "httpAuthSecurityScheme": {
                        "scheme": "Bearer",
                        "description": "The key of this installation; `hivebus env` prints it.",
                    }
                }
            },
            "securityRequirements": [{"schemes": {"bearer": {"list": []}}}],
            "defaultInputModes": [JSON],
            "defaultOutputModes": [JSON, TEXT],
            "skills": self.skills(),
        }

    def skills(self) -> list[dict[str, Any]]:
        """One skill for each agent type of the catalogue, and for each that agents of the fleet have beside them."""
        fleet: dict[str, list[AgentEntry]] = {}
        for agent in self._agents():
            if agent.session and agent.status != "retired":
                fleet.setdefault(agent.type, []).append(agent)
        return [self._skill(name, fleet.get(name, [])) for name in sorted(self._catalogue.keys() | fleet.keys())]

    def _skill(self, name: str, agents: list[AgentEntry]) -> dict[str, Any]:
        known = self._catalogue.get(name)
        executors = sorted({agent.executor for agent in agents} | ({known.executor} if known else set()))
        capabilities = {word for agent in agents for word in agent.capabilities}
        said = known.description if known else f"Runs tasks of the executor {' or '.join(executors)}."
        here = "" if agents else " No agent of this type is here now: a task would wait for one."
        return {
            "id": name,
            "name": name,
            "description": said + here,
            "tags": sorted(capabilities | set(known.capabilities if known else ()) | set(executors)),
            "examples": [_example(name, executor) for executor in executors if executor in EXAMPLES],
        }


def tag_of(body: bytes) -> str:
    """The entity tag of a card, so that a client need not read it again."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def _example(agent_type: str, executor: str) -> str:
    assert executor in EXECUTORS
    data = {"type": "example", "executor": executor, "agent_type": agent_type, "parameters": EXAMPLES[executor]}
    return orjson.dumps({"data": data}).decode()
