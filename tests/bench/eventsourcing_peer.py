"""The yardstick: the `eventsourcing` library on SQLite, with the same events and the same read model as our queue.

Its projection writes each event in a transaction of its own, with a tracking record. Its SQLite recorder cannot push,
so the events are pulled as its own `Follower` pulls them, in pages of 1,000 instead of its 10, which favours it.
Run as a program of its own (`python -m tests.bench.eventsourcing_peer EVENTS FOLDER`): the last line is JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from eventsourcing.application import Application
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import InfrastructureFactory, Tracking
from eventsourcing.projection import Projection
from eventsourcing.sqlite import SQLiteTrackingRecorder
from eventsourcing.utils import Environment

PAGE = 1_000
SAVED_TOGETHER = 100


class Task(Aggregate):
    class Submitted(Aggregate.Created):
        type: str
        executor: str
        parameters: dict[str, Any]
        priority: int

    @event(Submitted)
    def __init__(self, type: str, executor: str, parameters: dict[str, Any], priority: int) -> None:  # noqa: A002
        self.priority = priority

    class Queued(Aggregate.Event):
        pass

    @event(Queued)
    def queue(self) -> None:
        pass

    class Assigned(Aggregate.Event):
        agent_id: str
        host_id: str
        attempt: int

    @event(Assigned)
    def assign(self, agent_id: str, host_id: str, attempt: int) -> None:
        pass

    class Completed(Aggregate.Event):
        agent_id: str
        result: dict[str, Any]

    @event(Completed)
    def complete(self, agent_id: str, result: dict[str, Any]) -> None:
        pass


class Tasks(Application):  # type: ignore[type-arg]
    pass


class QueueTable(SQLiteTrackingRecorder):
    def construct_create_table_statements(self) -> list[str]:
        return [
            *super().construct_create_table_statements(),
            "CREATE TABLE IF NOT EXISTS queue (id TEXT PRIMARY KEY, state TEXT NOT NULL, type TEXT NOT NULL, "
            "priority INTEGER NOT NULL, since_ms INTEGER NOT NULL)",
        ]

    def change(self, statement: str, values: tuple[Any, ...], tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(statement, values)


class Queue(Projection[QueueTable]):
    name = "queue"

    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        raise NotImplementedError

    @process_event.register
    def _(self, e: Task.Submitted, tracking: Tracking) -> None:
        values = (str(e.originator_id), "submitted", e.type, e.priority, _ms(e))
        self.view.change("INSERT INTO queue VALUES (?, ?, ?, ?, ?)", values, tracking)

    @process_event.register
    def _(self, e: Task.Queued, tracking: Tracking) -> None:
        self._becomes("queued", e, tracking)

    @process_event.register
    def _(self, e: Task.Assigned, tracking: Tracking) -> None:
        self._becomes("held", e, tracking)

    @process_event.register
    def _(self, e: Task.Completed, tracking: Tracking) -> None:
        self.view.change("DELETE FROM queue WHERE id = ?", (str(e.originator_id),), tracking)

    def _becomes(self, state: str, e: Any, tracking: Tracking) -> None:
        statement = "UPDATE queue SET state = ?, since_ms = ? WHERE id = ?"
        self.view.change(statement, (state, _ms(e), str(e.originator_id)), tracking)


def _ms(e: Any) -> int:
    return int(e.timestamp.timestamp() * 1000)


def a_task() -> Task:
    task = Task("bench", "command", {"argv": ["true"]}, 5)
    task.queue()
    task.assign("agent", "host", 1)
    task.complete("agent", {"exit_code": 0, "stdout": "done\n", "stderr": "", "duration_s": 0.004})
    return task


def run(events: int, folder: Path) -> dict[str, float]:
    """Events per second appended (a hundred tasks in a transaction) and caught up."""
    names = {"SQLITE_DBNAME": str(folder / "events.db"), "QUEUE_SQLITE_DBNAME": str(folder / "queue.db")}
    env = {"PERSISTENCE_MODULE": "eventsourcing.sqlite"} | names
    app = Tasks(env)
    began = time.perf_counter()
    for _ in range(0, events, 4 * SAVED_TOGETHER):
        app.save(*(a_task() for _ in range(SAVED_TOGETHER)))
    appended_s = time.perf_counter() - began
    table = InfrastructureFactory.construct(env=Environment("queue", env)).tracking_recorder(QueueTable)
    queue = Queue(table)
    began = time.perf_counter()
    seen = 0
    while page := app.recorder.select_notifications(seen, PAGE, inclusive_of_start=False):
        for notification in page:
            queue.process_event(app.mapper.to_domain_event(notification), Tracking(app.name, notification.id))
        seen = page[-1].id
    caught_up_s = time.perf_counter() - began
    return {"events": seen, "append_per_s": seen / appended_s, "catch_up_per_s": seen / caught_up_s}


def measured(events: int) -> dict[str, float]:
    """The same in a process of its own, as the library would run."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "tests.bench.eventsourcing_peer", str(events), folder]
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), Path(sys.argv[2]))))
