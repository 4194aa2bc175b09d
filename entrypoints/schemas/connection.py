"""What JSON-RPC has beside the actions, as shapes: its frames, the methods of the connection, the notifications."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from core.kernel.answers import Position, Time, Unknown
from core.kernel.cloud_events import CloudEvent
from core.kernel.errors import NotFound, Refused, TooMany, Unprocessable
from core.kernel.registry import doc_of
from entrypoints.rpc.methods import Initialize, Version
from entrypoints.schemas.asyncapi import Notification
from entrypoints.schemas.openrpc import MethodShape
from entrypoints.websocket.subscribing import Subscribe, Unsubscribe
from projections.agents import Status as AgentStatus
from projections.tasks import Status as TaskStatus

EVENTS = ("events", "websocket only")

Fraction = Annotated[float, Meta(ge=0, le=1)]


class RpcRequest(TypedDict):
    """A JSON-RPC 2.0 request. Without `id` it is a notification, and gets no answer."""

    jsonrpc: Literal["2.0"]
    method: str
    params: NotRequired[dict[str, Any]]
    id: NotRequired[str | int | None]


class RpcFault(TypedDict):
    """What went wrong; `data` has the stable code and the remedy."""

    code: int
    message: str
    data: NotRequired[dict[str, Any]]


class RpcAnswer(TypedDict):
    """A JSON-RPC 2.0 response: either a result or an error."""

    jsonrpc: Literal["2.0"]
    id: str | int | float | None
    result: NotRequired[Any]
    error: NotRequired[RpcFault]


# --- methods ----------------------------------------------------------------------------------------------------------


class ServerInfo(TypedDict):
    """Which program answers."""

    name: str
    version: str


class ServerCapabilities(TypedDict):
    """What this connection can do."""

    tools: bool
    streaming: bool
    notifications: bool
    agent_management: bool
    task_management: bool
    batch_requests_max: int
    message_bytes_max: int


class Initialized(TypedDict):
    """The answer to initialize."""

    protocolVersion: Version
    serverInfo: ServerInfo
    capabilities: ServerCapabilities


class Subscribed(TypedDict):
    """A subscription: what its batches are told by, and where it stands."""

    subscription_id: str
    position: Position


METHODS: tuple[MethodShape, ...] = (
    MethodShape(
        name="initialize",
        doc="Begin: the first call of a WebSocket connection. Over HTTP it is possible and never needed.",
        params=Initialize,
        answer=Initialized,
        faults={"unsupported_protocol_version": Unprocessable},
    ),
    MethodShape(name="ping", doc="Is anybody there?", params=None, answer=Literal["pong"]),
    MethodShape(
        name="rpc.discover",
        doc="This document (https://spec.open-rpc.org, service discovery).",
        params=None,
        answer=dict[str, Any],
    ),
    MethodShape(
        name="events/subscribe",
        doc=doc_of(Subscribe),
        params=Subscribe,
        answer=Subscribed,
        faults={"already_subscribed": Refused, "too_many_subscriptions": TooMany, "too_many_filters": TooMany},
        tags=EVENTS,
    ),
    MethodShape(
        name="events/unsubscribe",
        doc=doc_of(Unsubscribe),
        params=Unsubscribe,
        answer=Subscribed,
        faults={"unknown_subscription": NotFound},
        tags=EVENTS,
    ),
)

# --- notifications ----------------------------------------------------------------------------------------------------


class AgentStatusParams(TypedDict):
    """An agent as agent.list shows it. `progress` is that of its first task."""

    agent_id: str
    status: AgentStatus | None
    task: str | None
    progress: Fraction | None
    estimated_completion: Time | None
    unknown: Unknown


class TaskProgressParams(TypedDict):
    """How far a task is."""

    task_id: str
    agent_id: str | None
    progress: Fraction | None
    status: TaskStatus
    current_step: str | None
    steps_completed: int | None
    total_steps: int | None
    unknown: Unknown


class SystemMetricsParams(TypedDict):
    """Percentages (0 to 100) of this process's CPU and of the machine's memory, and counts."""

    timestamp: Time
    cpu_usage: float
    memory_usage: float
    active_agents: int | None
    queued_tasks: int | None
    completed_tasks_last_hour: int | None
    unknown: Unknown


class LogMessageParams(TypedDict):
    """What the program logs from WARNING on."""

    timestamp: Time
    level: Literal["warning", "error", "critical"]
    logger: str
    message: Annotated[str, Meta(max_length=1000)]
    unknown: Unknown


EventsBatchParams = TypedDict(
    "EventsBatchParams",
    {
        "subscription_id": str,
        "from": Position,
        "to": Position,
        "events": list[CloudEvent],
    },
)
EventsBatchParams.__doc__ = """The events of a subscription between two positions; go on after `to`."""

NOTIFICATIONS: tuple[Notification, ...] = (
    Notification("agent/status", "What an agent does now.", AgentStatusParams),
    Notification("task/progress", "How far a task is.", TaskProgressParams),
    Notification("system/metrics", "Figures of the program, measured now.", SystemMetricsParams),
    Notification("log/message", "What the program logs from WARNING on.", LogMessageParams),
    Notification(
        "events/batch",
        "The events of a subscription, in their order. A commit is never split; `to` moves on also when no event "
        "matches for a while.",
        EventsBatchParams,
    ),
)
