"""Metrics: counted where things happen, measured when somebody looks, read at the metrics listener.

Label values come from closed sets (actions of the registry, transports, codes of errors): an action that does not exist
is counted as `unknown`, whatever it was called.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import generate_latest

from adapters.telemetry.described import Described, Kind, Measured, Reading
from adapters.telemetry.instruments import Spread, Tally

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OK = "ok"
UNKNOWN = "unknown"
REQUEST_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
APPEND_BOUNDS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

REQUESTS = Tally(
    "hivebus_requests_total",
    "Requests answered, by action, transport and outcome: ok, or the code of the error. No such action: unknown.",
    ["action", "transport", "outcome"],
)
REQUEST_DURATION = Spread(
    "hivebus_request_duration_seconds",
    "From taking a request to its answer, errors included, by action and transport.",
    REQUEST_BOUNDS_S,
    ["action", "transport"],
)
APPEND_DURATION = Spread(
    "hivebus_append_duration_seconds",
    "From handing a commit to the log until the broker acknowledged it, the wait for its group included.",
    APPEND_BOUNDS_S,
)
ATTEMPTS_ENDED = Tally(
    "hivebus_attempts_ended_total",
    "Attempts that ended, by outcome, counted where they are recorded: in the process with the role recorder.",
    ["outcome"],
)
COMMITS_RECORDED = Tally("hivebus_commits_recorded_total", "Commits that this process wrote to the store.")
EVENTS_PUBLISHED = Tally("hivebus_events_published_total", "Events passed on to clients of the broker.")
EVENTS_DROPPED = Tally(
    "hivebus_events_dropped_total",
    "Events that were recorded and not passed on: the broker was away or slow. GET /api/events has them.",
)
SOCKET_DROPS = Tally(
    "hivebus_socket_drops_total",
    "WebSocket connections that this process ended: slow ones took nothing, silent ones gave no sign of life.",
    ["reason"],
)

LOG_HEAD = Reading("hivebus_log_head_position", "Newest position of the log, asked of the broker.")
SCHEDULER_POSITION = Reading("hivebus_scheduler_position", "Newest position that the scheduler has folded.")
RECORDER_POSITION = Reading(
    "hivebus_recorder_position", "Newest position that the store holds; the recorder's lag is the log's head minus it."
)
VIEWS_POSITION = Reading(
    "hivebus_views_position", "Newest position that every view has applied; their lag is the log's head minus it."
)
VIEWS_PARKED = Reading("hivebus_views_parked_aggregates", "Aggregates that a view cannot fold, over all views.")
TASKS = Reading("hivebus_tasks", "All tasks there ever were, by status, as the views show them.", "status")
LIVE_TASKS = Reading("hivebus_tasks_live", "Tasks that have not ended, as the scheduler folds them.")
QUEUE = Reading("hivebus_queue_tasks", "Queued tasks by priority, 9 is the most urgent.", "priority")
QUEUE_OLDEST = Reading(
    "hivebus_queue_oldest_age_seconds", "How long the oldest queued task has been queued; absent when none is."
)
AGENTS = Reading("hivebus_agents", "Agents by status, as the views show them; busy ones work on something.", "status")
ALERTS = Reading("hivebus_alerts", "Alerts whose cause is there, acknowledged or not, by kind.", "kind")
HOST_ATTEMPTS = Reading("hivebus_host_attempts_running", "Attempts that run on the agent host of this process.")
BROKER_MEMORY = Reading(
    "hivebus_broker_resident_memory_bytes", "Resident memory of the broker, where this process started it."
)
SOCKETS = Reading("hivebus_sockets", "WebSocket connections that are open at this process.")
SOCKET_FRAMES = Reading(
    "hivebus_socket_frames_total",
    "Batches of events written to subscribers, over WebSocket and as server-sent events.",
    kind=Kind.COUNTER,
)
DISK_FREE = Reading("hivebus_disk_free_bytes", "Bytes that may still be written under the data directory.")
DISK_USED = Reading("hivebus_disk_used_ratio", "Used share of the data directory's file system, 0 to 1.")

COUNTED: tuple[Tally | Spread, ...] = (
    REQUESTS,
    REQUEST_DURATION,
    APPEND_DURATION,
    ATTEMPTS_ENDED,
    COMMITS_RECORDED,
    EVENTS_PUBLISHED,
    EVENTS_DROPPED,
    SOCKET_DROPS,
)
READINGS = (
    LOG_HEAD,
    RECORDER_POSITION,
    VIEWS_POSITION,
    SCHEDULER_POSITION,
    VIEWS_PARKED,
    TASKS,
    LIVE_TASKS,
    QUEUE,
    QUEUE_OLDEST,
    AGENTS,
    ALERTS,
    HOST_ATTEMPTS,
    SOCKETS,
    SOCKET_FRAMES,
    BROKER_MEMORY,
    DISK_FREE,
    DISK_USED,
)

registry = CollectorRegistry()
_PROCESS = ProcessCollector(namespace="hivebus", registry=registry)
for _collector in COUNTED:
    registry.register(_collector)


def answered(action: str, transport: str, seconds: float, outcome: str = OK) -> None:
    """Count one request that was looked at; `outcome` is `ok` or the code of the error that answered it."""
    REQUESTS.add(action, transport, outcome)
    REQUEST_DURATION.observe(seconds, action, transport)


def exposition(measured: Measured | None = None) -> bytes:
    """All metrics in Prometheus' text format 0.0.4, with what was measured for this scrape."""
    return generate_latest(registry) + (generate_latest(measured) if measured is not None else b"")


def described() -> Iterator[Described]:
    """Every metric there can be, in the order of the reference page."""
    yield from (counted.described for counted in COUNTED)
    yield from (reading.described for reading in READINGS)
    for family in _PROCESS.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        yield Described(name, Kind(family.type), family.documentation)
