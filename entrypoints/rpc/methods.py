"""Methods that are no actions: what a client says of itself, and whether anybody is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct

from core.kernel.errors import Unprocessable
from entrypoints.calls import Calls, Nothing, fitted
from entrypoints.rpc.frame import BATCH_MAX, FRAME_BYTES_MAX
from entrypoints.rpc.session import Method, Session

Number = Annotated[int, Meta(ge=0, le=1_000_000)]
Name = Annotated[str, Meta(max_length=200)]


class Version(Struct, frozen=True):
    """A version of the protocol."""

    major: Number
    minor: Number = 0
    patch: Number = 0


class ClientInfo(Struct, frozen=True):
    """Which program calls."""

    name: Name
    version: Name = ""


class ClientCapabilities(Struct, frozen=True):
    """What the client takes beside answers to its calls. What we do not know is left alone."""

    streaming: bool = False
    notifications: bool = False


class Initialize(Struct, frozen=True):
    """Begin: the first call of a WebSocket connection. Over HTTP it is possible and never needed."""

    protocolVersion: Version
    clientInfo: ClientInfo | None = None
    capabilities: ClientCapabilities = ClientCapabilities()


# Ours, and the one that clients of the contract say; what they mean is the same.
SPOKEN = {1: Version(1, 0, 0), 2024: Version(2024, 11, 5)}


def methods(calls: Calls, version: str) -> Mapping[str, Method]:
    """`ping` and `initialize`; `version` is the program's."""

    async def ping(params: dict[str, Any], session: Session) -> str:
        del session
        fitted(params, Nothing)
        return "pong"

    async def initialize(params: dict[str, Any], session: Session) -> dict[str, Any]:
        asked = fitted(params, Initialize)
        spoken = SPOKEN.get(asked.protocolVersion.major)
        if spoken is None:
            majors = " and ".join(map(str, SPOKEN))
            raise Unprocessable(
                f"Version {asked.protocolVersion.major} of the protocol is not spoken here; {majors} are.",
                code="unsupported_protocol_version",
                pointer="/protocolVersion/major",
                remedy="Say {major: 1, minor: 0, patch: 0}.",
                spoken=[_as_document(known) for known in SPOKEN.values()],
            )
        session.initialized = True
        session.client = None if asked.clientInfo is None else f"{asked.clientInfo.name} {asked.clientInfo.version}"
        session.streaming = asked.capabilities.streaming
        session.notifications = asked.capabilities.notifications
        streaming = "events/subscribe" in session.methods
        return {
            "protocolVersion": _as_document(spoken),
            "serverInfo": {"name": "hivebus", "version": version},
            "capabilities": {
                "tools": bool(calls.actions),
                "streaming": streaming,
                "notifications": streaming,
                "agent_management": "agent.spawn" in calls.actions,
                "task_management": "task.submit" in calls.actions,
                "batch_requests_max": BATCH_MAX,
                "message_bytes_max": FRAME_BYTES_MAX,
            },
        }

    return {"ping": ping, "initialize": initialize}


def _as_document(version: Version) -> dict[str, int]:
    return {"major": version.major, "minor": version.minor, "patch": version.patch}
