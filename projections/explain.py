"""Why: why this agent got a task, or what a task waits for. From the views alone, so as of any position."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal, NotRequired, TypedDict

from msgspec import Struct
from sqlalchemy import case, func, select

from core.kernel.answers import Position, Time, Unknown
from core.kernel.errors import NotFound
from core.kernel.registry import QuerySpec, Route, doc_of
from core.kernel.times import rfc3339
from core.limit import limit_id
from core.scheduling.eligibility import Requirement, can_do, why_nobody
from core.scheduling.entries import AGE_STEP_MS
from core.task import Routing
from projections.agents import agents, candidates
from projections.budgets import sentence_of, spent_of
from projections.limits import limits
from projections.pauses import pause_of, pauses_of
from projections.statistics import SAMPLES_MIN, attempts
from projections.task_relations import WaitsFor, question_of, waits_of
from projections.tasks import specs, tasks
from projections.view import Reader, true_at

WINDOW_S = 60


class ExplainTask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Explain why an agent got a task, or what the task waits for, its place and how long that may take."""

    task_id: str


class Reason(TypedDict):
    """Something that a task waits for; the numbers are those of the limit that holds it back.

    `task` is the one that it depends on, `by` are those who may approve it (empty: anybody who may send commands),
    `renews_at` is when a spent budget begins anew (null: when it is raised).
    """

    kind: Literal[
        "agent", "slot", "concurrency", "rate", "budget", "time", "pause", "turn", "dependency", "approval", "question"
    ]
    sentence: str
    running: NotRequired[int]
    limit: NotRequired[int]
    rate_per_s: NotRequired[float]
    burst: NotRequired[int]
    task: NotRequired[str]
    by: NotRequired[list[str]]
    renews_at: NotRequired[Time | None]


class Ahead(TypedDict):
    """How many wait before it in its own fairness key, and how many wait in all."""

    in_fairness_key: int
    in_queue: int


class Basis(TypedDict):
    """What an estimate was measured on."""

    seconds: int
    samples: int


class Chosen(TypedDict):
    """The newest choice of an agent."""

    agent_id: str | None
    attempt: int
    assigned_at: Time | None
    because: str
    routing: Routing | None


class Explanation(TypedDict):
    """Why a task waits, or why its agent got it."""

    task_id: str
    status: str
    waits_for: list[Reason]
    ahead: Ahead | None
    estimated_start_s: float | None
    basis: NotRequired[Basis]
    agent: Chosen | None
    unknown: Unknown
    position: Position


async def explain_task(query: ExplainTask, reader: Reader) -> Explanation:
    """What the views say of its place, as of the reader's position."""
    statement = (
        select(tasks, specs)
        .join(specs, specs.c.id == tasks.c.id)
        .where(true_at(tasks, reader.at, selective=False), tasks.c.id == query.task_id)
    )
    rows = await reader.rows(statement)
    if not rows:
        raise NotFound(
            f"There is no task {query.task_id}.", code="unknown_task", remedy="List what there is: `hivebus task list`."
        )
    row = rows[0]
    answer: Explanation = {
        "task_id": query.task_id,
        "status": row["status"],
        "waits_for": [],
        "ahead": None,
        "estimated_start_s": None,
        "agent": _agent(row),
        "unknown": dict.fromkeys(("ahead", "estimated_start_s"), "it does not wait for its turn"),
        "position": reader.position,
    }
    if row["status"] in ("queued", "submitted"):
        await _wait_explained(answer, row, reader)
    elif row["status"] == "scheduled":
        comes = f"its time comes at {rfc3339(row['not_before_ms'])}"
        answer["waits_for"] = [{"kind": "time", "sentence": comes}, *await _paused(row, reader)]
    elif row["status"] == "blocked":
        answer["waits_for"] = [_dependency(item) for item in await waits_of(reader, row)]
    elif row["status"] == "input_required":
        asked = f"it asked {await question_of(reader, row)!r}, and nobody has answered"
        answer["waits_for"] = [{"kind": "question", "sentence": asked}]
    return answer


def _dependency(item: WaitsFor) -> Reason:
    """What an open item of depends_on waits for."""
    if item["task"] is None:
        named = " or ".join(item["by"]) or "anybody who may send commands"
        return {"kind": "approval", "sentence": f"it waits for the approval of {named}", "by": item["by"]}
    what = "the result" if item["type"] == "data" else "the end"
    sentence = f"it waits for {what} of task {item['task']}, which is {item['status'] or 'not known here'}"
    return {"kind": "dependency", "sentence": sentence, "task": item["task"]}


async def _paused(row: Mapping[str, Any], reader: Reader) -> list[Reason]:
    """The pause that holds it back, if any does."""
    pause = pause_of(row, await pauses_of(reader))
    if pause is None:
        return []
    what = {"all": "the queue", "type": f"the task type {pause['name']!r}", "key": f"concurrency_key {pause['name']!r}"}
    why = f": {pause['reason']}" if pause["reason"] else ""
    return [{"kind": "pause", "sentence": f"{what[pause['what']]} is paused since {pause['since']}{why}"}]


def _agent(row: Mapping[str, Any]) -> Chosen | None:
    """The newest choice: who, and where types were compared, the draw with its scores."""
    routing = row["routing"]
    if row["assigned_ms"] is None:
        return None
    chosen = "the only agent type that was free" if routing is None else "the fewest drawn milliseconds per success"
    return {
        "agent_id": row["agent_id"],
        "attempt": row["attempt"],
        "assigned_at": rfc3339(row["assigned_ms"]),
        "because": chosen,
        "routing": routing,
    }


