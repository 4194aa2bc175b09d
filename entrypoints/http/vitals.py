"""What the program knows of its own state."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from entrypoints.http.readings import SocketCounts


class Vitals(Struct, kw_only=True):
    """What the program knows of its own state. `draining` turns readiness red from SIGTERM on.

    `waits` says for which database recording or the views wait; None where they go on. `broker_pid`: of the broker that
    this process started, if it did. `attempts` that run on its host, if it is one. `sockets` counts the WebSocket
    clients; None where this process serves none.
    """

    version: str
    started_ms: int
    slots: int
    draining: bool = False
    waits: Callable[[], str | None] = lambda: None
    broker_pid: Callable[[], int | None] = lambda: None
    sockets: Callable[[], SocketCounts] | None = None
    attempts: Callable[[], int | None] = lambda: None
