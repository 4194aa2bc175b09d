"""The yardstick of the fan-out: a loop that writes one shared frame to every transport, and nothing else.

Lines on stdin: `SIZE PER_S SECONDS` writes frames of SIZE bytes so often for so long, and answers `done`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import sys
from typing import ClassVar

import uvloop

from entrypoints.websocket.frames import text_frame

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Bare(asyncio.Protocol):
    transports: ClassVar[set[asyncio.Transport]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.open = False

    def data_received(self, data: bytes) -> None:
        if self.open:
            return
        self.open = True
        key = data.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        self.transport.write(text_frame(b'{"jsonrpc":"2.0","id":"s","result":{"subscription_id":"x","position":1}}'))
        self.transports.add(self.transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.transports.discard(self.transport)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Bare, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode().split():
        size, per_s, seconds = int(line[0]), float(line[1]), float(line[2])
        head = b'{"jsonrpc":"2.0","method":"events/batch","params":"'
        frame = text_frame(head + b"x" * max(0, size - len(head) - 2) + b'"}')
        until = loop.time() + seconds
        while loop.time() < until:
            for transport in Bare.transports:
                transport.write(frame)
            await asyncio.sleep(1 / per_s)
        print("done", flush=True)


if __name__ == "__main__":
    uvloop.run(main())
