"""Metrics: counted where things happen, read at the metrics listener."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.exposition import generate_latest

registry = CollectorRegistry()
ProcessCollector(namespace="hivebus", registry=registry)

REFUSED = Counter(
    "hivebus_requests_refused_total", "Requests answered with an error, by its code.", ["code"], registry=registry
)
REQUESTS = Counter(
    "hivebus_requests_total",
    "Requests answered without an error, by action and way in.",
    ["action", "transport"],
    registry=registry,
)
LIVE_TASKS = Gauge("hivebus_tasks_live", "Tasks that have not ended, as the scheduler folds them.", registry=registry)
RECORDER_POSITION = Gauge("hivebus_recorder_position", "Newest position that the store holds.", registry=registry)
VIEWS_POSITION = Gauge("hivebus_views_position", "Newest position that every view has applied.", registry=registry)

DISK_FREE = Gauge(
    "hivebus_disk_free_bytes", "Bytes that may still be written under the data directory.", registry=registry
)
DISK_USED = Gauge(
    "hivebus_disk_used_ratio", "Used share of the data directory's file system, 0 to 1.", registry=registry
)
EVENTS_PUBLISHED = Counter(
    "hivebus_events_published_total", "Events passed on to clients of the broker.", registry=registry
)
EVENTS_DROPPED = Counter(
    "hivebus_events_dropped_total",
    "Events that were recorded and not passed on: the broker was away or slow. GET /api/events has them.",
    registry=registry,
)


def exposition() -> bytes:
    """All metrics in Prometheus' text format."""
    return generate_latest(registry)


__all__ = [
    "DISK_FREE",
    "DISK_USED",
    "EVENTS_DROPPED",
    "EVENTS_PUBLISHED",
    "LIVE_TASKS",
    "RECORDER_POSITION",
    "REFUSED",
    "REQUESTS",
    "VIEWS_POSITION",
    "exposition",
    "registry",
]
