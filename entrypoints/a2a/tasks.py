"""Our tasks in A2A's words: states, status, artifacts and history, each from what task.show and the events say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from entrypoints.a2a.messages import JSON, MESSAGE_LABEL, TEXT

SUBMITTED = "TASK_STATE_SUBMITTED"
WORKING = "TASK_STATE_WORKING"
COMPLETED = "TASK_STATE_COMPLETED"
FAILED = "TASK_STATE_FAILED"
CANCELED = "TASK_STATE_CANCELED"
INPUT_REQUIRED = "TASK_STATE_INPUT_REQUIRED"

# A task that nobody began in time has failed for its caller. Nothing of ours is rejected once it is a task: what
# cannot run is refused before it becomes one.
STATES = {
    "submitted": SUBMITTED,
    "blocked": SUBMITTED,
    "scheduled": SUBMITTED,
    "queued": SUBMITTED,
    "assigned": WORKING,
    "running": WORKING,
    "input_required": INPUT_REQUIRED,
    "completed": COMPLETED,
    "failed": FAILED,
    "expired": FAILED,
    "cancelled": CANCELED,
}
NEVER = ("TASK_STATE_REJECTED", "TASK_STATE_AUTH_REQUIRED")
FINAL = frozenset({COMPLETED, FAILED, CANCELED})
# Where a blocking caller is answered: the end, or a question to it.
SETTLED = FINAL | {INPUT_REQUIRED}

# The state after an event. None: it leaves the state alone, or the event that follows in the same commit says it.
AFTER: dict[str, str | None] = {
    "task.submitted": SUBMITTED,
    "task.blocked": SUBMITTED,
    "task.dependencies_ended": None,
    "task.approved": None,
    "task.rejected": None,
    "task.queued": SUBMITTED,
    "task.scheduled": SUBMITTED,
    "task.assigned": WORKING,
    "task.started": WORKING,
    "task.progressed": WORKING,
    "task.attempt_ended": None,
    "task.asked": INPUT_REQUIRED,
    "task.answered": None,
    "task.cancel_requested": WORKING,
    "task.completed": COMPLETED,
    "task.failed": FAILED,
    "task.cancelled": CANCELED,
    "task.expired": FAILED,
}
SAID = (
    "type",
    "executor",
    "agent_type",
    "parameters",
    "requires",
    "priority",
    "timeout_s",
    "project",
    "name",
    "labels",
)
TOLD = (
    "status",
    "type",
    "executor",
    "agent_id",
    "agent_type",
    "priority",
    "project",
    "name",
    "attempt",
    "progress",
    "current_step",
    "cancelling",
    "outcome",
    "unassignable",
    "created_at",
    "started_at",
    "completed_at",
    "updated",
)
RESULT = "result"


def statuses_of(state: str) -> list[str]:
    """Our words for a state of A2A; none for the two that no task of ours is ever in. Raises KeyError."""
    if state not in STATES.values() and state not in NEVER:
        raise KeyError(state)
    return [word for word, other in STATES.items() if other == state]


def document(
    task: Mapping[str, Any],
    *,
    history_length: int | None = None,
    artifacts: bool = True,
    modes: frozenset[str] | None = None,
) -> dict[str, Any]:
    """A Task of A2A from the answer of task.show, or of a row of task.list where neither history nor result is asked.

    `history_length` None means all that is kept (1,000 events), 0 none.
    """
    shown = {
        "id": task["id"],
        "contextId": task["correlation_id"],
        "status": status(task),
        "metadata": {name: task[name] for name in TOLD},
    }
    if artifacts and (found := artifacts_of(task, modes)):
        shown["artifacts"] = found
    if history_length != 0:
        messages = history(task)
        shown["history"] = messages if history_length is None else messages[-history_length:]
    return shown


def status(task: Mapping[str, Any]) -> dict[str, Any]:
    """The TaskStatus of a task: state, time of its last change, and a sentence where there is something to say."""
    said: dict[str, Any] = {"state": STATES[task["status"]], "timestamp": task["updated_at"]}
    sentence = _sentence(task)
    if sentence:
        said["message"] = _agent_says(task["id"], task["correlation_id"], f"{task['updated']}/status", sentence)
    return said


def _sentence(task: Mapping[str, Any]) -> str | None:
    state = STATES[task["status"]]
    if state not in FINAL and task["cancelling"]:
        return "The running attempt is being stopped."
    step = task["current_step"] if state == WORKING else None
    if state == INPUT_REQUIRED:
        # A row of task.list has no question.
        asked: str | None = task.get("question")
        return asked
    sentence: str | None = task["error"] or task["unassignable"] or step
    return sentence


def artifacts_of(task: Mapping[str, Any], modes: frozenset[str] | None = None) -> list[dict[str, Any]]:
    """The result of the last attempt as one artifact: its figures and files as data, what it printed as texts.

    Parts of a type that the caller does not take are left out.
    """
    result = task.get("result")
    if result is None:
        return []
    streams = {name: result[name] for name in ("stdout", "stderr") if isinstance(result.get(name), str)}
    rest = {name: value for name, value in result.items() if name not in streams}
    parts: list[dict[str, Any]] = [{"data": rest, "mediaType": JSON, "metadata": {"name": RESULT}}]
    for name, text in streams.items():
        if text:
            parts.append({"text": text, "mediaType": TEXT, "metadata": {"name": name}})
    kept = [part for part in parts if modes is None or part["mediaType"] in modes]
    return [{"artifactId": RESULT, "name": RESULT, "parts": kept}] if kept else []


def history(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The caller's message and then one message of the agent for each event, oldest first."""
    messages = []
    for event in task["history"]:
        if event["type"] == "task.submitted":
            messages.append(_asked(task, event))
            continue
        place = f"{event['position']}/{event['type']}"
        told = _agent_says(task["id"], task["correlation_id"], place, event["type"])
        messages.append(told | {"metadata": {name: event[name] for name in ("position", "time", "type", "actor")}})
    return messages


