"""The documents before the judges of their own standards, and the events before the SDK of theirs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from cloudevents.core.v1.event import CloudEvent
from jsonschema import Draft7Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry
from referencing.jsonschema import DRAFT7
from websockets.sync.client import connect

from entrypoints.schemas.declared import documents
from entrypoints.schemas.documents import Documents
from tests.entrypoints.program import RunningProgram
from tests.nats_examples import printed
from tests.peers.npm import node
from tests.schemas.patterns import patterns

pytestmark = [pytest.mark.peers, pytest.mark.timeout(120)]

DEADLINE_S = 15.0
STRUCTURED = {"content-type": "application/cloudevents+json"}
PARSE = """
import { readFileSync } from "node:fs";
const { Parser } = require("@asyncapi/parser");
const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[1], "utf-8"));
const faults = diagnostics.filter((said) => said.severity < 2);
const complaints = faults.map((said) => `${said.path.join("/")}: ${said.message}`);
console.log(JSON.stringify({ complaints, operations: document?.operations().all().length ?? 0 }));
"""
META = """
const meta = require("@open-rpc/meta-schema").default;
const schemas = require("@json-schema-tools/meta-schema");
console.log(JSON.stringify([meta, schemas.default ?? schemas.JSONMetaSchema ?? schemas]));
"""
COMPILE = """
import { readFileSync } from "node:fs";
const cases = JSON.parse(readFileSync(process.argv[1], "utf-8"));
console.log(JSON.stringify(cases.map(([pattern, text]) => new RegExp(pattern, "u").test(text))));
"""


@pytest.fixture(scope="module")
def made() -> Documents:
    return documents("0.0.0")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProgram]:
    with RunningProgram(tmp_path_factory.mktemp("hive") / "data") as running:
        yield running


def test_openapi_is_openapi_3_1(made: Documents) -> None:
    assert [str(error) for error in OpenAPIV31SpecValidator(made.openapi).iter_errors()] == []


def test_openrpc_fits_its_meta_schema(made: Documents) -> None:
    meta, schemas = json.loads(node(META))
    known = Registry().with_resource("https://meta.json-schema.tools", DRAFT7.create_resource(schemas))
    judge = Draft7Validator(meta, registry=known)
    assert [f"{error.json_path}: {error.message}" for error in judge.iter_errors(made.openrpc)] == []
    assert list(judge.iter_errors(made.openrpc | {"methods": [{"name": 5}]})) != []


def test_asyncapi_is_parsed_without_a_complaint(made: Documents, tmp_path: Path) -> None:
    path = tmp_path / "asyncapi.json"
    path.write_text(json.dumps(made.asyncapi))
    assert json.loads(node(PARSE, str(path))) == {"complaints": [], "operations": len(made.asyncapi["operations"])}


def test_every_pattern_says_the_same_in_ecmascript(made: Documents, tmp_path: Path) -> None:
    cases = [(pattern, text) for pattern in patterns(made) for text in ("word\n", "a b\n", "word", "", "\x00", "é")]
    path = tmp_path / "patterns.json"
    path.write_text(json.dumps(cases))
    assert json.loads(node(COMPILE, str(path))) == [re.search(pattern, text) is not None for pattern, text in cases]


# --- CloudEvents ------------------------------------------------------------------------------------------------------


def parsed(raw: bytes) -> CloudEvent:
    """An event as the SDK of CloudEvents reads it; it refuses attributes that the standard does not allow."""
    event = from_structured_event(HTTPMessage(STRUCTURED, raw))
    assert isinstance(event, CloudEvent)
    return event


def described(made: Documents, event: CloudEvent) -> dict[str, Any]:
    """The schema that the documents have of an event's data."""
    name = str(event.get_type()).removeprefix("hivebus.")
    schema: dict[str, Any] = made.asyncapi["components"]["messages"][f"event_{name.replace('.', '_')}"]["payload"]
    return schema | {"components": made.asyncapi["components"]}


