"""Brings a connection back: from one second doubling, with jitter, to a bound, for as long as somebody has patience."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable

from core.kernel.errors import HivebusError
from entrypoints.cli.failures import Failure
from entrypoints.cli.place import Place
from entrypoints.client.connection import OPEN_S, Connection, in_our_words
from entrypoints.client.problems import Unreachable

logger = logging.getLogger("hivebus.client")

PAUSE_FIRST_S = 1.0
PAUSE_MAX_S = 30.0


class Pauses:
    """1, 2, 4, ... 30 s, each shortened by up to a half: a restarted server is not met by all at the same moment."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw
        self._pause_s = PAUSE_FIRST_S

    def next(self) -> float:
        """How long to wait before the next try, in seconds."""
        pause_s = self._pause_s
        self._pause_s = min(pause_s * 2, PAUSE_MAX_S)
        return pause_s * (1 - self._draw() / 2)

    def start_again(self) -> None:
        """After a success."""
        self._pause_s = PAUSE_FIRST_S


class Connector:
    """One living connection at a time, opened when somebody needs it.

    A server that never answered is not running, and the first need fails after `patience_first_s`; one that did answer
    is being restarted, and is given `patience_s`.
    """

    def __init__(
        self,
        place: Callable[[], Place],
        *,
        patience_s: float,
        patience_first_s: float,
        draw: Callable[[], float],
        met: bool = False,
    ) -> None:
        self._place = place
        self._patience_s = patience_s
        self._patience_first_s = patience_first_s
        self._pauses = Pauses(draw)
        self._turn = asyncio.Lock()
        self._connection: Connection | None = None
        self._not_before = 0.0
        self._met = met
        self._why: HivebusError | None = None
        self._closed = False

    def deadline(self) -> float:
        """Until when, in the loop's time, to wait for a server that is away from now on."""
        patience_s = self._patience_s if self._met else self._patience_first_s
        return asyncio.get_running_loop().time() + patience_s

    async def connection(self, until: float) -> Connection:
        """A living connection. Raises Unreachable after `until`, and whatever else the server says to a newcomer."""
        try:
            async with asyncio.timeout_at(None if until == math.inf else until + OPEN_S), self._turn:
                if self._connection is None or not self._connection.alive:
                    await self.let_go()
                    self._connection = await self._open(until)
                return self._connection
        except TimeoutError:
            raise self._why or Unreachable("No server answers.", remedy="Is it running?") from None

    async def lost(self, connection: Connection) -> None:
        """Somebody met the end of this connection: the next try comes after a pause."""
        if connection is self._connection:
            self._connection = None
            self._not_before = asyncio.get_running_loop().time() + self._pauses.next()
            await connection.close()

    @property
    def met(self) -> bool:
        """Whether a server ever answered."""
        return self._met

    async def close(self) -> None:
        """Let the connection go, for good."""
        self._closed = True
        await self.let_go()

    async def let_go(self) -> None:
        """Close the connection; the next need opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _open(self, until: float) -> Connection:
        clock = asyncio.get_running_loop().time
        while True:
            if self._closed:
                raise Unreachable("The bus is closed.", code="closed", remedy="Use it inside `async with`.")
            await asyncio.sleep(max(0.0, self._not_before - clock()))
            try:
                # Looked up each time: a server that came back may have another port.
                connection = await Connection.open(self._where())
            except Unreachable as error:
                if self._why is None and self._met:
                    logger.warning("%s Trying again.", error.sentence)
                self._why = error
                self._not_before = clock() + self._pauses.next()
                if self._not_before > until:
                    raise
                continue
            if self._why is not None:
                logger.warning("The server at %s answers.", connection.url)
            self._pauses.start_again()
            self._met, self._why = True, None
            return connection

    def _where(self) -> Place:
        try:
            return self._place()
        except Failure as failure:
            raise in_our_words(failure) from failure
