"""Every way in, as a program outside uses it: one action by name, its arguments as JSON values, the answer or refusal.

Nothing of ours is used but what a client could know: addresses, the key, what `hivebus env` prints, routes.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import nats
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

DEADLINE_S = 30.0
QUERY_MAX = 4096
# RFC 6455, 7.4.1
TOO_BIG = 1009
# Of the calls that the contract's queries and commands take beside their fields.
OPTIONS = {"idempotency_key": "Idempotency-Key", "correlation_id": "X-Correlation-Id"}

_IN_PATH = re.compile(r"{(\w+)}")


@dataclass(frozen=True)
class Refusal:
    """Why not: the stable code, and the JSON pointer of the field that was meant."""

    code: str
    pointer: str | None = None


Outcome = dict[str, Any] | Refusal


class CannotSay(Exception):
    """This way has no words for such a call."""


@dataclass(frozen=True)
class Address:
    """Where a running program is, and what lets a client in."""

    urls: Mapping[str, str]
    key: str
    nats: Mapping[str, str]
    data_dir: Path

    @classmethod
    def of(cls, data_dir: Path) -> Address:
        """From what a program left in its data directory."""
        left = json.loads((data_dir / "connection.json").read_text())
        urls = {"api": left["url"], "ui": left["ui_url"], "tools": left["tools_url"], "metrics": left["metrics_url"]}
        login = {name: left[name] for name in ("nats_url", "nats_user", "nats_password", "nats_inbox_prefix")}
        return cls(urls, (data_dir / "admin.key").read_text().strip(), login, data_dir)

    @property
    def headers(self) -> dict[str, str]:
        """What every HTTP request carries."""
        return {"Authorization": f"Bearer {self.key}"}


class Way(Protocol):
    """A way in."""

    name: str

    def call(self, action: str, arguments: Mapping[str, Any]) -> Outcome:
        """The answer, or why not. Raises CannotSay."""
        ...


@dataclass(frozen=True)
class Place:
    """Where REST has an action; `path` with its fields in braces."""

    method: str
    path: str


class Rest:
    """One request an action: path fields in the path, options in headers, the rest in the body or the query."""

    name = "rest"

    def __init__(self, address: Address, client: httpx.Client, routes: Mapping[str, Place]) -> None:
        self._address = address
        self._client = client
        self._routes = routes

    def call(self, action: str, arguments: Mapping[str, Any]) -> Outcome:
        """See Way."""
        route = self._routes.get(action, Place("POST", "/api/nothing-of-that-name"))
        values = dict(arguments)
        headers = self._address.headers | {
            header: str(values.pop(option)) for option, header in OPTIONS.items() if option in values
        }
        wait = {"wait": values.pop("wait")} if "wait" in values else {}
        inside = _IN_PATH.findall(route.path)
        if not values.keys() >= set(inside):
            raise CannotSay("without what its path holds, a call is another one")
        path = _IN_PATH.sub(lambda match: str(values.pop(match[1])), route.path)
        url = self._address.urls["api"] + path
        if route.method in ("POST", "PUT"):
            response = self._client.request(route.method, url, params=wait, json=values, headers=headers)
        else:
            if any(isinstance(value, dict | list) or len(str(value)) > QUERY_MAX for value in values.values()):
                raise CannotSay("a query string holds short texts")
            response = self._client.request(route.method, url, params=values | wait, headers=headers)
        return self._read(response)

    @staticmethod
    def _read(response: httpx.Response) -> Outcome:
        if response.status_code >= 400:
            problem = response.json()
            return Refusal(problem["code"], problem.get("pointer"))
        if response.headers["content-type"] == "application/x-ndjson":
            lines = [json.loads(line) for line in response.text.splitlines()]
            following, position = (int(response.headers[f"hivebus-{word}"]) for word in ("next", "position"))
            return {"events": lines, "next": following, "position": position}
        answer: dict[str, Any] = response.json()
        return answer


class JsonRpc:
    """POST /api/."""

    name = "json-rpc"

    def __init__(self, address: Address, client: httpx.Client) -> None:
        self._address = address
        self._client = client

    def call(self, action: str, arguments: Mapping[str, Any]) -> Outcome:
        """See Way."""
        frame = {"jsonrpc": "2.0", "id": 1, "method": action, "params": dict(arguments)}
        response = self._client.post(f"{self._address.urls['api']}/api/", json=frame, headers=self._address.headers)
        if response.status_code >= 400:
            return Refusal(response.json()["code"])
        return _rpc_outcome(response.json())


class WebSocket:
    """/ws on the port of the page, initialized once a call: what is said to one connection binds no other."""

    name = "websocket"

    def __init__(self, address: Address) -> None:
        self._address = address

    def call(self, action: str, arguments: Mapping[str, Any]) -> Outcome:
        """See Way."""
        url = self._address.urls["ui"].replace("http://", "ws://", 1) + "/ws"
        hello = {"protocolVersion": {"major": 1, "minor": 0, "patch": 0}}
        with connect(url, additional_headers=self._address.headers, open_timeout=DEADLINE_S) as socket:
            for number, (method, params) in enumerate((("initialize", hello), (action, dict(arguments)))):
                try:
                    socket.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}))
                    answer = self._answer(socket, number)
                except ConnectionClosed as closed:
                    if closed.rcvd is not None and closed.rcvd.code == TOO_BIG:
                        return Refusal("too_large")
                    raise
        return _rpc_outcome(answer)

    @staticmethod
    def _answer(socket: Any, number: int) -> dict[str, Any]:
        """The answer to a request; notifications may come between."""
        while True:
            message: dict[str, Any] = json.loads(socket.recv(timeout=DEADLINE_S))
            if message.get("id") == number:
                return message


def _rpc_outcome(answer: dict[str, Any]) -> Outcome:
    if "error" in answer:
        data = answer["error"]["data"]
        return Refusal(data["code"], data["field"])
    result: dict[str, Any] = answer["result"]
    return result


class Nats:
    """A request on `hive.cmd.<noun>.<verb>`: commands only."""

    name = "nats"

    def __init__(self, address: Address) -> None:
        self._login = address.nats

    def call(self, action: str, arguments: Mapping[str, Any]) -> Outcome:
        """See Way."""
        values = dict(arguments)
        if "wait" in values:
            raise CannotSay("an answer comes after the commit, always")
        headers = {header: str(values.pop(option)) for option, header in OPTIONS.items() if option in values}
        answer = asyncio.run(self._ask(f"hive.cmd.{action}", json.dumps(values).encode(), headers))
        if not answer.pop("accepted"):
            return Refusal(answer["code"], answer.get("pointer"))
        return answer

    async def _ask(self, subject: str, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
        login = self._login
        client = await nats.connect(
            login["nats_url"],
            user=login["nats_user"],
            password=login["nats_password"],
            inbox_prefix=login["nats_inbox_prefix"].encode(),
        )
        try:
            if len(body) > client.max_payload:
                raise CannotSay("the client library sends no message of that size")
            reply = await client.request(subject, body, timeout=DEADLINE_S, headers=headers or None)
        finally:
            await client.close()
        answer: dict[str, Any] = json.loads(reply.data)
        return answer


class Mcp:
    """tools/call at /mcp, in the handshake's era."""

    name = "mcp"

    def __init__(self, address: Address, client: httpx.Client) -> None:
        self._address = address
        self._client = client

    def call(self, action: str, arguments: Mapping[str, Any]) -> Outcome:
        """See Way."""
        answer = self._ask("tools/call", {"name": action.replace(".", "_"), "arguments": dict(arguments)})
        if isinstance(answer, Refusal):
            return answer
        if answer["isError"]:
            problem = answer["structuredContent"]["error"]
            return Refusal(problem["code"], problem.get("pointer"))
        structured: dict[str, Any] = answer["structuredContent"]
        return structured

    def tools(self) -> list[str]:
        """The names of all tools."""
        answer = self._ask("tools/list", {})
        assert not isinstance(answer, Refusal), answer
        return [tool["name"] for tool in answer["tools"]]

    def _ask(self, method: str, params: dict[str, Any]) -> Outcome:
        headers = self._address.headers | {
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2025-11-25",
        }
        frame = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        response = self._client.post(f"{self._address.urls['tools']}/mcp", json=frame, headers=headers)
        body = response.json()
        if response.status_code >= 400:
            return Refusal(body["code"])
        if "error" in body:
            # The protocol has a number for a tool that there is none of, and no word.
            return Refusal("unknown_action" if "no tool" in body["error"]["message"] else str(body["error"]["code"]))
        result: dict[str, Any] = body["result"]
        return result


