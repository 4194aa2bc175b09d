"""The log's format. The files under golden/ are commits as they lie in logs out there: they never change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from core.agent import AgentDraining, AgentRetired, AgentStopped
from core.host import HostLeft, HostLost
from core.kernel.codec import Codec, Undecodable, UnknownEvent
from core.kernel.commit import COMMIT_MAX_BYTES, Entry, Event, Moment
from core.kernel.errors import TooLarge
from core.kernel.outcomes import CommandRefused, CommandUnchanged, RefusalsSuppressed
from core.kernel.registry import Aggregate, Registry
from core.scheduling.election import SchedulerElected
from core.task import (
    AttemptEnded,
    CancelRequested,
    Retry,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskProgressed,
    TaskQueued,
    TaskScheduled,
    TaskStarted,
)
from tests.given import ALL_EVENTS, CODEC, NOW_MS, assigned, registered, spawned, started, submitted

GOLDEN = Path(__file__).parent / "golden"
RETRY = Retry(
    max_attempts=2,
    max_crashes=1,
    initial_interval_ms=10,
    backoff_multiplier=1.5,
    max_interval_ms=20,
    non_retryable=["timed_out"],
    avoid_last_agent=True,
)
# A file is named by type and schema; `bare` is the event with nothing that can be left out.
EVENTS: dict[str, Event] = {
    "task.submitted.1": submitted(
        parameters={"argv": ["echo", "héllo"], "env": {"A": {"secret": "TOKEN"}}, "memory_max_mb": 64},
        requires=["gpu"],
        retry=RETRY,
        agent_id="0a",
        name="first",
        labels={"team": "blue"},
    ),
    "task.submitted.1.bare": submitted(agent_type=None),
    "task.queued.1": TaskQueued(),
    "task.scheduled.1": TaskScheduled(not_before_ms=NOW_MS + 1),
    "task.assigned.1": assigned(term=3, attempt=2),
    "task.started.1": TaskStarted(fence=7, agent_id="a", started_ms=NOW_MS),
    "task.progressed.1": TaskProgressed(fence=7, progress=0.25, current_step="boil", steps_completed=1, total_steps=4),
    "task.progressed.1.bare": TaskProgressed(fence=7),
    "task.attempt_ended.1": AttemptEnded(
        fence=7, agent_id="a", outcome="timed_out", error="late", started_ms=NOW_MS, result={"exit_code": 1}
    ),
    "task.attempt_ended.1.bare": AttemptEnded(fence=7, agent_id="a", outcome="crashed", error="gone"),
    "task.completed.1": TaskCompleted(
        fence=7, agent_id="a", started_ms=NOW_MS, result={"exit_code": 0, "stdout": "hi\n", "n": [1, 2.5, None, True]}
    ),
    "task.failed.1": TaskFailed(error="no more", outcome="output_limit"),
    "task.cancel_requested.1": CancelRequested(grace_s=5.0, reason="enough"),
    "task.cancel_requested.1.bare": CancelRequested(grace_s=5.0),
    "task.cancelled.1": TaskCancelled(reason="enough"),
    "task.cancelled.1.bare": TaskCancelled(),
    "agent.spawned.1": spawned(slots=2),
    "agent.started.1": started(),
    "agent.stopped.1": AgentStopped(reason="gone"),
    "agent.draining.1": AgentDraining(reason="old"),
    "agent.draining.1.bare": AgentDraining(),
    "agent.retired.1": AgentRetired(),
    "host.registered.1": registered(),
    "host.lost.1": HostLost(session="s1", reason="silence"),
    "host.left.1": HostLeft(session="s1"),
    "scheduler.elected.1": SchedulerElected(leader="l"),
    "command.unchanged.1": CommandUnchanged(),
    "command.refused.1": CommandRefused(
        command="task.cancel", target="t", code="illegal_transition", sentence="No.", pointer="/task_id"
    ),
    "command.refused.1.bare": CommandRefused(command="task.cancel", target="t", code="x", sentence="No."),
    "refusals.suppressed.1": RefusalsSuppressed(count=12),
}
ENVELOPE: dict[str, Any] = {
    "id": "01a31c2b-0000-80cf-be6a-55ec248ac410",
    "command": "some.command",
    "command_id": "01a31c2b-0000-7000-8000-000000000001",
    "fingerprint": "00112233445566778899aabbccddeeff",
    "actor": "ada",
    "correlation_id": "c",
    "causation_id": "@3",
    "occurred_at": NOW_MS,
    "version": 2,
}


def entry(body: bytes, subject: str = "hive.log.task.t") -> Entry:
    return Entry(4, subject, str(ENVELOPE["id"]), body)


def written(*events: dict[str, Any]) -> bytes:
    """A commit as another version of the program might have written it."""
    return msgspec.json.encode(ENVELOPE | {"events": list(events)})


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_written_byte_for_byte_as_ever(name: str) -> None:
    on_behalf_of = None if name.endswith("bare") else "grace"
    body = CODEC.encode(events=[EVENTS[name]], on_behalf_of=on_behalf_of, **ENVELOPE)
    assert body == (GOLDEN / f"{name}.json").read_bytes()


@pytest.mark.parametrize("name", EVENTS)
def test_what_was_ever_written_reads_as_the_same_event(name: str) -> None:
    raw = (GOLDEN / f"{name}.json").read_bytes()
    commit = CODEC.decode(entry(raw))
    assert (commit.position, commit.noun, commit.aggregate_id, commit.events) == (4, "task", "t", (EVENTS[name],))
    body = msgspec.structs.asdict(commit.body)
    records = [(record.type, record.schema) for record in body.pop("events")]
    word, _, schema = name.removesuffix(".bare").rpartition(".")
    assert records == [(word, int(schema))]
    assert body == ENVELOPE | {"on_behalf_of": None if name.endswith("bare") else "grace"}


def test_every_event_that_can_be_written_has_a_golden_file_and_no_file_is_without_its_test() -> None:
    kept = {path.name.removesuffix(".json") for path in GOLDEN.iterdir()}
    assert kept == set(EVENTS)
    assert {f"{spec.name}.{spec.schema}" for spec in ALL_EVENTS.values()} <= kept


def test_several_events_of_one_commit_come_back_in_order() -> None:
    events = (submitted(), TaskQueued(), TaskCancelled())
    assert CODEC.decode(entry(CODEC.encode(events=events, **ENVELOPE))).events == events


def test_a_commit_over_its_bound_is_too_large_and_one_at_the_bound_is_not() -> None:
    frame = len(CODEC.encode(events=[TaskCancelled(reason="x")], **ENVELOPE)) - 1
    fits = TaskCancelled(reason="x" * (COMMIT_MAX_BYTES - frame))
    assert len(CODEC.encode(events=[fits], **ENVELOPE)) == COMMIT_MAX_BYTES
    with pytest.raises(TooLarge) as caught:
        CODEC.encode(events=[TaskCancelled(reason="x" * (COMMIT_MAX_BYTES - frame + 1))], **ENVELOPE)
    assert str(COMMIT_MAX_BYTES + 1) in caught.value.sentence


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"id":"x"}',
        written({"type": "task.queued", "schema": "1", "data": {}}),
        written({"type": "task.queued"}),
        written({"type": "task.started", "schema": 1, "data": {"fence": 1}}),
        written({"type": "task.started", "schema": 1, "data": {"fence": "1", "agent_id": "a", "started_ms": 1}}),
        written({"type": "task.failed", "schema": 1, "data": {"error": "x", "outcome": "tired"}}),
    ],
    ids=[
        "nothing",
        "cut",
        "a list",
        "no text",
        "no commit",
        "a wrong schema",
        "no data",
        "a field",
        "a type",
        "a word",
    ],
)
def test_what_is_no_commit_of_ours_is_undecodable_and_nothing_else_is_raised(raw: bytes) -> None:
    with pytest.raises(Undecodable):
        CODEC.decode(entry(raw))


# Events of other versions


boat = Aggregate("boat")


@boat.event("boat.launched", schema=3)
class BoatLaunched(Event, frozen=True):
    name: str
    length_cm: int
    crew: list[str]


@boat.upcast("boat.launched", schema=1)
def _metres_become_centimetres(fields: dict[str, Any]) -> dict[str, Any]:
    return {"name": fields["name"], "length_cm": int(fields["length_m"] * 100)}


@boat.upcast("boat.launched", schema=2)
def _the_crew_is_named(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "crew": []}


@boat.evolves
def _evolve(state: list[Any] | None, event: BoatLaunched, moment: Moment) -> list[Any]:
    return [*(state or []), (moment.position, event)]


BOATS = Codec(Registry([boat]))


def launched(schema: int, data: dict[str, Any]) -> Event:
    body = written({"type": "boat.launched", "schema": schema, "data": data})
    (event,) = BOATS.decode(entry(body, "hive.log.boat.b")).events
    return event


@pytest.mark.parametrize(
    ("schema", "data"),
    [
        (1, {"name": "Ada", "length_m": 4.5}),
        (2, {"name": "Ada", "length_cm": 450}),
        (3, {"name": "Ada", "length_cm": 450, "crew": []}),
    ],
)
def test_an_old_event_is_brought_step_by_step_to_what_is_folded_today(schema: int, data: dict[str, Any]) -> None:
    event = launched(schema, data)
    assert event == BoatLaunched(name="Ada", length_cm=450, crew=[])
    assert boat.evolve(None, event, Moment(4, NOW_MS)) == [(4, BoatLaunched(name="Ada", length_cm=450, crew=[]))]


def test_what_is_written_today_has_todays_schema() -> None:
    body = BOATS.encode(events=[BoatLaunched(name="Ada", length_cm=450, crew=["Bob"])], **ENVELOPE)
    (record,) = BOATS.body(body).events
    assert (record.type, record.schema, bytes(record.data)) == (
        "boat.launched",
        3,
        b'{"name":"Ada","length_cm":450,"crew":["Bob"]}',
    )


def test_an_old_event_whose_upcast_fits_no_struct_is_undecodable() -> None:
    with pytest.raises(Undecodable, match=r"boat\.launched/2"):
        launched(2, {"name": 7, "length_cm": 450})


def test_what_fits_todays_struct_by_chance_is_still_read_by_its_own_schema() -> None:
    data = {"name": "Ada", "length_cm": 450, "crew": ["Bob"]}
    assert launched(2, data) == BoatLaunched(name="Ada", length_cm=450, crew=[])
    assert isinstance(launched(4, data), UnknownEvent)


def test_an_event_of_a_newer_program_is_kept_as_it_came_and_not_folded() -> None:
    assert launched(4, {"x": 1}) == UnknownEvent(type="boat.launched", schema=4, data=msgspec.Raw(b'{"x":1}'))
    body = written({"type": "boat.sunk", "schema": 1, "data": {"y": 2}})
    assert BOATS.decode(entry(body)).events == (UnknownEvent(type="boat.sunk", schema=1, data=msgspec.Raw(b'{"y":2}')),)


def test_a_field_that_a_newer_program_added_does_not_hinder_an_older_one() -> None:
    data = {"name": "Ada", "length_cm": 450, "crew": [], "colour": "red"}
    assert launched(3, data) == BoatLaunched(name="Ada", length_cm=450, crew=[])
