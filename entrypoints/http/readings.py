"""What the program says of itself, as shapes: the answers of system.status, system.info and event.list."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from msgspec import Meta

from core.kernel.answers import Position, Time, Unknown
from core.kernel.cloud_events import CloudEvent
from core.services.disk import DiskSpace
from core.services.log_care import CareState

Health = Literal["healthy", "degraded", "unhealthy"]


class Services(TypedDict):
    """How each part is; null where it is not known or not built."""

    agents: Health | None
    websocket: Health | None
    database: Health | None
    broker: Health
    disk: Health


class Measured(TypedDict):
    """Counts, and percentages (0 to 100) of this process's CPU and of the machine's memory."""

    active_agents: int | None
    queued_tasks: int | None
    live_tasks: int
    alerts: Annotated[int, Meta(ge=0, description="Alerts whose cause is there, acknowledged or not.")]
    parked_aggregates: int
    cpu_usage: Annotated[float, Meta(ge=0)]
    memory_usage: Annotated[float, Meta(ge=0, le=100)]
    memory_rss_bytes: int


class SocketCounts(TypedDict):
    """The WebSocket clients of this process: how many there are, lag behind, read too slowly, were dropped.

    `frames`: batches of events written to subscribers, those of server-sent events too.
    """

    connections: int
    subscriptions: int
    filters: int
    catching_up: int
    slow: int
    drops: int
    frames: int


class Positions(TypedDict):
    """How far the store and the views have come."""

    recorded: Position
    applied: Position


class SystemStatus(TypedDict):
    """Health and figures of the program, measured now. `uptime` is in seconds."""

    status: Health
    version: str
    now: Time
    uptime: float
    services: Services
    metrics: Measured
    websocket: SocketCounts | None
    disk: DiskSpace
    log: CareState
    positions: Positions
    unknown: Annotated[dict[str, str], Meta(description="Why a figure is null, by its path: `metrics.queued_tasks`.")]


class Swarm(TypedDict):
    """The Docker Swarm that this node is part of."""

    node_count: int | None
    swarm_status: str | None
    docker_version: str | None
    unknown: Unknown


class AgentKind(TypedDict):
    """A built-in type of agents."""

    executor: str
    capabilities: list[str]
    description: str


class Capabilities(TypedDict):
    """What can be asked of it: `agents` built-in types, and so many tasks at a time."""

    agents: int
    agent_types: dict[str, AgentKind]
    max_concurrent_tasks: int
    supported_protocols: list[str]


class SystemInfo(TypedDict):
    """What this system is and can do."""

    system: Swarm
    capabilities: Capabilities
    version: str


class EventPage(TypedDict):
    """Events in their order; `next` is the position to go on from, `position` the newest one."""

    events: list[CloudEvent]
    next: Position
    position: Position


class Live(TypedDict):
    """The process answers."""

    status: Literal["live"]


class Ready(TypedDict):
    """It takes work; `database` says what recording or the views wait for, if they do."""

    status: Literal["ready"]
    database: NotRequired[str]


class TicketAnswer(TypedDict):
    """A word that opens one WebSocket, within so many seconds."""

    ticket: str
    expires_in_s: float


class Said(TypedDict):
    """What was done, in a sentence."""

    message: str


class StoredBlob(TypedDict):
    """A blob as it lies: its SHA-256 in hex and its size in bytes."""

    sha256: str
    size: int
