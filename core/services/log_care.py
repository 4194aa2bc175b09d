"""The care of the log: before anything is appended on a connection, log and store must hold one history.

A broker that comes back with an older copy of its log has lost its tail. What the store holds is put back, each commit
at its own position; what the store does not hold either is lost, and a process that has folded it ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

from msgspec import Struct

from core.kernel.commit import Entry
from core.kernel.errors import Unavailable
from core.kernel.merkle import leaf_hash
from core.kernel.ports import CareStore, Clock, LogGate, LogUpkeep, Store
from core.services.comparison import REMEDY, Comparison, Verdict, compare, refuse_unless_equal, sentence_of

logger = logging.getLogger("hivebus.log")

PAGE_MAX = 256
SAY_EVERY_S = 2.0
RETRY_S = 0.2
DRAIN_S = 10.0


class Picture(Struct, frozen=True):
    """What this process believes of the log: the newest position that it knows of, and the last entry it folded."""

    newest: int
    last: Entry | None = None


class CareState(Struct, frozen=True):
    """Where the care stands: equal, comparing, restoring (`restored` of `lost` are back), or the verdict that stops."""

    state: str = "comparing"
    restored: int = 0
    lost: int = 0
    problem: str | None = None


class LogCare:
    """Compares at the start and on every new connection; opens the gate when log and store hold one history."""

    def __init__(self, log: LogUpkeep, gate: LogGate, store: Store, kept: CareStore, clock: Clock) -> None:
        self.state = CareState()
        self._log = log
        self._gate = gate
        self._store = store
        self._kept = kept
        self._clock = clock
        self._connection = 0

    async def start(self) -> None:
        """Compare on the first connection. Raises StartRefused with both sides where they are two histories."""
        self._connection = await self._gate.next_connection(0)
        refuse_unless_equal(await self._one_history())
        self._pass()

    async def run(self, drained: Callable[[], Awaitable[None]], picture: Callable[[], Picture]) -> NoReturn:
        """Compare on every later connection, for ever.

        `drained` returns when all that the log has handed over is in the store: then the most can be put back. Two
        histories leave the gate shut and say so; the next connection is looked at again. Raises Unavailable (code
        `log_commits_lost`) when this process has folded what neither side holds: it must not go on with that.
        """
        while True:
            connection = await self._gate.next_connection(self._connection)
            try:
                await self._look(drained, picture)
            except Unavailable as error:
                if error.code == "log_commits_lost":
                    raise
                logger.warning("The log is not compared yet: %s", error.sentence)
                await self._clock.sleep(RETRY_S)
                continue
            self._connection = connection
            if self.state.problem is None:
                self._pass()

    async def compare(self) -> Comparison:
        """What log and store hold now; it changes nothing."""
        return await compare(self._log, self._store)

    async def _look(self, drained: Callable[[], Awaitable[None]], picture: Callable[[], Picture]) -> None:
        self.state = CareState()
        try:
            async with asyncio.timeout(DRAIN_S):
                await drained()
        except TimeoutError:
            logger.warning("The store did not take all that the log had given within %g s.", DRAIN_S)
        found = await self._one_history()
        if found.verdict is Verdict.EQUAL:
            await self._refuse_wrong_picture(picture(), found)
            return
        problem = sentence_of(found)
        logger.error("Nothing is appended any more. %s %s", problem, REMEDY)
        self.state = CareState(state=found.verdict, problem=problem)

    def _pass(self) -> None:
        self.state = CareState(state=Verdict.EQUAL, restored=self.state.restored, lost=self.state.lost)
        self._gate.open(self._connection)

    async def _one_history(self) -> Comparison:
        """Compare, and put a lost tail back."""
        found = await compare(self._log, self._store)
        if found.verdict is not Verdict.LOST_TAIL:
            return found
        await self._restore(found)
        return await compare(self._log, self._store)

    async def _restore(self, found: Comparison) -> None:
        logger.warning("%s They are put back from the store, each at its own position.", sentence_of(found))
        said = self._clock.monotonic()
        after = found.log_head
        while after < found.store_position:
            page = await self._store.read(after=after, limit=PAGE_MAX)
            await self._log.restore([stored.entry for stored in page])
            after = page[-1].entry.position
            restored = after - found.log_head
            self.state = CareState(state="restoring", restored=restored, lost=found.lost)
            if self._clock.monotonic() - said > SAY_EVERY_S:
                said = self._clock.monotonic()
                logger.warning("Put back %d of %d commits.", restored, found.lost)
        logger.warning("The log is whole again: %d commits are back at their positions.", found.lost)

    async def _refuse_wrong_picture(self, picture: Picture, found: Comparison) -> None:
        """Commits that were acknowledged and not recorded when the broker lost them can be restored by nobody."""
        head = max(found.log_head, found.store_position)
        if picture.newest <= head and await self._is_held(picture.last):
            return
        raise Unavailable(
            f"The broker lost commits that were acknowledged and not recorded yet: this program knows of position "
            f"{picture.newest}, and the log ends at {head}.",
            code="log_commits_lost",
            remedy="Start it again: it goes on with what the log and the store hold. Callers whose command is gone "
            "may send it again with the same idempotency key.",
        )

    async def _is_held(self, last: Entry | None) -> bool:
        if last is None:
            return True
        entry = await self._log.entry(last.position)
        if entry is None:
            return last.position <= await self._kept.trimmed_to()
        return _leaf(entry) == _leaf(last)


def _leaf(entry: Entry) -> bytes:
    return leaf_hash(entry.position, entry.subject, entry.body)
