"""The yardstick of POST: a bare Sanic handler that awaits js.publish, and nothing else."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import nats
import uvloop
from sanic import Request, Sanic, json

from adapters.jetstream.server import EmbeddedServer


async def main(port: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        broker = EmbeddedServer(Path(folder), profile="fast")
        await broker.start()
        client = await nats.connect(broker.url, user=broker.user, password=broker.password)
        js = client.jetstream()
        await js.add_stream(name="BARE", subjects=["bare.>"])
        app: Sanic = Sanic("bare", configure_logging=False)
        app.config.ACCESS_LOG = False
        count = 0

        @app.post("/api/tasks")
        async def publish(request: Request):  # type: ignore[no-untyped-def]
            nonlocal count
            count += 1
            request.json  # noqa: B018 - parsed, as any handler would
            ack = await js.publish(f"bare.{count}", request.body)
            return json({"position": ack.seq}, status=202)

        server = await app.create_server(host="127.0.0.1", port=port, return_asyncio_server=True, access_log=False)
        await server.startup()
        await server.before_start()
        await server.start_serving()
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await client.close()
        await broker.stop()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
