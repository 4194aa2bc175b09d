"""The events, read page by page over the REST API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from msgspec import Struct

from entrypoints.cli.failures import Failure
from entrypoints.cli.http import READ_S, Client

PAGE = 1000
WAIT_MAX_S = 25.0


class Page(Struct, frozen=True):
    """Events as CloudEvents, the position to go on from, and where the log stood."""

    events: list[dict[str, Any]]
    next: int
    head: int


def read_page(client: Client, after: int, filters: Mapping[str, Any], *, wait_s: float = 0.0) -> Page:
    """The next events that match, at most about 1,000; an empty page if none came within `wait_s` (at most 25)."""
    wait_s = max(0.0, min(wait_s, WAIT_MAX_S))
    query = {**filters, "after": after, "limit": PAGE, "wait": round(wait_s, 3) or None}
    answer = client.get("/api/events", query, read_s=READ_S + wait_s)
    try:
        events = [orjson.loads(line) for line in answer.body.splitlines() if line]
        following = int(answer.headers["hivebus-next"])
        return Page(events, following, int(answer.headers.get("hivebus-position", following)))
    except (orjson.JSONDecodeError, KeyError, ValueError) as error:
        raise Failure("The answer to GET /api/events holds no events.", remedy="Is HIVEBUS_URL right?") from error


def word_of(event: Mapping[str, Any]) -> str:
    """The event's type as the log names it: `task.completed`."""
    return str(event.get("type", "")).removeprefix("hivebus.")


def position_of(event: Mapping[str, Any]) -> int:
    """The position of the commit that the event belongs to."""
    return int(event["sequence"])


def id_of(event: Mapping[str, Any]) -> str:
    """The id of the aggregate that the event happened to."""
    return str(event.get("subject", "")).rpartition("/")[2]
