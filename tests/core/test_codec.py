"""The log's format. What is golden lies in logs out there, and never changes.

The files under golden/ are whole commits. The other events are declared in the tests of their aggregates, under GOLDEN.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core.kernel.codec import Codec, Undecodable, UnknownEvent
from core.kernel.commit import COMMIT_MAX_BYTES, Entry, Event, Moment
from core.kernel.errors import TooLarge
from core.kernel.registry import Aggregate, Registry
from core.task import (
    Retry,
    TaskCancelled,
    TaskQueued,
)
from tests.given import ALL_EVENTS, CODEC, NOW_MS, submitted

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
# Whole commits; `bare` is the one with nothing that can be left out.
COMMITS: dict[str, Event] = {
    "task.submitted.1": submitted(
        parameters={"argv": ["echo", "héllo"], "env": {"A": {"secret": "TOKEN"}}, "memory_max_mb": 64},
        requires=["gpu"],
        retry=RETRY,
        agent_id="0a",
        name="first",
        labels={"team": "blue"},
    ),
    "task.submitted.1.bare": submitted(agent_type=None),
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


def declared() -> dict[str, Event]:
    """What the tests of the aggregates hold under GOLDEN: the text of each record, and the event that it is."""
    found: dict[str, Event] = {}
    for path in sorted(GOLDEN.parent.glob("test_*.py")):
        if path != Path(__file__) and "\nGOLDEN = [" in path.read_text("utf-8"):
            pairs = importlib.import_module(f"tests.core.{path.stem}").GOLDEN
            found |= {text: event for event, text in pairs}
    return found


DECLARED = declared()


def parted(text: str) -> tuple[str, int, bytes]:
    """Type, schema and data of a record: `agent.retired/1 {}`."""
    name, _, data = text.partition(" ")
    word, _, schema = name.partition("/")
    return word, int(schema), data.encode()


@pytest.mark.parametrize("name", COMMITS)
def test_a_commit_is_written_byte_for_byte_as_ever(name: str) -> None:
    on_behalf_of = None if name.endswith("bare") else "grace"
    body = CODEC.encode(events=[COMMITS[name]], on_behalf_of=on_behalf_of, **ENVELOPE)
    assert body == (GOLDEN / f"{name}.json").read_bytes()


@pytest.mark.parametrize("name", COMMITS)
def test_a_commit_that_was_ever_written_reads_as_the_same_one(name: str) -> None:
    raw = (GOLDEN / f"{name}.json").read_bytes()
    commit = CODEC.decode(entry(raw))
    assert (commit.position, commit.noun, commit.aggregate_id, commit.events) == (4, "task", "t", (COMMITS[name],))
    body = msgspec.structs.asdict(commit.body)
    records = [(record.type, record.schema) for record in body.pop("events")]
    assert records == [("task.submitted", 1)]
    assert body == ENVELOPE | {"on_behalf_of": None if name.endswith("bare") else "grace"}


def test_every_file_of_a_commit_has_its_test() -> None:
    assert {path.name.removesuffix(".json") for path in GOLDEN.iterdir()} == set(COMMITS)


@pytest.mark.parametrize("text", [text for text in DECLARED if ALL_EVENTS[parted(text)[0]].schema == parted(text)[1]])
def test_an_event_is_written_byte_for_byte_as_ever(text: str) -> None:
    """One of an older schema is only read: what is written today has today's."""
    word, schema, data = parted(text)
    body = CODEC.encode(events=[DECLARED[text]], **ENVELOPE)
    assert body.endswith(
        b',"version":2,"events":[{"type":"%b","schema":%d,"data":%b}]}' % (word.encode(), schema, data)
    )


@pytest.mark.parametrize("text", DECLARED)
def test_what_was_ever_written_reads_as_the_same_event(text: str) -> None:
    word, schema, data = parted(text)
    raw = written({"type": word, "schema": schema, "data": msgspec.Raw(data)})
    assert CODEC.decode(entry(raw)).events == (DECLARED[text],)


def test_every_event_and_schema_that_was_ever_written_is_declared() -> None:
    known = {("task.submitted", 1)} | {parted(text)[:2] for text in DECLARED}
    assert known == {(word, schema) for word, spec in ALL_EVENTS.items() for schema in range(1, spec.schema + 1)}


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
