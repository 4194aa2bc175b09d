import asyncio
import time
from collections.abc import Callable
from itertools import count

from adapters.jetstream.wire import WireClient


class Proxy:
    """A wire between a client and the broker that can lose what passes, and be cut."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.loses_answers = False
        self.loses_requests = False

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        self._writers += [writer, up_writer]
        await asyncio.gather(
            self._pump(reader, up_writer, lambda: self.loses_requests),
            self._pump(up_reader, writer, lambda: self.loses_answers),
        )

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, loses: Callable[[], bool]
    ) -> None:
        try:
            while data := await reader.read(65536):
                if not loses():
                    writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()


class AckLosingClient(WireClient):
    """A connection on which the first answer to a batch is lost, and every fourth after it; all else arrives."""

    def __init__(self, *, tls_only: bool = False) -> None:
        super().__init__(tls_only=tls_only)
        self.lost = 0
        self._batches = count()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        if b'"batch":' in data and b'"count":' in data and next(self._batches) % 4 == 0:
            self.lost += 1
            # The broker is not silent: only this answer was lost.
            self.heard_at = time.monotonic()
            return
        await super()._process_msg(sid, subject, reply, data, headers)
