"""Instruments: what is counted and measured comes out as Prometheus reads it."""

from __future__ import annotations

import re
from typing import get_args

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from adapters import telemetry
from adapters.telemetry import recorded
from adapters.telemetry.described import Kind, Measured, Reading
from adapters.telemetry.instruments import Spread, Tally
from core.kernel.commit import Body, Entry, Event
from core.task import AttemptEnded, TaskAsked, TaskCompleted, TaskQueued
from core.task.events import AttemptOutcome
from tests.given import CODEC, NOW_MS


def samples(collector: Tally | Spread | Measured) -> dict[str, float]:
    """Every line of the exposition by its name and labels."""
    text = "".join(line.decode() for line in [telemetry.generate_latest(collector)])
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_tally_counts_under_each_combination_of_label_values() -> None:
    tally = Tally("boats_total", "Boats.", ["kind", "flag"])
    assert samples(tally) == {}
    tally.add("yacht", "se")
    tally.add("yacht", "se", count=2)
    tally.add("ferry", "fi")
    assert samples(tally) == {"boats_total se yacht": 3, "boats_total fi ferry": 1}


def test_a_tally_without_labels_stands_at_zero_from_the_beginning() -> None:
    assert samples(Tally("boats_total", "Boats.")) == {"boats_total": 0}


def test_a_spread_counts_each_measurement_in_every_bucket_that_holds_it() -> None:
    spread = Spread("trip_seconds", "Trips.", (0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 7.0):
        spread.observe(seconds)
    assert samples(spread) == {
        "trip_seconds_bucket 0.1": 2,
        "trip_seconds_bucket 1.0": 3,
        "trip_seconds_bucket +Inf": 4,
        "trip_seconds_count": 4,
        "trip_seconds_sum": pytest.approx(7.65),
    }


def test_what_could_not_be_measured_is_absent_and_not_zero() -> None:
    depth = Reading("depth_metres", "How deep.")
    crew = Reading("crew", "Who is aboard.", "rank")
    measured = Measured()
    measured.put(depth, None)
    measured.put(crew, {"mate": 2, "cook": 0})
    assert samples(measured) == {"crew mate": 2, "crew cook": 0}


def test_a_request_is_counted_with_its_outcome_and_its_duration() -> None:
    before = samples(telemetry.REQUESTS), samples(telemetry.REQUEST_DURATION)
    telemetry.answered("test.greet", "test", 0.003)
    telemetry.answered("test.greet", "test", 0.004, "busy")
    after = samples(telemetry.REQUESTS)
    moved = {name: value - before[0].get(name, 0) for name, value in after.items() if value != before[0].get(name, 0)}
    assert moved == {"hivebus_requests_total test.greet ok test": 1, "hivebus_requests_total test.greet busy test": 1}
    name = "hivebus_request_duration_seconds_count test.greet test"
    assert samples(telemetry.REQUEST_DURATION)[name] == before[1].get(name, 0) + 2


def test_every_metric_has_our_prefix_a_base_unit_and_a_sentence() -> None:
    found = list(telemetry.described())
    assert len({metric.name for metric in found}) == len(found)
    for metric in found:
        assert re.fullmatch(r"hivebus_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|percent)(_|$)", metric.name)
        assert metric.doc.endswith((".", "minus it."))
        assert all(
            re.fullmatch(r"action|transport|outcome|status|priority|reason|kind", label) for label in metric.labels
        )


# --- what is recorded -------------------------------------------------------------------------------------------------


def commit(*events: Event) -> tuple[Entry, Body]:
    raw = CODEC.encode(
        events=events,
        id="01a31c2b-0000-80cf-be6a-55ec248ac410",
        command="some.command",
        command_id="01a31c2b-0000-7000-8000-000000000001",
        fingerprint="00",
        actor="ada",
        correlation_id="c",
        causation_id="@3",
        occurred_at=NOW_MS,
        version=1,
    )
    return Entry(1, "hive.log.task.t", "01a31c2b-0000-80cf-be6a-55ec248ac410", raw), CODEC.body(raw)


def moved(*commits: tuple[Entry, Body]) -> dict[str, float]:
    """What recording these commits adds to the outcomes of attempts."""
    before = samples(telemetry.ATTEMPTS_ENDED)
    recorded.count(commits)
    after = samples(telemetry.ATTEMPTS_ENDED)
    name = "hivebus_attempts_ended_total "
    return {
        key.removeprefix(name): value - before.get(key, 0)
        for key, value in after.items()
        if value != before.get(key, 0)
    }


@pytest.mark.parametrize("outcome", get_args(AttemptOutcome))
def test_each_end_of_an_attempt_is_counted_by_its_outcome(outcome: AttemptOutcome) -> None:
    ended = AttemptEnded(fence=7, agent_id="a", outcome=outcome, error="no")
    assert moved(commit(ended, TaskQueued())) == {outcome: 1}


def test_a_completed_task_ends_its_attempt_and_other_events_end_none() -> None:
    completed = TaskCompleted(fence=7, agent_id="a", started_ms=NOW_MS, result={})
    assert moved(commit(completed), commit(TaskQueued()), commit(completed)) == {"completed": 2}


def test_an_attempt_that_ends_with_a_question_is_counted() -> None:
    assert moved(commit(TaskAsked(fence=7, agent_id="a", question="Which?"))) == {"input_required": 1}


@pytest.mark.parametrize("data", [{"outcome": "eaten"}, {}, {"outcome": 7}])
def test_an_outcome_that_this_program_does_not_know_makes_no_new_series(data: dict[str, object]) -> None:
    entry, body = commit(AttemptEnded(fence=7, agent_id="a", outcome="failed", error="no"))
    raw = msgspec.Raw(msgspec.json.encode(data))
    body = msgspec.structs.replace(body, events=[msgspec.structs.replace(body.events[0], data=raw)])
    assert moved((entry, body)) == {"unknown": 1}