def _asked(task: Mapping[str, Any], event: Mapping[str, Any]) -> dict[str, Any]:
    said = {name: task[name] for name in SAID if task[name] not in (None, {}, [])}
    labels = dict(task["labels"])
    message_id = labels.pop(MESSAGE_LABEL, f"{task['id']}/{event['position']}/{event['type']}")
    said.pop("labels", None)
    return {
        "messageId": message_id,
        "contextId": task["correlation_id"],
        "taskId": task["id"],
        "role": "ROLE_USER",
        "parts": [{"data": said | ({"labels": labels} if labels else {}), "mediaType": JSON}],
        "metadata": {name: event[name] for name in ("position", "time", "type", "actor")},
    }


def _agent_says(task_id: str, context_id: str, place: str, sentence: str) -> dict[str, Any]:
    return {
        "messageId": f"{task_id}/{place}",
        "contextId": context_id,
        "taskId": task_id,
        "role": "ROLE_AGENT",
        "parts": [{"text": sentence, "mediaType": TEXT}],
    }


# --- updates ----------------------------------------------------------------------------------------------------------


def status_update(task: Mapping[str, Any]) -> dict[str, Any]:
    """A status update from a task's document."""
    return {
        "statusUpdate": {
            "taskId": task["id"],
            "contextId": task["correlation_id"],
            "status": status(task),
            "metadata": {"position": task["updated"], "status": task["status"]},
        }
    }


def artifact_update(task: Mapping[str, Any], artifact: dict[str, Any]) -> dict[str, Any]:
    """An artifact update: the artifact comes in one piece."""
    return {
        "artifactUpdate": {
            "taskId": task["id"],
            "contextId": task["correlation_id"],
            "artifact": artifact,
            "append": False,
            "lastChunk": True,
        }
    }


def event_update(task: Mapping[str, Any], event: Mapping[str, Any]) -> dict[str, Any] | None:
    """A status update of a task from one event {position, type, time, data}; None where it changes no status.

    An event that this table does not know is told with the state that it leaves alone: WORKING.
    """
    state = AFTER.get(event["type"], WORKING)
    if state is None:
        return None
    said: dict[str, Any] = {"state": state, "timestamp": event["time"]}
    sentence = _sentence_of(event)
    if sentence:
        place = f"{event['position']}/{event['type']}"
        said["message"] = _agent_says(task["id"], task["correlation_id"], place, sentence)
    return {
        "statusUpdate": {
            "taskId": task["id"],
            "contextId": task["correlation_id"],
            "status": said,
            "metadata": {"position": event["position"], "type": event["type"]} | _progress_of(event),
        }
    }


def _sentence_of(event: Mapping[str, Any]) -> str | None:
    if event["type"] == "task.cancel_requested":
        return "The running attempt is being stopped."
    if event["type"] == "task.scheduled":
        return "The attempt failed; another follows."
    if event["type"] == "task.asked":
        return str(event["data"]["question"])
    step: str | None = event["data"].get("current_step")
    return step


def _progress_of(event: Mapping[str, Any]) -> dict[str, Any]:
    names = ("progress", "current_step", "steps_completed", "total_steps")
    return {name: event["data"][name] for name in names if event["data"].get(name) is not None}