def test_events_over_rest_are_cloud_events_as_described(program: RunningProgram, made: Documents) -> None:
    task = program.submit("true")["task_id"]
    program.ended(task)
    # When
    response = program.request("GET", "/api/events", params={"limit": 1000})
    # Then
    events = [parsed(line) for line in response.content.splitlines()]
    assert {"hivebus.task.submitted", "hivebus.task.completed"} <= {event.get_type() for event in events}
    for line, event in zip(response.content.splitlines(), events, strict=True):
        assert list(Draft7Validator(described(made, event)).iter_errors(json.loads(line))) == []
        assert int(str(event.get_extension("sequence"))) > 0


async def test_events_over_nats_are_cloud_events(program: RunningProgram, made: Documents) -> None:
    values = printed(program.root)
    client = await nats.connect(
        values["NATS_URL"],
        user=values["NATS_USER"],
        password=values["NATS_PASSWORD"],
        inbox_prefix=values["NATS_INBOX_PREFIX"].encode(),
    )
    try:
        heard = await client.subscribe("hive.event.task.submitted.*")
        await client.flush()
        task = program.submit("true")["task_id"]
        message = await heard.next_msg(timeout=DEADLINE_S)
    finally:
        await client.close()
    assert message.headers is not None
    assert message.headers["Content-Type"] == STRUCTURED["content-type"]
    event = parsed(message.data)
    assert (event.get_subject(), event.get_source()) == (f"task/{task}", "/hivebus")
    assert list(Draft7Validator(described(made, event)).iter_errors(json.loads(message.data))) == []


def test_events_as_server_sent_events_are_cloud_events(program: RunningProgram, made: Documents) -> None:
    task = program.submit("true")["task_id"]
    program.ended(task)
    headers = {"Authorization": f"Bearer {program.key}", "Accept": "text/event-stream"}
    data: list[bytes] = []
    # When
    with program.client.stream("GET", f"{program.url}/api/events?id={task}", headers=headers) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                data.append(line.removeprefix("data: ").encode())
            if data and parsed(data[-1]).get_type() == "hivebus.task.completed":
                break
    # Then
    assert all(parsed(raw).get_subject() == f"task/{task}" for raw in data)
    for raw in data:
        assert list(Draft7Validator(described(made, parsed(raw))).iter_errors(json.loads(raw))) == []


def test_what_the_websocket_tells_is_described(program: RunningProgram, made: Documents) -> None:
    components = {"components": made.asyncapi["components"]}
    judges = {
        message["payload"]["properties"]["method"]["const"]: Draft7Validator(message["payload"] | components)
        for message in made.asyncapi["components"]["messages"].values()
        if "method" in message["payload"].get("properties", {})
    }
    address = program.urls["ui"].replace("http:", "ws:") + "/ws"
    told: set[str] = set()
    # Given
    with connect(address, additional_headers={"Authorization": f"Bearer {program.key}"}) as socket:
        begin = {"protocolVersion": {"major": 1}, "capabilities": {"streaming": True, "notifications": True}}
        for number, (method, params) in enumerate([("initialize", begin), ("events/subscribe", {"after": 0})]):
            socket.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}))
        while json.loads(socket.recv(timeout=DEADLINE_S)).get("id") != 1:
            pass
        until = time.monotonic() + DEADLINE_S
        task = program.submit("true")["task_id"]
        # When
        while not {"events/batch", "task/progress", "agent/status"} <= told:
            assert time.monotonic() < until, f"told only of {told}"
            frame = json.loads(socket.recv(timeout=DEADLINE_S))
            if "method" in frame:
                # Then
                assert list(judges[frame["method"]].iter_errors(frame)) == [], frame
                told.add(frame["method"])
                for event in frame["params"].get("events", ()):
                    parsed(json.dumps(event).encode())
    program.ended(task)
