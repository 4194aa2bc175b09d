"""The real `mcp` client, in both eras, against the real program."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from jsonschema import Draft202012Validator
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, TextResourceContents, Tool

from core.actions import registry
from entrypoints.mcp.tools import NAME, tool_name
from projections.catalogue import QUERIES
from tests.entrypoints.mcp_page import WAYS, said
from tests.entrypoints.program import FINAL, RunningProgram

ERAS = {"legacy": "2025-11-25", "2026-07-28": "2026-07-28", "auto": "2026-07-28"}
MODES = list(ERAS)
pytestmark = pytest.mark.peers
# What an ECMAScript engine does not know of Python's patterns.
PYTHON_ONLY = re.compile(r"\\[AZ]|\(\?P|\(\?#|\(\?[aiLmsux]")


@asynccontextmanager
async def connected(url: str, headers: dict[str, str], mode: str) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers=headers, timeout=40.0, trust_env=False, verify=False) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode, cache=None) as client,
    ):
        yield client


@asynccontextmanager
async def with_key(program: RunningProgram, mode: str) -> AsyncIterator[Client]:
    url = f"{program.urls['tools']}/mcp"
    async with connected(url, {"Authorization": f"Bearer {program.key}"}, mode) as client:
        yield client


async def answered(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """The structured answer of a tool that must succeed, which its text repeats."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    assert json.loads(text_of(result)) == result.structured_content
    structured: dict[str, Any] = result.structured_content
    return structured


def text_of(result: CallToolResult) -> str:
    [block] = result.content
    assert block.type == "text"
    return block.text