async def _wait_explained(answer: Explanation, row: Mapping[str, Any], reader: Reader) -> None:
    need = Requirement(row["executor"], tuple(row["requires"]), row["agent_type"], row["pinned_agent"])
    known = await candidates(reader)
    nobody = why_nobody(need, known)
    if nobody is not None:
        answer["waits_for"] = [{"kind": "agent", "sentence": nobody}]
        answer["unknown"] = dict.fromkeys(("ahead", "estimated_start_s"), "nobody can take it")
        return
    reasons = [*await _paused(row, reader), *[reason async for reason in _held_back(row, reader)]]
    able = [agent.id for agent in known if agent.status == "idle" and can_do(need, agent)]
    free = await _free_slots(able, reader)
    if not able:
        away = "every agent that can do it is starting, stopped or without a host"
        reasons.append({"kind": "agent", "sentence": away})
    elif free <= 0:
        taken = f"all slots of the {len(able)} agent(s) that can do it are taken"
        reasons.append({"kind": "slot", "sentence": taken})
    elif not reasons:
        soon = "an agent has a free slot: its turn comes with the next decision"
        reasons.append({"kind": "turn", "sentence": soon})
    answer["waits_for"] = reasons
    answer["ahead"] = ahead = await _ahead(row, reader)
    answer["unknown"] = {}
    await _estimate(answer, ahead["in_queue"], reader)


async def _held_back(row: Mapping[str, Any], reader: Reader) -> AsyncIterator[Reason]:
    """The budgets and limits that may hold it back, with what they count."""
    for budget in await spent_of(reader, row["project"]):
        yield {"kind": "budget", "sentence": sentence_of(budget), "renews_at": budget["renews_at"]}
    key = row["concurrency_key"]
    if key is not None:
        limit = await _limit(key, reader)
        allowed = 1 if limit is None or limit["concurrency"] is None else limit["concurrency"]
        held = (
            select(func.count().label("n"))
            .select_from(tasks.join(specs, specs.c.id == tasks.c.id))
            .where(
                true_at(tasks, reader.at),
                tasks.c.status.in_(("assigned", "running")),
                specs.c.concurrency_key == key,
            )
        )
        running = (await reader.rows(held))[0]["n"]
        if running >= allowed:
            sentence = f"{running} of {allowed} with concurrency_key {key!r} run"
            yield {"kind": "concurrency", "sentence": sentence, "running": running, "limit": allowed}
    key = row["rate_key"]
    limit = await _limit(key, reader) if key is not None else None
    if limit is not None and limit["rate_per_s"] is not None:
        sentence = f"rate_key {key!r} lets {limit['rate_per_s']:g} start a second, {limit['burst']} at once"
        yield {"kind": "rate", "sentence": sentence, "rate_per_s": limit["rate_per_s"], "burst": limit["burst"]}


async def _limit(key: str, reader: Reader) -> Mapping[str, Any] | None:
    rows = await reader.rows(
        select(limits).where(limits.c.id == limit_id(key), true_at(limits, reader.at, selective=False))
    )
    return rows[0] if rows else None


async def _free_slots(able: list[str], reader: Reader) -> int:
    statement = select(agents.c.id, agents.c.slots, agents.c.busy_slots).where(true_at(agents, reader.at))
    wanted = set(able)
    return sum(row["slots"] - row["busy_slots"] for row in await reader.rows(statement) if row["id"] in wanted)


async def _ahead(row: Mapping[str, Any], reader: Reader) -> Ahead:
    """How many wait before it in its own fairness key, and how many wait in all."""
    key = tasks.c.created_ms - tasks.c.priority * AGE_STEP_MS
    own = row["created_ms"] - row["priority"] * AGE_STEP_MS
    flow = func.coalesce(specs.c.fairness_key, specs.c.project)
    same = (specs.c.actor == row["actor"]) & (flow == (row["fairness_key"] or row["project"]))
    statement = (
        select(
            func.count().label("in_queue"),
            func.coalesce(func.sum(case((same & (key < own), 1), else_=0)), 0).label("in_flow"),
        )
        .select_from(tasks.join(specs, specs.c.id == tasks.c.id))
        .where(true_at(tasks, reader.at), tasks.c.status == "queued", tasks.c.id != row["id"])
    )
    found = (await reader.rows(statement))[0]
    return {"in_fairness_key": int(found["in_flow"]), "in_queue": int(found["in_queue"])}


async def _estimate(answer: Explanation, ahead: int, reader: Reader) -> None:
    """Seconds until it starts, if everything that waits now came first at the pace of the last minute."""
    statement = select(func.count().label("n")).where(attempts.c.ended_ms > reader.now_ms - WINDOW_S * 1000)
    if reader.at is not None:
        statement = statement.where(attempts.c.position <= reader.at)
    samples = (await reader.rows(statement))[0]["n"]
    if samples < SAMPLES_MIN:
        reason = f"{samples} attempts ended in the last {WINDOW_S} s: fewer than {SAMPLES_MIN} say nothing"
        answer["unknown"] = {"estimated_start_s": reason}
        return
    answer["estimated_start_s"] = round((ahead + 1) * WINDOW_S / samples, 3)
    answer["basis"] = {"seconds": WINDOW_S, "samples": samples}


QUERIES = (
    QuerySpec(
        "task.explain", ExplainTask, explain_task, Route("GET", "/api/tasks/{task_id}/explain"), doc_of(ExplainTask)
    ),
)
