"""The methods of A2A 1.0 over the actions that every other way in has: task.submit, show, list and cancel."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from core.kernel.errors import Gone, HivebusError, KeyReused, Refused, UnknownAction, Unprocessable
from core.services.dispatch import Principal
from entrypoints.a2a import tasks
from entrypoints.a2a.errors import PushNotificationNotSupported, TaskNotCancelable, UnsupportedOperation
from entrypoints.a2a.messages import (
    MESSAGE_LABEL,
    Configuration,
    Get,
    List,
    Message,
    One,
    Send,
    fitted,
    modes_of,
    submission,
)
from entrypoints.a2a.tail import LOOK_UP_S, Seat, Tail
from entrypoints.calls import Calls

TRANSPORT = "a2a"
PAGE_DEFAULT = 50
# The listener answers within 60 s or not at all; what takes longer is followed, or asked for again.
BLOCK_S_MAX = 50.0
# A running attempt has 5 s to stop by itself.
CANCEL_S_MAX = 8.0
PUSH = frozenset(
    f"{verb}TaskPushNotificationConfig{more}"
    for verb, more in (("Create", ""), ("Get", ""), ("List", "s"), ("Delete", ""))
)
STREAMS = frozenset({"SendStreamingMessage", "SubscribeToTask"})
_TOKEN = re.compile(r"([0-9]{1,18})-([0-9]{1,18})").fullmatch
# Where the fields of the actions stand in what callers of A2A send.
_SUBMITTED = (
    ("/idempotency_key", "/message/messageId"),
    ("/correlation_id", "/message/contextId"),
    (f"/labels/{MESSAGE_LABEL}", "/message/messageId"),
    ("", "/message/parts/0/data"),
)
_LISTED = (("/updated_since", "/statusTimestampAfter"), ("/at", "/pageToken"), ("/before", "/pageToken"))


Updates = AsyncGenerator[dict[str, Any] | None, None]
"""What goes out on a stream, None now and then while nothing happens."""


class Agent:
    """Answers calls, and opens streams. One instance serves all callers of a listener."""

    def __init__(self, calls: Calls, tail: Tail, ending: Callable[[], bool]) -> None:
        self._calls = calls
        self._tail = tail
        self._ending = ending
        self._methods = {
            "SendMessage": self._send,
            "GetTask": self._get,
            "ListTasks": self._list,
            "CancelTask": self._cancel,
        }

    async def call(self, method: str, params: Mapping[str, Any], principal: Principal) -> dict[str, Any]:
        """The result of a method that answers once. Raises HivebusError."""
        if method in PUSH:
            raise PushNotificationNotSupported(
                "This agent sends no push notifications.", remedy="Follow the task with SubscribeToTask."
            )
        if method == "GetExtendedAgentCard":
            raise UnsupportedOperation("There is one card, and it is public.", remedy="Read the agent card.")
        found = self._methods.get(method)
        if found is None:
            raise UnknownAction(
                f"There is no method {method[:100]!r}.",
                remedy=f"There are {', '.join(sorted([*self._methods, *STREAMS]))}; names are those of A2A 1.0.",
            )
        return await found(params, principal)

    def stream(self, method: str, params: Mapping[str, Any], principal: Principal) -> Updates:
        """The updates of a method of STREAMS. Raises HivebusError, before the first one and later."""
        if method == "SendStreamingMessage":
            return self._stream_sent(params, principal)
        return self._stream_of(params, principal)

    # --- once ---

    async def _send(self, params: Mapping[str, Any], principal: Principal) -> dict[str, Any]:
        asked = fitted(params, Send)
        wish = asked.configuration or Configuration()
        modes = modes_of(wish)
        if wish.return_immediately:
            task = await self._sent(asked.message, principal)
        else:
            # Before it is accepted: who may not wait here shall not learn it from a task that runs already.
            with self._tail.seat() as seat:
                sent = await self._sent(asked.message, principal, seat)
                task = await self._settled(sent, seat, principal, BLOCK_S_MAX)
        return {"task": tasks.document(task, history_length=wish.history_length, modes=modes)}

    async def _get(self, params: Mapping[str, Any], principal: Principal) -> dict[str, Any]:
        asked = fitted(params, Get)
        return tasks.document(await self._shown(asked.id, principal), history_length=asked.history_length)

    async def _cancel(self, params: Mapping[str, Any], principal: Principal) -> dict[str, Any]:
        asked = fitted(params, One)
        try:
            accepted = await self._calls.call("task.cancel", {"task_id": asked.id}, principal, transport=TRANSPORT)
        except (Refused, Gone) as error:
            raise TaskNotCancelable(
                error.sentence,
                code=error.code,
                remedy="Only a task that has not ended can be cancelled.",
                pointer="/id",
            ) from error
        if accepted["status"] in tasks.STATES and tasks.STATES[accepted["status"]] in tasks.FINAL:
            return tasks.document(await self._shown(asked.id, principal, accepted["position"]))
        with self._tail.seat() as seat:
            reached = max(seat.watch(asked.id), accepted["position"])
            task = await self._shown(asked.id, principal, reached)
            return tasks.document(await self._settled(task, seat, principal, CANCEL_S_MAX))

    async def _list(self, params: Mapping[str, Any], principal: Principal) -> dict[str, Any]:
        asked = fitted(params, List)
        size = asked.page_size or PAGE_DEFAULT
        query: dict[str, Any] = {"order": "updated", "limit": size}
        if asked.page_token:
            query |= _place_of(asked.page_token)
        if asked.context_id:
            query["correlation_id"] = asked.context_id
        if asked.status_timestamp_after is not None:
            query["updated_since"] = asked.status_timestamp_after
        if asked.status not in (None, "", "TASK_STATE_UNSPECIFIED"):
            words = _statuses_of(str(asked.status))
            if not words:
                return {"tasks": [], "nextPageToken": "", "pageSize": size, "totalSize": 0}
            query["status"] = ",".join(words)
        with _pointing(_LISTED):
            page = await self._calls.call("task.list", query, principal, transport=TRANSPORT)
        at = query.get("at", page["position"])
        shown = [await self._listed(row, asked, at, principal) for row in page["tasks"]]
        more = page["pagination"]["has_more"]
        return {
            "tasks": shown,
            "nextPageToken": f"{at}-{page['tasks'][-1]['updated']}" if more else "",
            "pageSize": size,
            "totalSize": page["pagination"]["total"],
        }

    async def _listed(self, row: Mapping[str, Any], asked: List, at: int, principal: Principal) -> dict[str, Any]:
        """A row of a page; its history and result are read only if they are wanted."""
        artifacts, length = bool(asked.include_artifacts), asked.history_length or 0
        if artifacts or length:
            row = await self._calls.call("task.show", {"task_id": row["id"], "at": at}, principal, transport=TRANSPORT)
        return tasks.document(row, history_length=length, artifacts=artifacts)

    # --- streams ---

    async def _stream_sent(self, params: Mapping[str, Any], principal: Principal) -> Updates:
        asked = fitted(params, Send)
        wish = asked.configuration or Configuration()
        modes = modes_of(wish)
        with self._tail.seat() as seat:
            task = await self._sent(asked.message, principal, seat)
            yield {"task": tasks.document(task, history_length=wish.history_length, modes=modes)}
            async for update in self._updates(task, seat, principal, modes):
                yield update

    async def _stream_of(self, params: Mapping[str, Any], principal: Principal) -> Updates:
        asked = fitted(params, One)
        with self._tail.seat() as seat:
            task = await self._shown(asked.id, principal, seat.watch(asked.id))
            if tasks.STATES[task["status"]] in tasks.FINAL:
                raise UnsupportedOperation(
                    f"The task has ended already: it is {task['status']}.",
                    code="illegal_transition",
                    pointer="/id",
                    remedy="Read what came of it with GetTask.",
                )
            yield {"task": tasks.document(task)}
            async for update in self._updates(task, seat, principal, None):
                yield update

    async def _updates(
        self, task: dict[str, Any], seat: Seat, principal: Principal, modes: frozenset[str] | None
    ) -> Updates:
        """What happens after a task's document, to its end. The end is told by the views, as GetTask tells it."""
        known = task["updated"]
        while tasks.STATES[task["status"]] not in tasks.FINAL and not self._ending():
            event = await seat.next_event(LOOK_UP_S)
            if event is None:
                yield None
            elif event["position"] <= known:
                continue
            elif tasks.AFTER.get(event["type"]) in tasks.FINAL:
                task = await self._shown(task["id"], principal, event["position"])
                for artifact in tasks.artifacts_of(task, modes):
                    yield tasks.artifact_update(task, artifact)
                yield tasks.status_update(task)
            elif (update := tasks.event_update(task, event)) is not None:
                yield update

    # --- tasks ---

    async def _sent(self, message: Message, principal: Principal, seat: Seat | None = None) -> dict[str, Any]:
        """The task that a message made, or made before; followed from the seat."""
        if message.task_id:
            await self._refuse_more(message, message.task_id, principal)
        arguments = submission(message)
        try:
            with _pointing(_SUBMITTED):
                accepted = await self._calls.call("task.submit", arguments, principal, transport=TRANSPORT)
        except KeyReused as error:
            raise KeyReused(
                "This messageId was used before for another message.",
                pointer="/message/messageId",
                remedy="Repeat the first message, or choose a new messageId.",
            ) from error
        reached = accepted["position"]
        if seat is not None:
            reached = max(reached, seat.watch(accepted["task_id"]))
        return await self._shown(accepted["task_id"], principal, reached)

    async def _refuse_more(self, message: Message, task_id: str, principal: Principal) -> None:
        """Raises: a task of ours takes one message. Which error it is depends on the task."""
        task = await self._shown(task_id, principal)
        if message.context_id and message.context_id != task["correlation_id"]:
            raise Unprocessable(
                "The task belongs to another context.",
                pointer="/message/contextId",
                remedy=f"Its contextId is {task['correlation_id']}.",
            )
        raise UnsupportedOperation(
            f"A task takes no further message; this one is {task['status']}.",
            pointer="/message/taskId",
            remedy="Leave taskId out: the message becomes a task of its own, with the same contextId if you like.",
        )

    async def _shown(self, task_id: str, principal: Principal, reached: int = 0) -> dict[str, Any]:
        query = {"task_id": task_id, "min_position": reached}
        return await self._calls.call("task.show", query, principal, transport=TRANSPORT)

    async def _settled(self, task: dict[str, Any], seat: Seat, principal: Principal, within_s: float) -> dict[str, Any]:
        """The task once it has ended or asks something, or as it stands when the time is over or the program ends."""
        until = time.monotonic() + within_s
        reached = task["position"]
        while tasks.STATES[task["status"]] not in tasks.SETTLED:
            left_s = until - time.monotonic()
            if left_s <= 0 or self._ending():
                return await self._shown(task["id"], principal, reached)
            event = await seat.next_event(min(left_s, LOOK_UP_S))
            if event is None or event["position"] <= task["updated"]:
                continue
            reached = max(reached, event["position"])
            if tasks.AFTER.get(event["type"], tasks.WORKING) in tasks.SETTLED:
                task = await self._shown(task["id"], principal, reached)
        return task


def _place_of(token: str) -> dict[str, int]:
    """Where the next page begins: the position that the first one was read at, and the change it came to."""
    match = _TOKEN(token)
    if match is None:
        raise Unprocessable(
            "This is no page token of this agent.", pointer="/pageToken", remedy="Send nextPageToken as it came."
        )
    return {"at": int(match[1]), "before": int(match[2])}


def _statuses_of(state: str) -> list[str]:
    try:
        return tasks.statuses_of(state)
    except KeyError:
        raise Unprocessable(
            f"{state[:100]!r} is no TaskState.", pointer="/status", remedy="Send a name such as TASK_STATE_WORKING."
        ) from None


@contextmanager
def _pointing(places: tuple[tuple[str, str], ...]) -> Iterator[None]:
    """Pointers of an action's errors, turned to where the caller said it: the first place whose beginning fits."""
    try:
        yield
    except HivebusError as error:
        if error.pointer is not None:
            ours, theirs = next(place for place in (*places, ("", "")) if error.pointer.startswith(place[0]))
            error.pointer = theirs + error.pointer[len(ours) :]
        raise
