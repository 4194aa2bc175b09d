"""What the methods do when something takes long: actions made by hand, in a loop of their own."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Struct

from adapters.memory.store import MemoryStore
from core.kernel.errors import NotYet, TooMany
from core.services.dispatch import Principal
from core.services.positions import PositionGate
from entrypoints.a2a import methods
from entrypoints.a2a.methods import Agent
from entrypoints.a2a.tail import Tail
from entrypoints.calls import Action, Calls, CommandOptions, QueryOptions
from tests.given import CODEC

OWNER = Principal("key:test")
SENT = {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"data": {"type": "x"}}]}}
RUNNING: dict[str, Any] = {
    **dict.fromkeys(("type", "executor", "agent_id", "agent_type", "priority", "project", "name", "attempt")),
    **dict.fromkeys(("progress", "current_step", "outcome", "unassignable", "error", "result")),
    **dict.fromkeys(("created_at", "started_at", "completed_at", "updated_at")),
    "id": "t",
    "correlation_id": "c",
    "status": "running",
    "cancelling": False,
    "updated": 9,
    "position": 9,
    "history": [],
}


class Submit(Struct, frozen=True):
    """Submit."""

    type: str


class Show(Struct, frozen=True):
    """Show."""

    task_id: str


class Hand:
    """Two actions: what was submitted, and what is shown of it."""

    def __init__(self, *shown: dict[str, Any] | Exception) -> None:
        self.shown = list(shown)
        self.submitted = 0
        self.asked: list[int] = []

    def agent(self, **bounds: int) -> Agent:
        actions = (
            Action(
                name="task.submit", doc="", struct=Submit, options=CommandOptions, read_only=False, carry=self._submit
            ),
            Action(name="task.show", doc="", struct=Show, options=QueryOptions, read_only=True, carry=self._show),
        )
        tail = Tail(MemoryStore(), CODEC, PositionGate(7), lambda: False, **bounds)
        return Agent(Calls(actions), tail, lambda: False)

    async def _submit(self, _command: Submit, _options: CommandOptions, _principal: Principal) -> dict[str, Any]:
        self.submitted += 1
        return {"task_id": "t", "position": 5, "status": "queued"}

    async def _show(self, _query: Show, options: QueryOptions, _principal: Principal) -> dict[str, Any]:
        self.asked.append(options.min_position)
        answer = self.shown.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_when_the_time_is_over_the_task_is_answered_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "BLOCK_S_MAX", 0.0)
    hand = Hand(RUNNING | {"status": "queued"}, RUNNING)
    task = (await hand.agent().call("SendMessage", SENT, OWNER))["task"]
    assert task["status"]["state"] == "TASK_STATE_WORKING"


async def test_a_snapshot_is_not_older_than_where_the_following_begins() -> None:
    # The submit stands at 5, the tail begins at 7: what is shown has to have reached 7, or 6 and 7 were told by nobody.
    hand = Hand(RUNNING | {"status": "completed"})
    updates = [update async for update in hand.agent().stream("SendStreamingMessage", SENT, OWNER)]
    assert [next(iter(update or {})) for update in updates] == ["task"]
    assert hand.asked == [7]


async def test_whoever_finds_no_place_to_wait_has_submitted_nothing() -> None:
    hand = Hand()
    with pytest.raises(TooMany):
        await hand.agent(seats_max=0).call("SendMessage", SENT, OWNER)
    assert hand.submitted == 0


async def test_views_that_are_late_are_told_and_no_place_is_lost() -> None:
    hand = Hand(NotYet("late"), RUNNING | {"status": "failed"})
    agent = hand.agent(seats_max=1)
    with pytest.raises(NotYet):
        await agent.call("SendMessage", SENT, OWNER)
    assert (await agent.call("SendMessage", SENT, OWNER))["task"]["status"]["state"] == "TASK_STATE_FAILED"
