"""Pauses of the queue: what waits goes on waiting, what runs goes on, and nothing is forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from core.kernel.errors import Unprocessable
from core.pause import PauseQueue, QueuePaused, QueueResumed, ResumeQueue, queue_id
from tests.given import given
from tests.scene import Scene, names

GOLDEN = [
    (QueuePaused(what="type", name="x", reason="r"), 'queue.paused/1 {"what":"type","name":"x","reason":"r"}'),
    (QueueResumed(what="all", name=""), 'queue.resumed/1 {"what":"all","name":""}'),
]
ID = queue_id("all")


def test_something_is_paused_and_resumed_once() -> None:
    paused = QueuePaused(what="type", name="x", reason="r")
    assert given().when(PauseQueue(what="type", name="x", reason="r")).then(paused).status == "paused"
    given(paused).when(PauseQueue(what="type", name="x")).then()
    assert given(paused).when(ResumeQueue(what="type", name="x")).then(QueueResumed(what="type", name="x")).status == (
        "running"
    )
    given(paused).when(ResumeQueue()).then()
    # There has to be a state that the answer can tell of.
    given().when(ResumeQueue(what="key", name="x")).then(QueueResumed(what="key", name="x"))


@pytest.mark.parametrize("fields", [{"what": "type"}, {"what": "all", "name": "x"}, {"what": "key", "name": ""}])
def test_a_pause_without_the_name_of_what_it_pauses_is_refused(fields: dict[str, Any]) -> None:
    given().when(PauseQueue(**fields)).then_raises(Unprocessable, code="pause_name", pointer="/name")
    given().when(ResumeQueue(**fields)).then_raises(Unprocessable, code="pause_name", pointer="/name")


@pytest.mark.parametrize(
    ("what", "name", "goes"),
    [("all", "", []), ("type", "slow", ["other"]), ("key", "db", ["slow"])],
)
def test_what_is_paused_waits_and_the_rest_goes(what: Any, name: str, goes: list[str]) -> None:
    scene = Scene().host().agent(slots=4).task("slow", type="slow").task("other", concurrency_key="db")
    scene.has("queue", ID, QueuePaused(what=what, name=name))
    for _ in range(2):
        assert [task for task, _ in names(scene.decides(limit=9))] == goes
        for task in goes:
            scene.fleet.put_back(task)
    scene.has("queue", ID, QueueResumed(what=what, name=name))
    assert sorted(task for task, _ in names(scene.decides())) == ["other", "slow"]
