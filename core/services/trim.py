"""Trimming: the log forgets aggregates that have ended, are old, recorded, under a signed head and backed up.

The store is never trimmed. What the trim may reach is remembered before the log loses anything.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn

from msgspec import Struct
from msgspec.structs import replace

from core.kernel.codec import Codec, Undecodable
from core.kernel.errors import HivebusError, Refused, Unavailable, Unprocessable
from core.kernel.ports import CareStore, Clock, LastCommit, LogUpkeep, Store, Trim
from core.kernel.registry import Registry
from core.services.comparison import SEARCH_MAX
from core.services.heads import Heads

logger = logging.getLogger("hivebus.trim")

CHUNK_MAX = 500
PURGES_MAX = 16
PAGE_MAX = 1000
UNCHANGED = "command.unchanged"
_AGE = re.compile(r"(\d{1,6})([smhd])").fullmatch
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class TrimOrder(Struct, frozen=True, forbid_unknown_fields=True):
    """Trim what ended before `older`: a number and s, m, h or d.

    `dry_run` only counts. Without a backup that covers it nothing is trimmed unless `without_backup` says so.
    """

    older: str
    dry_run: bool = False
    without_backup: bool = False


class TrimState(Struct, frozen=True, kw_only=True):
    """The last trim of this run of the program.

    `state` is never, running, done or failed. Positions up to `limit` are reached, `limited_by` says by what it is
    bounded. `examined` subjects of the log were looked at; `subjects` of them with `commits` entries were (or, dry,
    would be) purged. Bytes are those of the entries in the log.
    """

    state: str = "never"
    dry_run: bool = False
    limit: int = 0
    limited_by: str = ""
    examined: int = 0
    subjects: int = 0
    commits: int = 0
    bytes_before: int | None = None
    bytes_after: int | None = None
    seconds: float = 0.0
    problem: str | None = None


class _Ordered(Struct, frozen=True):
    order: TrimOrder
    actor: str


class Trimmer:
    """One trim at a time. `start` answers at once; `run` does the work."""

    def __init__(
        self,
        log: LogUpkeep,
        store: Store,
        kept: CareStore,
        heads: Heads,
        codec: Codec,
        registry: Registry,
        clock: Clock,
        *,
        folded: Callable[[], int],
        budgets: Callable[[], int],
        backed_up: Callable[[], int | None],
        whole: Callable[[], bool],
        on_purged: Callable[[str], None],
    ) -> None:
        """`folded`: how far every fold of the log is. `budgets`: up to where these need no task.

        `backed_up`: the newest backup's position, None without one. `whole`: whether log and store are known to hold
        one history. `on_purged` hears each subject.
        """
        self.state = TrimState()
        self._log = log
        self._store = store
        self._kept = kept
        self._heads = heads
        self._codec = codec
        self._final = {spec.name for spec in registry.event_specs.values() if spec.final}
        self._clock = clock
        self._folded = folded
        self._budgets = budgets
        self._backed_up = backed_up
        self._whole = whole
        self._on_purged = on_purged
        self._ordered: _Ordered | None = None
        self._wake = asyncio.Event()

    def start(self, order: TrimOrder, actor: str) -> TrimState:
        """Begin. Raises Unprocessable for an age that is none, Refused while one runs or where no backup is."""
        age_ms(order.older)
        if self.state.state == "running":
            raise Refused("A trim runs already.", code="trim_runs", remedy="Look how far it is: GET /api/log/trim.")
        if self._backed_up() is None and not order.without_backup:
            raise Refused(
                "There is no backup of this program's data, so nothing is trimmed.",
                code="no_backup",
                remedy="Run `hivebus backup FILE` first, or say --without-backup: the store keeps every commit.",
            )
        self._ordered = _Ordered(order, actor)
        self.state = TrimState(state="running", dry_run=order.dry_run)
        self._wake.set()
        return self.state

    async def run(self) -> NoReturn:
        """Do what is ordered, for ever. What goes wrong ends the trim, not the program: it can be ordered again."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._ordered is None:
                continue
            ordered, began = self._ordered, self._clock.monotonic()
            try:
                await self._trim(ordered)
                self._say(state="done", seconds=round(self._clock.monotonic() - began, 3))
            except HivebusError as error:
                logger.warning("The trim ended early: %s", error.sentence)
                self._say(state="failed", problem=error.sentence)

    async def _trim(self, ordered: _Ordered) -> None:
        order = ordered.order
        limit, limited_by = await self._limit(order)
        self._say(limit=limit, limited_by=limited_by, bytes_before=await self._log.size())
        if not order.dry_run:
            await self._kept.add_trim(Trim(trimmed_to=limit, at_ms=self._clock.now_ms(), actor=ordered.actor))
        offset = 0
        while page := await self._log.subjects(offset=offset):
            purged = 0
            for chunk in _chunks(list(page)):
                ended = await self._ended(chunk, limit)
                purged += len(ended)
                await self._purge(ended, page, dry=order.dry_run)
                self._say(examined=self.state.examined + len(chunk))
            # What was purged no longer stands before the next page.
            offset += len(page) - (0 if order.dry_run else purged)
        self._say(bytes_after=await self._log.size())
        logger.info(
            "%s %d subjects with %d commits up to position %d.",
            "A trim would purge" if order.dry_run else "The log was trimmed of",
            self.state.subjects,
            self.state.commits,
            limit,
        )

    async def _limit(self, order: TrimOrder) -> tuple[int, str]:
        """(the last position that may go, what bounds it)."""
        head = await self._log.head()
        aged = await self._store.position_at(self._clock.now_ms() - age_ms(order.older))
        signed = await self._kept.newest_head()
        if signed is None or signed.size < aged:
            signed = await self._heads.sign()
        bounds = {
            "age": aged,
            "recorded": (await self._store.checkpoint()).position,
            "signed_head": signed.size,
            "folded": self._folded(),
            "budgets": self._budgets(),
            # By its newest entries a log is compared with its store, so they stay.
            "newest": max(0, head - SEARCH_MAX),
        }
        if not order.without_backup:
            bounds["backup"] = self._backed_up() or 0
        name = min(bounds, key=lambda bound: bounds[bound])
        return bounds[name], name

    async def _ended(self, subjects: Sequence[str], limit: int) -> list[LastCommit]:
        """Those that ended, and whose every commit lies at or before the limit."""
        last = await self._kept.last_commits(subjects)
        return [commit for commit in last if commit.position <= limit and await self._is_over(commit)]

    async def _is_over(self, last: LastCommit) -> bool:
        names = self._events_of(last.body)
        if names != {UNCHANGED}:
            return not names.isdisjoint(self._final)
        # Somebody asked again for what had already been done: what ended it stands further back.
        after = 0
        while page := await self._store.stream(last.subject, after=after, limit=PAGE_MAX):
            after = page[-1].entry.position
            for stored in page:
                if stored.parked is None and not self._events_of(stored.entry.body).isdisjoint(self._final):
                    return True
        return False

    def _events_of(self, body: bytes | None) -> set[str]:
        if body is None:
            return set()
        try:
            return {event.type for event in self._codec.body(body).events}
        except Undecodable:
            return set()

    async def _purge(self, ended: Sequence[LastCommit], counts: Mapping[str, int], *, dry: bool) -> None:
        if dry:
            commits = sum(counts.get(commit.subject, 0) for commit in ended)
            self._say(subjects=self.state.subjects + len(ended), commits=self.state.commits + commits)
            return
        for start in range(0, len(ended), PURGES_MAX):
            if not self._whole():
                raise Unavailable("The broker was lost; its log is compared first.", code="log_unavailable")
            batch = ended[start : start + PURGES_MAX]
            purged = await asyncio.gather(*(self._log.purge(last.subject, through=last.position) for last in batch))
            for last in batch:
                self._on_purged(last.subject)
            self._say(subjects=self.state.subjects + len(batch), commits=self.state.commits + sum(purged))

    def _say(self, **changes: object) -> None:
        self.state = replace(self.state, **changes)


def age_ms(text: str) -> int:
    """`30d`, `12h`, `45m` or `90s` in milliseconds. Raises Unprocessable for anything else."""
    match = _AGE(text)
    if match is None:
        raise Unprocessable(
            f"{text!r} is no age.", pointer="/older", remedy="Give a number and s, m, h or d, for example 30d."
        )
    return int(match[1]) * _UNITS_MS[match[2]]


def _chunks(subjects: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(subjects), CHUNK_MAX):
        yield subjects[start : start + CHUNK_MAX]
