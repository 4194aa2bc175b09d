"""A2A by its own client: a2a-sdk finds the card, sends, follows, asks, lists and cancels."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest
from a2a.client import A2ACardResolver, Client, ClientConfig, ClientFactory
from a2a.client.errors import A2AClientError
from a2a.types import a2a_pb2 as a2a
from a2a.utils.errors import (
    ContentTypeNotSupportedError,
    InvalidParamsError,
    PushNotificationNotSupportedError,
    TaskNotCancelableError,
    TaskNotFoundError,
    UnsupportedOperationError,
    VersionNotSupportedError,
)
from google.protobuf.json_format import ParseDict

from tests.entrypoints.program import RunningProgram

pytestmark = pytest.mark.peers

ECHO = {"type": "greet", "agent_type": "shell", "priority": 7, "parameters": {"argv": ["echo", "hello"]}}
SLOW = ECHO | {"parameters": {"argv": ["sh", "-c", "sleep 0.6; echo hello"]}}
NOBODY = ECHO | {"requires": ["nobody"]}


@asynccontextmanager
async def client(
    program: RunningProgram, *, streaming: bool, key: str | None = None, **headers: str
) -> AsyncIterator[Client]:
    """A client that was made from the card, as the package's own documentation makes it."""
    sent = {"Authorization": f"Bearer {key or program.key}"} | headers
    async with httpx.AsyncClient(headers=sent, timeout=30.0, trust_env=False, verify=False) as http:
        card = await A2ACardResolver(http, program.urls["tools"]).get_agent_card()
        yield ClientFactory(ClientConfig(httpx_client=http, streaming=streaming)).create(card)


@pytest.fixture
async def streams(program: RunningProgram) -> AsyncIterator[Client]:
    async with client(program, streaming=True) as made:
        yield made


@pytest.fixture
async def asks(program: RunningProgram) -> AsyncIterator[Client]:
    async with client(program, streaming=False) as made:
        yield made


def message(data: dict[str, Any], **more: Any) -> a2a.SendMessageRequest:
    said = {"messageId": str(uuid4()), "role": "ROLE_USER", "parts": [{"data": data}]} | more
    return ParseDict({"message": said}, a2a.SendMessageRequest())


async def sent(asks: Client, request: a2a.SendMessageRequest) -> a2a.Task:
    [answer] = [answer async for answer in asks.send_message(request)]
    return answer.task


async def test_the_card_says_what_the_client_needs(program: RunningProgram) -> None:
    async with httpx.AsyncClient(trust_env=False, verify=False) as http:
        card = await A2ACardResolver(http, program.urls["tools"]).get_agent_card()
    [interface] = card.supported_interfaces
    assert (interface.protocol_binding, interface.protocol_version) == ("JSONRPC", "1.0")
    assert interface.url == program.urls["tools"] + "/a2a"
    assert (card.capabilities.streaming, card.capabilities.push_notifications) == (True, False)
    assert card.security_schemes["bearer"].http_auth_security_scheme.scheme == "Bearer"
    assert {skill.id for skill in card.skills} == {"shell", "python"}


async def test_a_message_is_answered_with_the_finished_task(asks: Client) -> None:
    request = message(ECHO)
    task = await sent(asks, request)
    assert task.status.state == a2a.TASK_STATE_COMPLETED
    data, out = task.artifacts[0].parts
    assert (data.data.struct_value["exit_code"], out.text) == (0, "hello\n")
    assert task.history[0].message_id == request.message.message_id
    assert await sent(asks, request) == task
    assert await asks.get_task(a2a.GetTaskRequest(id=task.id)) == task
    short = await asks.get_task(a2a.GetTaskRequest(id=task.id, history_length=1))
    assert list(short.history) == list(task.history)[-1:]


async def test_a_stream_brings_task_status_artifact_and_end(streams: Client) -> None:
    got = [update async for update in streams.send_message(message(SLOW))]
    kinds = [update.WhichOneof("payload") for update in got]
    assert (kinds[0], kinds[-2:]) == ("task", ["artifact_update", "status_update"])
    assert got[-1].status_update.status.state == a2a.TASK_STATE_COMPLETED
    assert got[-2].artifact_update.artifact.parts[1].text == "hello\n"
    assert a2a.TASK_STATE_WORKING in {update.status_update.status.state for update in got}


async def test_a_task_is_subscribed_to_listed_and_cancelled(streams: Client, asks: Client) -> None:
    context = f"c-{uuid4()}"
    request = message(NOBODY, contextId=context)
    request.configuration.return_immediately = True
    task = await sent(asks, request)
    assert task.status.state == a2a.TASK_STATE_SUBMITTED
    updates = streams.subscribe(a2a.SubscribeToTaskRequest(id=task.id))
    assert (await anext(updates)).task.id == task.id
    page = await asks.list_tasks(a2a.ListTasksRequest(context_id=context, page_size=1))
    assert ([found.id for found in page.tasks], page.total_size, page.next_page_token) == ([task.id], 1, "")
    cancelled = await asks.cancel_task(a2a.CancelTaskRequest(id=task.id))
    assert cancelled.status.state == a2a.TASK_STATE_CANCELED
    [last] = [update async for update in updates]
    assert last.status_update.status.state == a2a.TASK_STATE_CANCELED


async def test_each_error_arrives_as_the_one_it_is(asks: Client, streams: Client) -> None:
    task = await sent(asks, message(ECHO))
    with pytest.raises(TaskNotFoundError) as unknown:
        await asks.get_task(a2a.GetTaskRequest(id="nobody"))
    assert unknown.value.data is not None
    assert unknown.value.data["code"] == "unknown_task"
    assert unknown.value.data["remedy"]
    with pytest.raises(TaskNotCancelableError):
        await asks.cancel_task(a2a.CancelTaskRequest(id=task.id))
    with pytest.raises(UnsupportedOperationError):
        await anext(streams.subscribe(a2a.SubscribeToTaskRequest(id=task.id)))
    with pytest.raises(ContentTypeNotSupportedError, match="nothing that an agent here can run"):
        await sent(asks, message({}, parts=[{"text": "say hello"}]))
    for way in (asks, streams):
        with pytest.raises(InvalidParamsError):
            await anext(way.send_message(message({"type": "x"})))
    with pytest.raises(PushNotificationNotSupportedError):
        await asks.create_task_push_notification_config(
            a2a.TaskPushNotificationConfig(task_id=task.id, url="https://a.example")
        )


async def test_a_wrong_key_and_another_version_are_no_success(program: RunningProgram) -> None:
    async with client(program, streaming=False, key="hive_0_wrong") as wrong:
        with pytest.raises(A2AClientError, match="401"):
            await wrong.list_tasks(a2a.ListTasksRequest())
    async with client(program, streaming=False, **{"A2A-Version": "0.3"}) as old:
        with pytest.raises(VersionNotSupportedError):
            await old.list_tasks(a2a.ListTasksRequest())
