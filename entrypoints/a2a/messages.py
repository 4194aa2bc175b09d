"""What callers of A2A send: the parameters of each method, and what a message asks to be run.

JSON names are those of the protocol (a2a.proto of 1.0, as ProtoJSON). Members that are not known are left alone, as the
protocol wants it; what is known and cannot be honoured is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from core.execution import DEPTH_MAX
from core.kernel.errors import Unprocessable
from entrypoints.a2a.errors import ContentTypeNotSupported, PushNotificationNotSupported
from entrypoints.decode import unprocessable

JSON = "application/json"
TEXT = "text/plain"
PARTS_MAX = 16
PAGE_MAX = 100
MESSAGE_LABEL = "a2a.message_id"
# A double holds every integer up to here.
EXACT_MAX = 2**53

EXAMPLE = '{"data": {"type": "greet", "agent_type": "shell", "parameters": {"argv": ["echo", "hello"]}}}'

Id = Annotated[str, Meta(max_length=64)]
MessageId = Annotated[str, Meta(pattern=r"^[\x20-\x7e]{1,200}\Z")]
ContextId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:-]{0,64}\Z")]
Length = Annotated[int, Meta(ge=0, le=2**31 - 1)]
S = TypeVar("S", bound=Struct)


class Part(Struct, frozen=True, kw_only=True, rename="camel"):
    """A piece of a message; one of text, raw, url and data says what it is."""

    text: str | UnsetType = UNSET
    raw: str | UnsetType = UNSET
    url: str | UnsetType = UNSET
    data: Any = UNSET
    media_type: str | None = None


class Message(Struct, frozen=True, kw_only=True, rename="camel"):
    """One turn of a caller. `message_id` makes it repeatable, `context_id` becomes the correlation id."""

    message_id: MessageId
    role: Literal["ROLE_USER"]
    parts: Annotated[list[Part], Meta(min_length=1, max_length=PARTS_MAX)]
    context_id: ContextId | None = None
    task_id: Id | None = None
    metadata: dict[str, Any] | None = None


class Configuration(Struct, frozen=True, kw_only=True, rename="camel"):
    """How a caller wants to be answered."""

    accepted_output_modes: Annotated[list[str], Meta(max_length=32)] | None = None
    task_push_notification_config: dict[str, Any] | None = None
    history_length: Length | None = None
    return_immediately: bool | None = None


class Asked(Struct, frozen=True, kw_only=True, rename="camel"):
    """What all parameters have in common: there is one tenant, and it has no name."""

    tenant: Annotated[str, Meta(max_length=0)] | None = None


class Send(Asked, frozen=True, kw_only=True, rename="camel"):
    """SendMessage and SendStreamingMessage."""

    message: Message
    configuration: Configuration | None = None


class Get(Asked, frozen=True, kw_only=True, rename="camel"):
    """GetTask."""

    id: Id
    history_length: Length | None = None


class One(Asked, frozen=True, kw_only=True, rename="camel"):
    """CancelTask and SubscribeToTask."""

    id: Id


class List(Asked, frozen=True, kw_only=True, rename="camel"):
    """ListTasks."""

    context_id: ContextId | None = None
    status: str | None = None
    page_size: Annotated[int, Meta(ge=1, le=PAGE_MAX)] | None = None
    page_token: Annotated[str, Meta(max_length=64)] | None = None
    history_length: Length | None = None
    status_timestamp_after: Annotated[str, Meta(max_length=40)] | None = None
    include_artifacts: bool | None = None


def fitted(params: Mapping[str, Any], struct: type[S]) -> S:
    """Params as a Struct. Raises Unprocessable with a pointer into params."""
    try:
        return msgspec.convert(params, struct)
    except msgspec.ValidationError as error:
        raise unprocessable(error) from error


def modes_of(configuration: Configuration) -> frozenset[str] | None:
    """The media types that the caller takes, None for any. Raises ContentTypeNotSupported where none is ours."""
    if configuration.task_push_notification_config:
        raise PushNotificationNotSupported(
            "This agent sends no push notifications.",
            pointer="/configuration/taskPushNotificationConfig",
            remedy="Leave it out; follow the task with SubscribeToTask, or ask with GetTask.",
        )
    modes = frozenset(mode.partition(";")[0].strip().lower() for mode in configuration.accepted_output_modes or ())
    if not modes or "*/*" in modes:
        return None
    if not modes & {JSON, TEXT}:
        raise ContentTypeNotSupported(
            "This agent answers in application/json and text/plain, and the caller takes neither.",
            pointer="/configuration/acceptedOutputModes",
            remedy="Accept application/json, or leave acceptedOutputModes out.",
        )
    return modes


def submission(message: Message) -> dict[str, Any]:
    """What `task.submit` gets for a message: its one data part, its contextId and its messageId.

    Nothing is guessed from prose: a text says neither a program nor a function. Raises ContentTypeNotSupported for
    parts of another kind and Unprocessable for what is not one object.
    """
    for index, part in enumerate(message.parts):
        said = (part.media_type or JSON).partition(";")[0].strip().lower()
        if part.data is UNSET or said != JSON:
            raise ContentTypeNotSupported(
                "A part that is no application/json data says nothing that an agent here can run.",
                code="data_part_required",
                pointer=f"/message/parts/{index}",
                remedy=f"Send one data part with the task to run: {EXAMPLE}.",
            )
    data = message.parts[0].data
    if len(message.parts) != 1 or not isinstance(data, dict):
        raise Unprocessable(
            "A message asks for one task, and its data part is an object.",
            code="data_part_required",
            pointer="/message/parts",
            remedy=f"Send one data part: {EXAMPLE}; a message for each task, with one contextId.",
        )
    task = _whole(data)
    for name in ("idempotency_key", "correlation_id", "wait"):
        if name in task:
            raise Unprocessable(
                f"{name} is not a field of a task here.",
                code="unknown_field",
                pointer=f"/message/parts/0/data/{name}",
                remedy="messageId makes a message repeatable, contextId is the correlation id.",
            )
    return _marked(task, message.message_id) | {
        "idempotency_key": message.message_id,
        "correlation_id": message.context_id or None,
    }


def _marked(task: dict[str, Any], message_id: str) -> dict[str, Any]:
    """The task with its message's id among its labels: its history gives it back to the caller."""
    labels = task.get("labels", {})
    return {**task, "labels": {**labels, MESSAGE_LABEL: message_id}} if isinstance(labels, dict) else task


def _whole(value: Any, depth: int = 0) -> Any:
    """5.0 as 5. A client that speaks protobuf has no integers in data: they arrive as doubles."""
    if depth > DEPTH_MAX:
        raise Unprocessable("The data part is nested too deeply.", code="too_deep", pointer="/message/parts/0/data")
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= EXACT_MAX else value
    if isinstance(value, dict):
        return {name: _whole(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list):
        return [_whole(item, depth + 1) for item in value]
    return value
