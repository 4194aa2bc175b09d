"""One listener: a Sanic app on a socket, started when the program is ready, drained when it ends.

Sanic's own run modes close several apps badly (connections cut, whole grace times waited); this drives the undocumented
parts of `create_server` that its own workers use. sanic is pinned, and a test drains a server under load.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import Any

import psutil
from sanic import Sanic

from core.kernel.errors import StartRefused
from entrypoints.http.exchange import App, Call, Connection
from entrypoints.http.problems import Problems

BODY_MAX_BYTES = 1024 * 1024
BACKLOG = 512
IDLE_SWEEP_S = 0.02
LINGER_S = 0.3


class Listener:
    """A socket that is bound at once and answers from `serve` on."""

    def __init__(self, app: Sanic[Any, Any], sock: socket.socket) -> None:
        self.app = app
        self._sock = sock
        self._server: Any = None  # AsyncioServer, which carries no types
        app.ctx.draining = False

    @property
    def port(self) -> int:
        """The port that it is bound to."""
        return int(self._sock.getsockname()[1])

    async def prepare(self) -> None:
        """Make the server; nothing is answered yet."""
        server: Any = await self.app.create_server(
            sock=self._sock,
            protocol=Connection,
            backlog=BACKLOG,
            access_log=False,
            asyncio_server_kwargs={"start_serving": False},
        )
        self._server = server
        await server.startup()
        await server.before_start()

    async def serve(self) -> None:
        """Answer."""
        assert self._server is not None
        await self._server.start_serving()
        await self._server.after_start()

    async def drain(self, grace_s: float) -> int:
        """Take nothing new, let what is in flight finish, cut the rest after the grace; how many were cut."""
        server = self._server
        if server is None or server.server is None:
            self._sock.close()
            return 0
        self.app.ctx.draining = True
        server.server.close()
        clock = asyncio.get_running_loop().time
        began = clock()
        while server.connections and clock() - began < grace_s:
            # A client that keeps a connection may just be sending its next request; closed at once, that request would
            # be lost. In the linger it is answered, with `Connection: close`.
            if clock() - began >= LINGER_S:
                for connection in list(server.connections):
                    connection.close_if_idle()
            await asyncio.sleep(IDLE_SWEEP_S)
        left = list(server.connections)
        await server.before_stop()
        for connection in left:
            connection.abort()
        await server.after_stop()
        return len(left)


def make_app(name: str, *, first: bool) -> Sanic[Any, Any]:
    """An app without Sanic's own logging and signals. TouchUp may run once in a process: on the first app."""
    app = App(name, configure_logging=False, error_handler=Problems(), log_config=None, request_class=Call)
    app.config.REQUEST_MAX_SIZE = BODY_MAX_BYTES
    app.config.TOUCHUP = first
    app.config.MOTD = False
    app.config.ACCESS_LOG = False
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.KEEP_ALIVE_TIMEOUT = 75
    app.config.RESPONSE_TIMEOUT = 60
    app.config.REQUEST_TIMEOUT = 60
    return app


def bind(address: str, port: int, setting: str) -> socket.socket:
    """A listening address, taken. Raises StartRefused that names who holds it and which setting chooses another."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((address, port))
        # Bound without listening, a second program could still bind beside us: listen takes the port for good.
        sock.listen(BACKLOG)
    except (OSError, UnicodeError) as error:
        sock.close()
        if isinstance(error, socket.gaierror | UnicodeError) or error.errno == errno.EADDRNOTAVAIL:
            raise StartRefused(
                f"{address!r} is no address of this machine.", remedy="Correct HIVEBUS_BIND, or unset it."
            ) from None
        other = port + 1 if 0 < port < 65535 else 0
        raise StartRefused(
            f"Port {port} cannot be taken: {error.strerror}{_holder(port)}.",
            remedy=f"Stop that program, or choose another port: {setting}={other} hivebus up",
        ) from None
    sock.setblocking(False)
    return sock


def _holder(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                if connection.pid is None:
                    break
                return f"; {psutil.Process(connection.pid).name()} (pid {connection.pid}) holds it"
    return ""
