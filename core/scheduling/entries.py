"""What the fold of the fleet keeps of a task, an agent and a host."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from core.scheduling.eligibility import Requirement
from core.scheduling.shares import Flow
from core.scheduling.timers import Timers, expiry
from core.scheduling.waiting import Item, Limited, Place
from core.task import ExpiryReason

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
    attempt: int = 0
    # Since when it is queued, where it has timers.
    queued_ms: int = 0
    timers: Timers | None = None
    schedule_id: str = ""
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

    @property
    def expiry(self) -> tuple[int, ExpiryReason] | None:
        """When time alone ends it, and why; None where nothing does, or where it is being ended already."""
        if self.timers is None or self.cancelling:
            return None
        return expiry(self.timers, held=self.held, queued_ms=self.queued_ms if self.status == "queued" else None)


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
    lost_ms: int = 0
    running: set[str] = msgspec.field(default_factory=set)
