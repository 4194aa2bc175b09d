"""What goes over NATS and the WebSocket as an AsyncAPI 3.0 document (https://www.asyncapi.com/docs/reference)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from core.kernel.cloud_events import CloudEvent
from core.kernel.registry import EventSpec, Registry, doc_of
from core.kernel.subjects import CLIENT_INBOX, COMMANDS, DISCOVERY, EVENTS
from core.services.relay import HEADERS
from entrypoints.calls import Action, Calls
from entrypoints.decode import CORRELATION_PATTERN, KEY_PATTERN
from entrypoints.nats.commands import Refusal
from entrypoints.schemas.examples import EXAMPLES, TASK, TIME
from entrypoints.schemas.shapes import Shapes, text_of, whole

ASYNCAPI = "3.0.0"
JSON = "application/json"
DESCRIPTION = f"""Commands are requests on `{COMMANDS}.<noun>.<verb>`, answered when their commit is on the log; a
publish without a reply is carried out too. An answer goes to a subject under `{CLIENT_INBOX}.` only. `{DISCOVERY}`
discovers the service `hivebus`, as NATS services do.

Every event is published on `{EVENTS}.<noun>.<verb>.<id>` once it is recorded, as a CloudEvent, at most once and in the
order of positions. `sequence` is its position; GET /api/events fills a gap."""


class Notification(Struct, frozen=True):
    """A JSON-RPC notification of the WebSocket: its method, and the shape of its params."""

    method: str
    doc: str
    params: Any


def asyncapi(
    calls: Calls, registry: Registry, *, version: str, notifications: Iterable[Notification] = ()
) -> dict[str, Any]:
    """The document. `notifications` are what the WebSocket sends by itself."""
    writer = _Writer()
    for action in calls.actions.values():
        if not action.read_only:
            writer.command(action)
    for spec in registry.event_specs.values():
        writer.event(spec)
    writer.notifications(list(notifications))
    return {
        "asyncapi": ASYNCAPI,
        "info": {
            "title": "Hivebus messages",
            "version": version,
            "description": text_of(DESCRIPTION),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": JSON,
        "servers": writer.servers(),
        "channels": writer.channels,
        "operations": writer.operations,
        "components": {
            "messages": writer.messages,
            "schemas": dict(sorted(writer.shapes.components.items())),
            "securitySchemes": {
                "nats": {"type": "userPassword", "description": "`hivebus env` prints user and password."},
                "key": {"type": "http", "scheme": "bearer", "description": "`hivebus env` prints it."},
            },
        },
    }


class _Writer:
    def __init__(self) -> None:
        self.shapes = Shapes()
        self.channels: dict[str, Any] = {}
        self.operations: dict[str, Any] = {}
        self.messages: dict[str, Any] = {}

    def servers(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "nats": {
                "host": "127.0.0.1:4222",
                "protocol": "nats",
                "description": "The embedded broker chooses its port: `hivebus env` prints the address.",
                "security": [{"$ref": "#/components/securitySchemes/nats"}],
            }
        }
        if "websocket" in self.channels:
            found["websocket"] = {
                "host": "127.0.0.1:3000",
                "pathname": "/ws",
                "protocol": "ws",
                "description": "JSON-RPC 2.0; /openrpc.json has the methods.",
                "security": [{"$ref": "#/components/securitySchemes/key"}],
            }
        return found

    def command(self, action: Action) -> None:
        """A request on the action's subject, and its two answers."""
        subject, name = f"{COMMANDS}.{action.name}", _name(action.name)
        accepted = {
            "allOf": [
                {"type": "object", "required": ["accepted"], "properties": {"accepted": {"const": True}}},
                self.shapes.of(action.answer),
            ]
        }
        self._message(name, action.name, text_of(action.doc), self.shapes.of(action.struct), headers=_command_headers())
        self._message(
            f"{name}_accepted", f"{action.name} accepted", f"The commit of {action.name} is on the log.", accepted
        )
        if "refusal" not in self.messages:
            headers = _headers(
                {
                    "Nats-Service-Error": {"type": "string", "description": "The code."},
                    "Nats-Service-Error-Code": {"type": "string", "description": "The status that REST gives."},
                }
            )
            self._message("refusal", "refusal", "Nothing was done, and why.", self.shapes.of(Refusal), headers=headers)
        example = EXAMPLES.get(action.name)
        if example is not None:
            self.messages[name]["examples"] = [{"name": "one", "summary": example.name, "payload": example.arguments}]
        self._channel(name, subject, text_of(action.summary), [name])
        self._channel(
            f"{name}_answer", None, f"The inbox of who asked, under `{CLIENT_INBOX}.`.", [f"{name}_accepted", "refusal"]
        )
        self.operations[name] = {
            "action": "receive",
            "channel": _ref("channels", name),
            "summary": text_of(action.summary),
            "tags": [{"name": "command"}],
            "messages": [_ref("channels", name, "messages", name)],
            "reply": {
                "address": {"location": "$message.header#/reply", "description": "The reply subject of the request."},
                "channel": _ref("channels", f"{name}_answer"),
                "messages": [
                    _ref("channels", f"{name}_answer", "messages", word) for word in (f"{name}_accepted", "refusal")
                ],
            },
        }

    def event(self, spec: EventSpec) -> None:
        """An event as a CloudEvent on a subject of its own."""
        name = f"event_{_name(spec.name)}"
        data = self.shapes.of(spec.struct)
        payload = {
            "allOf": [
                self.shapes.of(CloudEvent),
                {"type": "object", "properties": {"type": {"const": f"hivebus.{spec.name}"}, "data": data}},
            ]
        }
        doc = text_of(doc_of(spec.struct))
        self._message(name, spec.name, doc, payload, content_type=HEADERS["Content-Type"])
        if spec.name == "task.queued":
            self.messages[name]["examples"] = [{"name": "one", "payload": _cloud_event(spec.name)}]
        self._channel(name, f"{EVENTS}.{spec.name}.{{id}}", doc, [name])
        noun = spec.name.partition(".")[0]
        self.channels[name]["parameters"] = {"id": {"description": f"The id of the {noun}; `*` hears all of them."}}
        self.operations[name] = {
            "action": "send",
            "channel": _ref("channels", name),
            "summary": doc,
            "tags": [{"name": "event"}],
            "messages": [_ref("channels", name, "messages", name)],
        }

    def notifications(self, found: list[Notification]) -> None:
        """What the WebSocket sends by itself."""
        if not found:
            return
        names = [_name(notification.method) for notification in found]
        for name, notification in zip(names, found, strict=True):
            payload = {
                "type": "object",
                "required": ["jsonrpc", "method", "params"],
                "properties": {
                    "jsonrpc": {"const": "2.0"},
                    "method": {"const": notification.method},
                    "params": self.shapes.of(notification.params),
                },
            }
            self._message(name, notification.method, text_of(notification.doc), payload)
        self._channel("websocket", "/", "Notifications of the WebSocket.", names, server="websocket")
        for name, notification in zip(names, found, strict=True):
            self.operations[name] = {
                "action": "send",
                "channel": _ref("channels", "websocket"),
                "summary": text_of(notification.doc.partition("\n")[0]),
                "tags": [{"name": "notification"}],
                "messages": [_ref("channels", "websocket", "messages", name)],
            }

    def _message(
        self,
        key: str,
        name: str,
        doc: str,
        payload: dict[str, Any],
        *,
        content_type: str = JSON,
        headers: dict[str, Any] | None = None,
    ) -> None:
        message = {"name": name, "title": name, "summary": doc, "contentType": content_type, "payload": payload}
        self.messages[key] = message | ({"headers": headers} if headers else {})

    def _channel(self, key: str, address: str | None, doc: str, messages: list[str], *, server: str = "nats") -> None:
        self.channels[key] = {
            "address": address,
            "description": doc,
            "servers": [_ref("servers", server)],
            "messages": {name: _ref("components", "messages", name) for name in messages},
        }


def _cloud_event(name: str) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": "019abf2e-0d54-8a4f-9c10-2b3c4d5e6f70/1",
        "source": "/hivebus",
        "type": f"hivebus.{name}",
        "subject": f"task/{TASK}",
        "time": TIME,
        "datacontenttype": JSON,
        "sequence": "12",
        "correlationid": "019abf2e-0d54-7c31-8e4b-000000000000",
        "causationid": "019abf2e-0d54-7c31-8e4b-000000000000",
        "actor": "key:1f2e3d4c",
        "data": {},
    }


def _command_headers() -> dict[str, Any]:
    return _headers(
        {
            "Idempotency-Key": {"type": "string", "pattern": whole(KEY_PATTERN), "description": "Makes it repeatable."},
            "X-Correlation-Id": {"type": "string", "pattern": whole(CORRELATION_PATTERN)},
        }
    )


def _headers(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties)}


def _name(action: str) -> str:
    """A key of a document: letters, digits and underscores."""
    return action.replace(".", "_").replace("/", "_")


def _ref(*steps: str) -> dict[str, str]:
    return {"$ref": "#/" + "/".join(steps)}
