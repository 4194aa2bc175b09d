"""What the fold of the fleet keeps of a task, an agent and a host."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from core.scheduling.eligibility import Requirement
from core.scheduling.shares import Flow
from core.scheduling.waiting import Item, Limited, Place

AGE_STEP_MS = 60_000


class TaskEntry(Struct, kw_only=True):
    """A live task. `key` orders the queue: a level of priority is worth a minute of waiting."""

    id: str
    key: int
    position: int
    need: Requirement
    timeout_s: float
    avoid_last_agent: bool
    correlation_id: str
    type: str
    flow: Flow
    limited: Limited
    last_position: int = 0
    status: str = "submitted"
    not_before_ms: int = 0
    cancelling: bool = False
    cancelled_ms: int = 0
    fence: int = 0
    term: int = 0
    agent_id: str = ""
    host_id: str = ""
    session: str = ""
    assigned_ms: int = 0
    last_agent: str = ""
    charged_ms: float = 0.0
    learned: bool = True
    agent_type: str = ""

    @property
    def place(self) -> Place:
        """The line, the flow and the lane that it waits in."""
        return Place(self.need, self.flow, self.limited)

    @property
    def item(self) -> Item:
        """Where it stands in its lane."""
        return self.key, self.position, self.id

    @property
    def held(self) -> bool:
        """Whether an attempt holds a slot."""
        return self.status in ("assigned", "running")


class AgentEntry(Struct, kw_only=True):
    """An agent that is not retired."""

    id: str
    type: str
    executor: str
    capabilities: frozenset[str]
    slots: int
    status: str = "starting"
    host_id: str = ""
    session: str = ""
    running: set[str] = msgspec.field(default_factory=set)


class HostEntry(Struct, kw_only=True):
    """A host that registered once; `session` is empty when it is lost or has left."""

    id: str
    session: str
    executors: frozenset[str]
    slots: int
    lost_reason: str = ""
    running: set[str] = msgspec.field(default_factory=set)