async def read(client: Client, uri: str) -> dict[str, Any]:
    [content] = (await client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    assert (content.uri, content.mime_type) == (uri, "application/json")
    found: dict[str, Any] = json.loads(content.text)
    return found


async def ended(client: Client, task_id: str, after: int) -> dict[str, Any]:
    """The task once it has ended, waited for as the server's instructions say."""
    while (task := await answered(client, "task_show", task_id=task_id, min_position=after))["status"] not in FINAL:
        page = await answered(client, "event_list", id=task_id, after=after, wait=15)
        assert page["events"], "nothing happened to the task within 15 s"
        after = page["next"]
    return task


@pytest.mark.parametrize("mode", MODES)
async def test_the_client_agrees_with_the_server_on_a_version(program: RunningProgram, mode: str) -> None:
    async with with_key(program, mode) as client:
        assert client.protocol_version == ERAS[mode]
        if mode != "2026-07-28":  # a pinned version asks the server nothing at first
            assert client.server_info is not None
            assert client.server_info.name == "hivebus"
            assert client.instructions is not None
            capabilities = client.server_capabilities.model_dump(exclude_none=True)
            assert capabilities.keys() == {"tools", "resources"}


@pytest.mark.parametrize("mode", MODES)
async def test_every_action_is_a_tool_with_a_schema_that_any_client_can_use(program: RunningProgram, mode: str) -> None:
    async with with_key(program, mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    declared = registry(QUERIES)
    commands = {tool_name(spec.name) for spec in declared.client_commands()}
    queries = {tool_name(name) for name in declared.queries}
    own = {"event_list", "system_status", "system_info"}
    assert tools.keys() >= commands | queries | own
    assert {name for name, tool in tools.items() if hints(tool)["readOnlyHint"]} >= queries | own
    assert not any(hints(tools[name])["readOnlyHint"] for name in commands)
    for name, tool in tools.items():
        assert NAME(name)
        assert tool.description
        Draft202012Validator.check_schema(tool.input_schema)
        assert tool.input_schema["type"] == "object"
        assert not PYTHON_ONLY.search("".join(patterns(tool.input_schema))), name


def hints(tool: Tool) -> dict[str, bool]:
    assert tool.annotations is not None
    return tool.annotations.model_dump(by_alias=True, exclude_none=True)


def patterns(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [pattern for item in schema for pattern in patterns(item)]
    if not isinstance(schema, dict):
        return []
    own = [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
    return own + [pattern for item in schema.values() for pattern in patterns(item)]


async def test_the_hints_say_what_a_tool_may_do(program: RunningProgram) -> None:
    async with with_key(program, "auto") as client:
        tools = {tool.name: hints(tool) for tool in (await client.list_tools()).tools}
    names = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
    expected: dict[str, tuple[bool | None, ...]] = {
        "task_submit": (False, True, False, True),
        "task_cancel": (False, True, True, False),
        "agent_spawn": (False, False, False, False),
        "agent_retire": (False, True, True, False),
        "task_show": (True, None, None, False),
    }
    assert {tool: tuple(tools[tool].get(name) for name in names) for tool in expected} == expected


@pytest.mark.parametrize("mode", MODES)
async def test_every_read_only_tool_answers(program: RunningProgram, mode: str) -> None:
    async with with_key(program, mode) as client:
        submitted = await answered(
            client, "task_submit", type="greet", executor="command", parameters={"argv": ["true"]}, wait="recorded"
        )
        limited = await answered(client, "limit_set", key="api", concurrency=2, wait="recorded")
        await answered(client, "budget_set", key="api", tokens=9, wait="recorded")
        task = {"type": "greet", "executor": "command", "parameters": {"argv": ["true"]}}
        nightly = await answered(client, "schedule_set", name="n", cron="0 3 * * *", task=task, wait="recorded")
        agent = (await answered(client, "agent_list"))["agents"][0]
        known = {"task_id": submitted["task_id"], "agent_id": agent["id"], "key": limited["key"]}
        known["name"] = nightly["name"]
        read_only = [tool for tool in (await client.list_tools()).tools if hints(tool)["readOnlyHint"]]
        assert len(read_only) >= 9
        for tool in read_only:
            arguments = {name: known[name] for name in tool.input_schema["required"]}
            Draft202012Validator(tool.input_schema).validate(arguments)
            assert await answered(client, tool.name, **arguments)


@pytest.mark.parametrize("mode", MODES)
async def test_a_task_is_submitted_waited_for_and_read(program: RunningProgram, mode: str) -> None:
    async with with_key(program, mode) as client:
        arguments = {"type": "greet", "executor": "command", "parameters": {"argv": ["echo", mode]}}
        submitted = await answered(client, "task_submit", **arguments, wait="recorded")
        task = await ended(client, submitted["task_id"], submitted["position"])
        uri = f"hivebus://task/{task['id']}"
        assert (task["status"], task["result"]["stdout"]) == ("completed", f"{mode}\n")
        assert (await read(client, uri))["attempts"] == task["attempts"]
        assert (await read(client, f"{uri}/result"))["result"] == task["result"]
        timeline = [event["type"] for event in (await read(client, f"{uri}/timeline"))["events"]]
        assert (timeline[0], timeline[-1]) == ("task.submitted", "task.completed")
        templates = (await client.list_resource_templates()).resource_templates
        assert {template.uri_template for template in templates} == {
            "hivebus://task/{task_id}",
            "hivebus://task/{task_id}/result",
            "hivebus://task/{task_id}/timeline",
            "hivebus://blob/{sha256}",
        }
        listed = [resource.uri for resource in (await client.list_resources()).resources]
        assert uri in listed
        assert (await read(client, listed[0]))["id"]


@pytest.mark.parametrize("mode", MODES)
async def test_bad_arguments_are_for_the_model_and_unknown_tools_for_the_program(
    program: RunningProgram, mode: str
) -> None:
    async with with_key(program, mode) as client:
        refused = await client.call_tool("task_submit", {"type": "greet"})
        assert refused.is_error
        assert "missing_field" in text_of(refused)
        with pytest.raises(MCPError) as unknown:
            await client.call_tool("task_explode", {})
        assert unknown.value.code == -32602
        with pytest.raises(MCPError) as missing:
            await client.read_resource("hivebus://task/none")
        assert missing.value.code == (-32002 if mode == "legacy" else -32602)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "wrong", [{"Authorization": "Bearer hive_0_wrong"}, {"Origin": "http://evil.example"}], ids=["a key", "an origin"]
)
async def test_a_wrong_key_and_a_foreign_page_get_nothing(
    program: RunningProgram, mode: str, wrong: dict[str, str]
) -> None:
    headers = {"Authorization": f"Bearer {program.key}"} | wrong
    with pytest.raises((MCPError, ExceptionGroup)) as refused:
        async with connected(f"{program.urls['tools']}/mcp", headers, mode) as client:
            await client.list_tools()
    assert all(isinstance(error, MCPError) for error in leaves(refused.value))


def leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for part in error.exceptions for leaf in leaves(part)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
async def test_what_the_page_says_connects(program: RunningProgram, way: str, mode: str) -> None:
    url, headers = said(program, way)
    assert url.startswith(program.urls["tools"])
    async with connected(url, headers, mode) as client:
        assert await answered(client, "queue_show")
