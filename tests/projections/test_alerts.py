from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.alert import AlertAcknowledged, AlertCleared, AlertRaised, alert_id
from core.kernel.outcomes import CommandUnchanged
from core.kernel.times import rfc3339
from core.services.alerts import QueueState
from core.task import AttemptEnded, TaskFailed, TaskQueued
from projections import alerts as a
from projections.catalogue import VIEWS
from tests.given import NOW_MS, History, ask, assigned, projected, submitted

pytestmark = pytest.mark.usefixtures("each_database")

QUEUE, HOST = alert_id("queue_age", "queue"), alert_id("host_lost", "h")
RAISED = AlertRaised(
    kind="queue_age",
    subject="queue",
    level="warning",
    category="performance",
    sentence="It waits.",
    value=301.0,
    threshold=300.0,
    unit="s",
)
LOST = AlertRaised(kind="host_lost", subject="h", level="error", category="swarm", sentence="Host h is lost.")
DOCUMENT: dict[str, Any] = {
    "id": QUEUE,
    "kind": "queue_age",
    "subject": "queue",
    "status": "raised",
    "level": "warning",
    "type": "performance",
    "message": "It waits.",
    "value": 301.0,
    "threshold": 300.0,
    "unit": "s",
    "times_raised": 1,
    "raised_at": rfc3339(NOW_MS),
    "acknowledged_at": None,
    "acknowledged_by": None,
    "reason": None,
    "cleared_at": None,
    "unknown": {},
}


def raised_twice() -> History:
    """Raised, another beside it, acknowledged twice, cleared, raised again: at the positions 1 to 6."""
    history = History()
    for id_, event in (
        (QUEUE, RAISED),
        (HOST, LOST),
        (QUEUE, AlertAcknowledged(by="ada", reason="mine")),
        (QUEUE, CommandUnchanged()),
        (QUEUE, AlertCleared(value=1.0)),
        (QUEUE, RAISED),
    ):
        history.commit("alert", id_, event)
        history.now_ms += 10
    return history


async def test_an_alert_is_shown_as_it_stands_and_as_it_stood(tmp_path: Path) -> None:
    acknowledged = {"acknowledged_at": rfc3339(NOW_MS + 20), "acknowledged_by": "ada", "reason": "mine"}
    async with projected(tmp_path, VIEWS, raised_twice()) as views:

        async def shown(at: int | None = None, **query: Any) -> list[Any]:
            page = await ask(views, a.list_alerts, a.ListAlerts(kind="queue_age", **query), at)
            assert page["pagination"]["total"] == len(page["alerts"])
            return list(page["alerts"])

        again = DOCUMENT | {"times_raised": 2, "raised_at": rfc3339(NOW_MS + 50)}
        assert await shown() == [again]
        assert await shown(2) == [DOCUMENT]
        assert await shown(4) == [DOCUMENT | acknowledged | {"status": "acknowledged"}]
        assert await shown(5) == []
        cleared = DOCUMENT | acknowledged | {"status": "cleared", "cleared_at": rfc3339(NOW_MS + 40)}
        assert await shown(5, status="all") == await shown(5, status="cleared") == [cleared]
        assert await shown(4, status="raised") == await shown(3, status="cleared") == []


async def test_the_newest_come_first_and_what_is_not_measured_is_unknown(tmp_path: Path) -> None:
    async with projected(tmp_path, VIEWS, raised_twice()) as views:
        page = await ask(views, a.list_alerts, a.ListAlerts(limit=1))
        assert ([alert["id"] for alert in page["alerts"]], page["position"]) == ([QUEUE], 6)
        assert page["pagination"] == {"total": 2, "limit": 1, "offset": 0, "has_more": True}
        [lost] = (await ask(views, a.list_alerts, a.ListAlerts(offset=1)))["alerts"]
        assert (lost["value"], lost["unknown"]) == (None, {"value": "it is so or not: nothing is measured"})


async def test_dead_letters_are_those_in_the_window_that_were_not_replayed(tmp_path: Path) -> None:
    history = History()
    ended = (AttemptEnded(fence=2, agent_id="a", outcome="failed", error="x"), TaskFailed(error="x", outcome="failed"))
    for id_ in ("old", "new", "replayed"):
        history.commit("task", id_, submitted(), TaskQueued())
        history.commit("task", id_, assigned())
        history.commit("task", id_, *ended)
        history.now_ms += 1_000
    history.commit("task", "again", submitted(replay_of="replayed"), TaskQueued())
    async with (
        projected(tmp_path, VIEWS, history) as views,
        views.reader(at=None, now_ms=history.now_ms + 500) as reader,
    ):
        state = await a.queue_state(reader, since_ms=NOW_MS)
        assert state == QueueState(oldest_age_s=0.5, queued=1, dead_letters=1)
        assert (await a.queue_state(reader, since_ms=NOW_MS - 1)).dead_letters == 2
