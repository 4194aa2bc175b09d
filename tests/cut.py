"""A wire that breaks at the worst moment: between a client and a server, at the message that commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

COMMIT = b"COMMIT;\x00"


class Wire:
    """Forwards bytes. Each planned cut strikes one COMMIT: `lost` drops it, `unanswered` drops the server's answer."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self.cuts: list[str] = []
        self.struck = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        back = asyncio.create_task(_copy(up_reader, writer))
        try:
            while data := await reader.read(65_536):
                if COMMIT in data and self.cuts:
                    self.struck += 1
                    if self.cuts.pop(0) == "lost":
                        break
                    back.cancel()
                    up_writer.write(data)
                    # The server's answer to it: read, so that it has happened, and given to nobody.
                    await up_reader.read(65_536)
                    break
                up_writer.write(data)
        except ConnectionError:
            pass
        finally:
            back.cancel()
            for stream in (writer, up_writer):
                stream.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
    except ConnectionError:
        pass
    writer.close()


@asynccontextmanager
async def wire_to(port: int) -> AsyncIterator[Wire]:
    """A wire to a port of this machine, on a port of its own."""
    wire = Wire(port)
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
