"""What answers over REST, one declaration an operation: those of the registry, and those that are no action."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from core.kernel.errors import (
    HivebusError,
    NotFound,
    Refused,
    TooMany,
    Unauthenticated,
    Unavailable,
    Unprocessable,
    UnsupportedMedia,
)
from core.kernel.registry import doc_of
from core.services.comparison import ComparisonDocument
from core.services.dispatch import BATCH_MAX, BatchAnswer
from core.services.trim import TrimOrder, TrimState
from entrypoints.agent_tasks import AGENT_TASK_FAULTS, AgentTask, AgentTaskAnswer
from entrypoints.calls import Action, Calls, CommandOptions, Nothing, QueryOptions
from entrypoints.http.blobs import OCTETS
from entrypoints.http.event_stream import MEDIA as EVENT_STREAM
from entrypoints.http.event_stream import FollowEvents
from entrypoints.http.events import ReadEvents
from entrypoints.http.readings import Live, Ready, Said, StoredBlob, SystemInfo, SystemStatus, TicketAnswer
from entrypoints.http.rest import JSON, NDJSON
from entrypoints.http.system import AskedSession
from entrypoints.rpc.frame import BATCH_MAX as RPC_BATCH_MAX
from entrypoints.schemas import faults as f
from entrypoints.schemas.connection import RpcAnswer, RpcRequest
from entrypoints.schemas.examples import EXAMPLES

PLAIN = "text/plain; version=0.0.4; charset=utf-8"

COMMAND_PARAMETERS = ("IdempotencyKey", "CorrelationId", "Prefer", "Wait")
QUERY_PARAMETERS = ("At", "MinPosition")

_PATH = re.compile(r"{(\w+)}")


class Batch(Struct, frozen=True):
    """Marks a body that may be one of these, or an array of them."""

    item: Any
    most: int = BATCH_MAX


class AnyOf(Struct, frozen=True):
    """Marks an answer that has one of these shapes."""

    shapes: tuple[Any, ...]


class Operation(Struct, frozen=True, kw_only=True):
    """One method at one path.

    `more` are Structs whose further fields may stand in the query string too.
    `query` is the Struct whose fields stand in the query string (and the path); `parameters` are names of shared ones.
    `body` and `answer` are shapes by media type; a shape is a type, Batch, AnyOf, or a JSON Schema. `headers` are what
    the answer carries beside it: what each says. `silent` says when the answer is 204 and has no body.
    """

    id: str
    method: str
    path: str
    tag: str
    doc: str
    status: int = 200
    silent: str | None = None
    query: type[Struct] | None = None
    more: tuple[type[Struct], ...] = ()
    parameters: tuple[str, ...] = ()
    body: Mapping[str, Any] = {}
    answer: Mapping[str, Any] = {}
    headers: Mapping[str, str] = {}
    faults: Mapping[str, type[HivebusError]] = {}
    public: bool = False
    example: str | None = None

    @property
    def path_fields(self) -> list[str]:
        """The names in the path."""
        return _PATH.findall(self.path)


POSITION = {"Hivebus-Position": "The position that the answer speaks of."}


def operations(calls: Calls) -> list[Operation]:
    """Every operation of the REST listener, in the order of paths."""
    made = [*_of_actions(calls), *OTHERS]
    return sorted(made, key=lambda operation: (operation.path, operation.method))


def _of_actions(calls: Calls) -> Iterator[Operation]:
    by_hand = {(operation.method, operation.path) for operation in OTHERS}
    for action in calls.actions.values():
        if action.route is not None and (action.route.method, action.route.path) not in by_hand:
            yield _query(action) if action.read_only else _command(action)


def _command(action: Action) -> Operation:
    assert action.route is not None
    assert action.options is CommandOptions, f"{action.name} has options that the documents do not know"
    noun = action.name.partition(".")[0]
    has_body = action.route.method != "DELETE"
    batches = has_body and action.creates
    media = (JSON, NDJSON) if batches else (JSON,)
    item = {"type": "string", "description": f"One object a line, at most {BATCH_MAX:,} of them."}
    body = {JSON: Batch(action.struct) if batches else action.struct, NDJSON: item}
    headers = dict(POSITION)
    if action.creates:
        headers["Location"] = f"Where the {noun} is; a batch has none."
    return Operation(
        id=action.name,
        method=action.route.method,
        path=action.route.path,
        tag=noun,
        doc=action.doc,
        status=action.route.status,
        query=None if has_body else action.struct,
        parameters=COMMAND_PARAMETERS,
        body={kind: body[kind] for kind in media} if has_body else {},
        answer={JSON: AnyOf((action.answer, BatchAnswer)) if batches else action.answer},
        headers=headers,
        faults=f.together(
            f.REQUEST,
            f.ORIGIN,
            f.faults_of(action),
            f.BODY if has_body else {},
            f.BATCH if batches else {},
        ),
        example=action.name,
    )


def _query(action: Action) -> Operation:
    assert action.route is not None
    assert action.options is QueryOptions, f"{action.name} has options that the documents do not know"
    return Operation(
        id=action.name,
        method=action.route.method,
        path=action.route.path,
        tag=action.name.partition(".")[0],
        doc=action.doc,
        status=action.route.status,
        query=action.struct,
        parameters=QUERY_PARAMETERS,
        answer={JSON: action.answer},
        headers=POSITION,
        faults=f.together(f.REQUEST, f.ORIGIN, f.faults_of(action)),
        example=action.name if action.name in EXAMPLES else None,
    )


_ASKED = f.together(f.REQUEST, f.ORIGIN)
_KEYED = f.together(_ASKED, f.KEY)
_LOG = {"log_unavailable": Unavailable, "store_unavailable": Unavailable, "database_unavailable": Unavailable}

# --- operations that are no action of the registry --------------------------------------------------------------------

OTHERS: tuple[Operation, ...] = (
    Operation(
        id="rpc",
        method="POST",
        path="/api/",
        tag="rpc",
        doc="JSON-RPC 2.0.\n\nA request or a batch of them; /openrpc.json has the methods. What is wrong with a call "
        "itself is an `error` in the answer, with status 200.",
        silent="Nothing but notifications was sent.",
        body={JSON: Batch(RpcRequest, RPC_BATCH_MAX)},
        answer={JSON: Batch(RpcAnswer, RPC_BATCH_MAX)},
        faults=f.together(_KEYED, {"unknown_field": Unprocessable, "unsupported_media_type": UnsupportedMedia}),
        example="rpc",
    ),
    Operation(
        id="agent.task.submit",
        method="POST",
        path="/api/agents/{agent_id}/tasks",
        tag="agent",
        doc="Submit a task to one agent.\n\nAn older form of POST /api/tasks; `timeout` is in seconds.",
        status=202,
        parameters=COMMAND_PARAMETERS,
        body={JSON: AgentTask},
        answer={JSON: AgentTaskAnswer},
        headers=POSITION | {"Location": "Where the task is."},
        faults=f.together(
            _KEYED,
            f.FIELDS,
            f.BODY,
            f.COMMAND,
            f.WAITING,
            AGENT_TASK_FAULTS,
        ),
    ),
    Operation(
        id="event.list",
        method="GET",
        path="/api/events",
        tag="event",
        doc="Read the events after a position, in their order.\n\nJSON lines of CloudEvents. A commit is never split, "
        "so a page may hold a few more than `limit`. `wait` is how many seconds to wait for a first match.\n\n"
        "With `Accept: text/event-stream` they come as server-sent events, and then each as it is recorded; only there "
        "are the filters `verb` and `agent`, and only pages know `limit` and `wait`.",
        query=ReadEvents,
        more=(FollowEvents,),
        parameters=("LastEventId",),
        answer={
            NDJSON: {"type": "string", "description": "One CloudEvent (application/cloudevents+json) a line."},
            EVENT_STREAM: {"type": "string", "description": "`data` is a CloudEvent, `event` its type."},
        },
        headers={"Hivebus-Next": "The position to go on from.", "Hivebus-Position": "The newest recorded position."},
        faults=f.together(
            _KEYED, f.FIELDS, f.READING, {"too_many_connections": Unavailable, "too_many_filters": TooMany}
        ),
    ),
    Operation(
        id="blob.put",
        method="PUT",
        path="/api/blobs/{sha256}",
        tag="blob",
        doc="Store bytes under their SHA-256, at most 64 MiB.\n\nThe same bytes may be stored again.",
        status=201,
        body={OCTETS: {}},
        answer={JSON: StoredBlob},
        faults=f.together(
            _KEYED,
            f.DISK,
            {
                "invalid_field": Unprocessable,
                "blob_mismatch": Unprocessable,
                "unsupported_media_type": UnsupportedMedia,
            },
        ),
    ),
    Operation(
        id="blob.get",
        method="GET",
        path="/api/blobs/{sha256}",
        tag="blob",
        doc="The bytes of a blob.",
        answer={OCTETS: {}},
        headers={"Content-Length": "Its size in bytes."},
        faults=f.together(_KEYED, {"unknown_blob": NotFound}),
    ),
    Operation(
        id="system.status",
        method="GET",
        path="/api/status",
        tag="system",
        doc="Health and figures of the program, measured now.\n\nWithout a key.",
        answer={JSON: SystemStatus},
        faults=_ASKED,
        public=True,
    ),
    Operation(
        id="system.info",
        method="GET",
        path="/api/info",
        tag="system",
        doc="What this system is and can do.",
        answer={JSON: SystemInfo},
        faults=_KEYED,
    ),
    Operation(
        id="session.create",
        method="POST",
        path="/api/session",
        tag="session",
        doc="Swap a one-time ticket or a key for the page's cookie.\n\nIt is HttpOnly and good for 30 days.",
        status=201,
        body={JSON: AskedSession},
        answer={JSON: Said},
        headers={"Set-Cookie": "The session of this browser."},
        faults=f.together(_ASKED, f.FIELDS, f.BODY, {"unauthenticated": Unauthenticated}),
        public=True,
    ),
    Operation(
        id="ticket.create",
        method="POST",
        path="/api/ticket",
        tag="session",
        doc="A ticket for one WebSocket: `/ws?ticket=`.\n\nFor pages, which can send no header with one.",
        status=201,
        body={JSON: Nothing},
        answer={JSON: TicketAnswer},
        faults=f.together(_KEYED, f.BODY, {"invalid_field": Unprocessable, "unknown_field": Unprocessable}),
    ),
    Operation(
        id="log.compare",
        method="GET",
        path="/api/log/compare",
        tag="log",
        doc="Compare the log with the store, at the newest position that both hold.\n\nIt changes nothing.",
        answer={JSON: ComparisonDocument},
        headers=POSITION,
        faults=f.together(_KEYED, _LOG),
    ),
    Operation(
        id="log.trim",
        method="POST",
        path="/api/log/trim",
        tag="log",
        doc=f"Order a trim of the log; one runs at a time.\n\n{doc_of(TrimOrder)}",
        status=202,
        body={JSON: TrimOrder},
        answer={JSON: TrimState},
        faults=f.together(_KEYED, f.FIELDS, f.BODY, {"trim_runs": Refused, "no_backup": Refused}),
    ),
    Operation(
        id="log.trimmed",
        method="GET",
        path="/api/log/trim",
        tag="log",
        doc="How far the last trim is.",
        answer={JSON: TrimState},
        faults=_KEYED,
    ),
    Operation(
        id="health.live",
        method="GET",
        path="/health/live",
        tag="health",
        doc="The process answers.\n\nWithout a key, on every listener.",
        answer={JSON: Live},
        faults=f.REQUEST,
        public=True,
    ),
    Operation(
        id="health.ready",
        method="GET",
        path="/health/ready",
        tag="health",
        doc="It takes work.\n\nWithout a key, on every listener.",
        answer={JSON: Ready},
        faults=f.together(f.REQUEST, {"not_ready": Unavailable}),
        public=True,
    ),
    Operation(
        id="metrics",
        method="GET",
        path="/metrics",
        tag="health",
        doc="Prometheus metrics.\n\nOn the metrics listener without a key, on the others with one.",
        answer={PLAIN: {"type": "string"}},
        faults=_KEYED,
    ),
)