Run = Callable[[Sequence[str], bytes | None], tuple[int, str]]


class CommandLine:
    """`hivebus NOUN VERB`, with --json. What it refuses by itself, before anything is sent, is the code `usage`."""

    name = "cli"

    def __init__(self, run: Run, targets: Mapping[str, str | None]) -> None:
        """`run` gives exit code and stdout; `targets` names the field of an action that is an argument, if one is."""
        self._run = run
        self._targets = targets

    def call(self, action: str, arguments: Mapping[str, Any]) -> Outcome:
        """See Way."""
        exit_, out = self._run(*self._words(action, dict(arguments)))
        if exit_ == 2:
            return Refusal("usage")
        answer: dict[str, Any] = json.loads(out)
        if "items" in answer:
            # A file of one task is a batch, and each item of a batch has its own answer.
            [item] = answer["items"]
            answer = item.get("error") or {name: value for name, value in item.items() if name != "index"}
        if exit_ != 0 and "code" in answer:
            return Refusal(answer["code"], answer.get("pointer"))
        return answer

    def _words(self, action: str, values: dict[str, Any]) -> tuple[list[str], bytes | None]:
        if action not in self._targets:
            raise CannotSay("there is no such verb")
        words, target = action.split("."), self._targets[action]
        if target is not None and target in values:
            words.append(str(values.pop(target)))
        if action == "task.submit":
            key = values.pop("idempotency_key", None)
            words += ["--idempotency-key", str(key)] if key else []
            return [*words, "--file", "-", "--json"], json.dumps(values).encode()
        if not values.keys().isdisjoint({"idempotency_key", "correlation_id", "wait", "min_position"}):
            raise CannotSay("the verb has no such option")
        for name, value in values.items():
            option = f"--{name.replace('_', '-')}"
            pairs = [f"{key}={json.dumps(said)}" for key, said in value.items()] if isinstance(value, dict) else None
            for item in pairs or (value if isinstance(value, list) else [value]):
                words += [option, item if isinstance(item, str) else json.dumps(item)]
        return [*words, "--json"], None


def command_line_in(folder: Path, address: Address) -> Run:
    """Runs the program that lies in a folder, as a process."""

    def run(words: Sequence[str], stdin: bytes | None) -> tuple[int, str]:
        environment = {
            "PATH": "/usr/bin:/bin",
            "HIVEBUS_URL": address.urls["api"],
            "HIVEBUS_KEY": address.key,
            "HIVEBUS_DATA_DIR": str(address.data_dir),
        }
        done = subprocess.run(
            [sys.executable, "-m", "entrypoints", *words],
            cwd=folder,
            env=environment,
            input=stdin if stdin is not None else b"",
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
        return done.returncode, done.stdout.decode()

    return run
