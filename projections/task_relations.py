"""What a task waits for, what came of it, and what the task is a part of: as one document of `task.show`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypedDict, cast

from msgspec import Meta
from sqlalchemy import func, select

from core.kernel.answers import Time
from projections.task_inputs import EMPTY, task_inputs
from projections.tasks import Status, specs, tasks
from projections.view import Reader, true_at

OPEN = "open"

# `from` is a word of Python's own, so this one is not written as a class.
WaitsFor = TypedDict(
    "WaitsFor",
    {
        "type": Literal["finish", "data", "approval"],
        "task": str | None,
        "status": Annotated[Status | None, Meta(description="The other task's; null for an approval.")],
        "state": Annotated[
            Literal["open", "approved", "completed", "failed", "cancelled", "expired"],
            Meta(description="Open until the other task has ended or the approval is given."),
        ],
        "into": str | None,
        "from": str | None,
        "by": list[str],
    },
)
WaitsFor.__doc__ = "One item of depends_on, and what became of it."


class Word(TypedDict):
    """Somebody's word on an approval; `items` are the places in depends_on that it is for."""

    approved: bool
    reason: str
    items: list[int]
    by: str
    at: Time


class Answered(TypedDict):
    """A question that an attempt asked, and what it was told."""

    question: str
    answer: Any
    by: str
    at: Time


class Relations(TypedDict):
    """What a task waits for, what came to it, what it asks, and how many parts it has."""

    depends_on: list[WaitsFor]
    on_dependency_failure: Literal["cancel", "run", "fail"] | None
    blocked_by: Annotated[list[str], Meta(description="The tasks that it waits for now; `approval` for a word.")]
    inputs: Annotated[dict[str, Any], Meta(description="What of the results of others goes where in its parameters.")]
    approvals: list[Word]
    question: Annotated[str | None, Meta(description="What it asks now.")]
    choices: list[str] | None
    answers: list[Answered]
    children: Annotated[int, Meta(ge=0, description="How many tasks are parts of it.")]


async def relations_of(reader: Reader, row: Mapping[str, Any]) -> Relations:
    """Dependencies with the state of each, what it is blocked by, inputs, question and answers, parent and children."""
    task_id = row["id"]
    got = await _got(reader, task_id)
    depends_on = await _dependencies(reader, row, got)
    children = await reader.rows(
        select(func.count().label("n"))
        .select_from(tasks)
        .join(specs, specs.c.id == tasks.c.id)
        .where(specs.c.parent == task_id, true_at(tasks, reader.at, selective=False))
    )
    blocked = row["status"] == "blocked"
    return {
        "depends_on": depends_on,
        "on_dependency_failure": row["on_dependency_failure"],
        "blocked_by": [item["task"] or "approval" for item in depends_on if blocked and item["state"] == OPEN],
        "inputs": got["inputs"],
        "approvals": got["approvals"],
        "question": got["question"] if row["status"] == "input_required" else None,
        "choices": got["choices"] if row["status"] == "input_required" else None,
        "answers": got["answers"],
        "children": children[0]["n"],
    }


async def waits_of(reader: Reader, row: Mapping[str, Any]) -> list[WaitsFor]:
    """The items of depends_on that are still open."""
    items = await _dependencies(reader, row, await _got(reader, row["id"]))
    return [item for item in items if item["state"] == OPEN]


async def question_of(reader: Reader, row: Mapping[str, Any]) -> str | None:
    """What the task asked last, and nobody has answered."""
    question: str | None = (await _got(reader, row["id"]))["question"]
    return question


async def _got(reader: Reader, task_id: str) -> Mapping[str, Any]:
    found = await reader.rows(
        select(task_inputs).where(task_inputs.c.id == task_id, true_at(task_inputs, reader.at, selective=False))
    )
    return found[0] if found else EMPTY


async def _dependencies(reader: Reader, row: Mapping[str, Any], got: Mapping[str, Any]) -> list[WaitsFor]:
    """Each item of depends_on; `state` is open until the other task has ended or the approval is given."""
    items = row["depends_on"] or []
    ids = {item["task"] for item in items if item.get("task")}
    statuses = {}
    if ids:
        statement = select(tasks.c.id, tasks.c.status).where(
            tasks.c.id.in_(sorted(ids)), true_at(tasks, reader.at, selective=False)
        )
        statuses = {found["id"]: found["status"] for found in await reader.rows(statement)}
    given = {index for word in got["approvals"] for index in word["items"]}
    documents = []
    for index, item in enumerate(items):
        status = statuses.get(item.get("task"))
        if item.get("type") == "approval":
            state = "approved" if index in given else OPEN
        else:
            state = status if status in ("completed", "failed", "cancelled", "expired") else OPEN
        document = {
            "type": item.get("type", "finish"),
            "task": item.get("task"),
            "status": status,
            "state": state,
            "into": item.get("into"),
            "from": item.get("from"),
            "by": item.get("by", []),
        }
        documents.append(cast("WaitsFor", document))
    return documents
