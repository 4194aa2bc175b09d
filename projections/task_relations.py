"""What a task waits for, what came of it, and what the task is a part of: as one document of `task.show`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select

from projections.task_inputs import EMPTY, task_inputs
from projections.tasks import specs, tasks
from projections.view import Reader, true_at

OPEN = "open"


async def relations_of(reader: Reader, row: Mapping[str, Any]) -> dict[str, Any]:
    """Dependencies with the state of each, what it is blocked by, inputs, question and answers, parent and children."""
    task_id = row["id"]
    found = await reader.rows(
        select(task_inputs).where(task_inputs.c.id == task_id, true_at(task_inputs, reader.at, selective=False))
    )
    got = found[0] if found else EMPTY
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


async def _dependencies(reader: Reader, row: Mapping[str, Any], got: Mapping[str, Any]) -> list[dict[str, Any]]:
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
        documents.append(
            {
                "type": item.get("type", "finish"),
                "task": item.get("task"),
                "status": status,
                "state": state,
                "into": item.get("into"),
                "from": item.get("from"),
                "by": item.get("by", []),
            }
        )
    return documents
