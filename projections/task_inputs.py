"""What came to a task from elsewhere after it was submitted: results of others, approvals, questions and answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import JSON, Column, MetaData, String, Table

from core import task as t
from core.kernel.commit import Commit, Event
from core.kernel.times import rfc3339
from core.projection import Row, RowView
from projections.view import versioned

metadata = MetaData()

task_inputs = Table(
    "task_inputs",
    metadata,
    Column("id", String(36), primary_key=True),
    *versioned(),
    Column("inputs", JSON, nullable=False),
    Column("approvals", JSON, nullable=False),
    Column("question", String(4000)),
    Column("choices", JSON),
    Column("answers", JSON, nullable=False),
)

EMPTY: Row = {"inputs": {}, "approvals": [], "question": None, "choices": None, "answers": []}


class TaskInputs(RowView):
    """A row per task that got something, beside the rows of its life, so that those stay small."""

    name = "task_inputs"
    table = task_inputs
    nouns = frozenset({"task"})

    def touched(self, commit: Commit, event: Event) -> Iterable[str]:
        """The task itself, by the events that bring something."""
        brings = t.DependenciesEnded | t.TaskApproved | t.TaskRejected | t.TaskAsked | t.TaskAnswered
        return (commit.aggregate_id,) if isinstance(event, brings) else ()

    def fold(self, row: Row | None, commit: Commit, event: Event) -> Row | None:
        """One arm per event."""
        before = row if row is not None else {"id": commit.aggregate_id, **EMPTY}
        match event:
            case t.DependenciesEnded():
                return {**before, "inputs": {**before["inputs"], **(event.inputs or {})}} if event.inputs else row
            case t.TaskApproved() | t.TaskRejected():
                return {**before, "approvals": [*before["approvals"], _word(commit, event)]}
            case t.TaskAsked():
                return {**before, "question": event.question, "choices": event.choices}
            case t.TaskAnswered():
                answer = {"question": event.question, "answer": event.answer, **_said(commit, commit.body.actor)}
                return {**before, "question": None, "choices": None, "answers": [*before["answers"], answer]}
            case _:
                return row


def _word(commit: Commit, event: t.TaskApproved | t.TaskRejected) -> dict[str, Any]:
    approved = isinstance(event, t.TaskApproved)
    items = event.items if isinstance(event, t.TaskApproved) else []
    return {"approved": approved, "reason": event.reason, "items": items, **_said(commit, event.by)}


def _said(commit: Commit, actor: str) -> dict[str, Any]:
    return {"by": actor, "at": rfc3339(commit.body.occurred_at)}
