"""Hands one program to Hivebus over A2A, follows it to its end, and prints what it wrote.

    eval "$(hivebus env)"
    pip install a2a-sdk
    python docs/examples/a2a_task.py echo hello

The address is that of the tools listener; the card there says everything else. The messageId is made once: however
often the message is sent, there is one task.
"""

from __future__ import annotations

import asyncio
import os
import sys
import uuid

import httpx
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.types import a2a_pb2 as a2a
from google.protobuf.json_format import ParseDict

URL = os.environ.get("HIVEBUS_TOOLS_URL", "http://127.0.0.1:8080")
KEY = os.environ.get("HIVEBUS_KEY", "")


async def run(argv: list[str]) -> int:
    """The exit code: 0 for a task that completed."""
    message = {
        "messageId": str(uuid.uuid4()),
        "role": "ROLE_USER",
        "parts": [{"data": {"type": "example", "agent_type": "shell", "parameters": {"argv": argv}}}],
    }
    state = a2a.TASK_STATE_UNSPECIFIED
    # A stream is silent for 15 s at most.
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}, timeout=30) as http:
        card = await A2ACardResolver(http, URL).get_agent_card()
        client = ClientFactory(ClientConfig(httpx_client=http)).create(card)
        async for update in client.send_message(ParseDict({"message": message}, a2a.SendMessageRequest())):
            kind = update.WhichOneof("payload")
            if kind == "artifact_update":
                for part in update.artifact_update.artifact.parts:
                    if part.WhichOneof("content") == "text":
                        print(part.text, end="")
            else:
                told = update.task.status if kind == "task" else update.status_update.status
                state = told.state
                print(a2a.TaskState.Name(state), file=sys.stderr)
    return 0 if state == a2a.TASK_STATE_COMPLETED else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(run(sys.argv[1:])))
